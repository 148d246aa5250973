# SPDX-License-Identifier: Apache-2.0
"""The sampler: a model and a solver, made ready once, then asked for images by seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from scoresde_fast import __version__
from scoresde_fast.adaptive import ADAPTIVE, AdaptiveEngine, AdaptiveOptions
from scoresde_fast.devices import Auto, choose_capture, choose_compile, usable_device
from scoresde_fast.errors import unknown
from scoresde_fast.fingerprint import describe_model, shape_sha256
from scoresde_fast.loop.condition import Conditions, as_conditions, bind_all, describe_all
from scoresde_fast.loop.engine import Engine, program_for
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise, check_seed, require_sequence
from scoresde_fast.ode.control import ErrorNorm
from scoresde_fast.ops.langevin_step import LangevinNorm
from scoresde_fast.precision import Precision, choose_precision
from scoresde_fast.sampler.batch_fit import SPARE, largest_batch, remembered_batch, require_batch_size
from scoresde_fast.sampler.batches import Batches, BatchTooLargeError
from scoresde_fast.sampler.options import adaptive_options, solver_options
from scoresde_fast.solvers import Interval, SolverOptions, build_table

CPU_BATCH = 64
"""What batch_size="auto" is on a CPU, which gains nothing from larger ones."""


class Sampler:
    """Draws images from a model.  A seed always gives the same noise, whatever the batch it is in.

    Options left at None are the model's own: those of its configuration, or predictor-corrector with 1000 steps.

    Args:
        model: any `ScoreFunction`; it is moved to ``device`` and put in evaluation mode.
        solver: "pc", or a solver's name ("euler_maruyama", "reverse_diffusion", "ancestral", and the fast ones: "ddim",
            "deis", "ipndm", "dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_3s", "unipc", "sa", "heun"; on
            CLD "sscs", "euler_maruyama", "gddim"); or one that chooses its own steps: "rk45", the probability flow's,
            and "ggf" ("gotta go fast"), the reverse SDE's, not on CLD.
        steps: steps of the solver.
        corrector: "langevin", "ald" or "none"; on CLD "ald" alone.
        corrector_steps: corrector steps before each predictor step.
        snr: signal-to-noise ratio of the corrector.
        grid: "uniform" (as published), "quadratic", "sqrt", "karras" or "logsnr".
        order: of a solver that has several ("unipc", "sa": 1 to 3; "deis", "ipndm": 2 to 4; "gddim": 1 to 4).
        flow: solve the probability-flow ODE instead of the reverse SDE.
        denoise: leave out the noise of the last step; of fast solvers and on CLD the last step is one without noise,
            from eps to the data.
        eps: time at which to stop.
        parity: do what the original program does where that departs from the paper ("sscs" with a changing beta).
        eta: the noise of "ddim", "sa", "dpmpp_2m_sde" and "gddim", as a share of that of the reverse SDE.
        churn: of "heun": how much noise it adds over the steps together and takes away again.
        restart: intervals (t_min, t_max, times, steps) in which the run goes back to noise and forth again.
        rtol, atol: tolerances of "rk45" (usually 1e-5 both) and "ggf" (0.02, and one level of 8 bits).
        error_norm: of "rk45", "sample": each sample has steps of its own; "batch": all go by the batch's error, as the
            original does, so that a sample depends on its batch.
        condition: what samples are held to (`scoresde_fast.Projection`), or several that act one after the other; not
            by "rk45" and "ggf".
        langevin_norm: "sample": the corrector's step is set by each sample's own norms; "batch": by the batch's, as
            published, so that a sample depends on its batch.
        run_seed: seed of the whole run, 0 to 2^64 - 1: another one gives other images for the same seeds.
        device: where to sample.
        batch_size: images at once; "auto": the most that fit on the GPU, found by trial once and remembered; on a CPU
            64.
        precision: what the network computes in: "fp32", "tf32" (a GPU), "bf16" or "fp16"; "auto": bf16 on a GPU that
            has it, else fp32.  State, coefficients and noise are float32 in any case.
        compile: whether the network is compiled by `torch.compile`; "auto": on a GPU.  Where a condition takes the
            network's gradient (`scoresde_fast.PiGDM`, `scoresde_fast.DPS`) it is not: what inductor makes of the
            gradient was found to be wrong.
        capture: whether the loop is captured as CUDA graphs; "auto": on a GPU.
        strict: a seed's image is the same to the last bit whatever the batch size, the other seeds and the CPU threads:
            every network evaluation has one fixed batch size, each seed its own place in it.
        backend: what makes noise and steps: "auto" (the fastest that is there), "triton", "cuda", "cpu" or "reference";
            None takes the environment variable SCORESDE_FAST_BACKEND, else "auto".

    A network that cannot be folded, compiled or captured runs without, with one warning where that was asked for.
    Weights that change after a run are seen by the next one.

    Raises:
        ValueError: an option is unknown or out of range, does not fit the model's SDE or the device, or the device is
            not there.
        RuntimeError: the backend cannot run here; says why.
        TypeError: ``model`` is no model.
    """

    def __init__(
        self,
        model: ScoreFunction,
        solver: str | None = None,
        steps: int | None = None,
        *,
        corrector: str | None = None,
        corrector_steps: int | None = None,
        snr: float | None = None,
        grid: str | None = None,
        order: int | None = None,
        flow: bool | None = None,
        denoise: bool | None = None,
        eps: float | None = None,
        parity: bool = False,
        eta: float | None = None,
        churn: float | None = None,
        restart: tuple[Interval, ...] | None = None,
        rtol: float | None = None,
        atol: float | None = None,
        error_norm: ErrorNorm | None = None,
        condition: Conditions = None,
        langevin_norm: LangevinNorm = "sample",
        run_seed: int = 0,
        device: torch.device | str = "cpu",
        batch_size: int | Auto = 64,
        precision: Precision = "auto",
        compile: bool | Auto = "auto",
        capture: bool | Auto = "auto",
        strict: bool = False,
        backend: str | None = None,
    ) -> None:
        if not isinstance(model, ScoreFunction):
            raise TypeError(f"model is {model!r}; give a model, for example scoresde_fast.load('digits-vp')")
        if langevin_norm not in get_args(LangevinNorm):
            raise ValueError(unknown("langevin_norm", langevin_norm, get_args(LangevinNorm)))
        if strict and langevin_norm == "batch":
            raise ValueError(
                "strict=True cannot keep langevin_norm='batch', by which an image depends on its batch: "
                "choose langevin_norm='sample'"
            )
        if batch_size != "auto":
            require_batch_size(batch_size)
        chosen = {
            "solver": solver,
            "steps": steps,
            "corrector": corrector,
            "corrector_steps": corrector_steps,
            "snr": snr,
            "grid": grid,
            "order": order,
            "flow": flow,
            "denoise": denoise,
            "eps": eps,
            "eta": eta,
            "churn": churn,
            "restart": restart,
            "rtol": rtol,
            "atol": atol,
            "error_norm": error_norm,
            "parity": parity or None,
        }
        options = adaptive_options if solver in ADAPTIVE else solver_options
        self.options: SolverOptions | AdaptiveOptions = options(model, chosen)
        self.device = usable_device(device)
        self.model = model.to(self.device).eval()
        self.conditions = as_conditions(condition)
        self.langevin_norm: LangevinNorm = langevin_norm
        self.run_seed = run_seed
        self.backend = backend
        self.strict = strict
        self.step_backends = StepBackends.choose(self.device, backend)
        resolved = choose_precision("fp32" if precision == "auto" and self._adaptive else precision, self.device)
        captured = choose_capture(capture, self.device)
        if isinstance(self.options, AdaptiveOptions):
            if self.conditions:
                raise ValueError(
                    f"solver {self.options.solver!r} takes no condition; choose one of fixed steps, as 'pc'"
                )
            self.engine: Engine | AdaptiveEngine = AdaptiveEngine(
                self.model, self.options, self.device, precision=resolved, captured=captured, strict=strict,
                run_seed=run_seed, backends=self.step_backends,
            )  # fmt: skip
        else:
            self.table = build_table(model.sde, self.options)
            self.program = program_for(self.model, self.table, self.device)
            with torch.inference_mode(False):  # the caller may be in it, and gradients pass through what is made here
                bound = bind_all(self.conditions, self.model, self.table, self.options, self.device, backend)
            if compile is True and bound.through_network:
                warnings.warn(
                    "the network's gradient, which a condition takes, is not compiled; compile=False says that this is "
                    "meant",
                    RuntimeWarning,
                    stacklevel=2,
                )
            loop = partial(Loop, self.program, backends=self.step_backends, run_seed=run_seed, conditions=bound)
            self.engine = Engine(
                self.model,
                partial(loop, langevin_norm=self.langevin_norm),
                self.program.labels,
                model.state_shape,
                bound,
                precision=resolved,
                precision_asked=precision != "auto",
                compiled=choose_compile(compile, self.device) and not bound.through_network,
                captured=captured,
                strict=strict,
            )
        self.batch_size = self._fitting_batch() if batch_size == "auto" else batch_size
        self._batches = Batches(
            self.engine, self._run, model.image_shape, self.device, strict=strict, whole=self.batch_dependent
        )

    @property
    def _adaptive(self) -> bool:
        return isinstance(self.options, AdaptiveOptions)

    @property
    def nfe(self) -> int | None:
        """Network evaluations an image costs; None by "rk45" and "ggf", which find it out: see `evaluations`."""
        return None if self._adaptive else self.table.nfe

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Network evaluations that the image of each seed cost.

        Raises:
            ValueError: by "rk45" and "ggf", which find it out as they go, the image of a seed has not been drawn yet.
        """
        if not isinstance(self.engine, AdaptiveEngine):
            return [self.table.nfe] * len(seeds)
        if missing := [seed for seed in seeds if seed not in self.engine.evaluations]:
            raise ValueError(f"the image of seed {missing[0]} has not been drawn, so what it costs is not known")
        return [self.engine.evaluations[seed] for seed in seeds]

    @property
    def batch_dependent(self) -> bool:
        """Whether an image depends on the others of its batch."""
        if isinstance(self.options, AdaptiveOptions):
            return self.options.tolerances.norm == "batch"
        return self.langevin_norm == "batch" and any(row.langevin is not None for row in self.table.rows)

    def describe(self) -> dict[str, Any]:
        """Everything that decides the pixels, as plain values."""
        return {
            "model": describe_model(self.model),
            **asdict(self.options),
            "langevin_norm": self.langevin_norm,
            "run_seed": self.run_seed,
            "precision": self.engine.precision,
            "strict": self.strict,
            **describe_all(self.conditions),
        }

    @overload
    def sample(
        self, seeds: Sequence[int], on_step: OnStep | None = None, *, return_velocity: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def sample(
        self, seeds: Sequence[int], on_step: OnStep | None = None, *, return_velocity: bool
    ) -> Tensor | tuple[Tensor, Tensor]: ...

    def sample(
        self, seeds: Sequence[int], on_step: OnStep | None = None, *, return_velocity: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Images of the seeds, in their order: (len(seeds), C, H, W) float32 in [0, 1]; points as they are.

        With ``return_velocity`` of a CLD model also the velocities, shaped alike, in the units of the SDE.

        Raises:
            ValueError: there is no velocity on the model's SDE.  The errors of `stream` otherwise.
        """
        if return_velocity and self.model.sde.parts == 1:
            raise ValueError(
                f"return_velocity=True: states on the SDE {self.model.sde.name!r} have no velocity, which is CLD's; "
                "leave it out"
            )
        batches = [states for _, states in self._states(seeds, self.batch_size, on_step)]
        states = torch.cat(batches) if batches else torch.empty(0, *self.model.state_shape)
        images = self._images(states)
        return (images, states.chunk(2, dim=1)[1]) if return_velocity else images

    def stream(
        self, seeds: Sequence[int], batch_size: int | None = None, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of (seeds, images (B, C, H, W) float32 in [0, 1]) on the sampler's device, in the order of the seeds.

        ``on_step`` is called with (evaluations done, evaluations in all) of the batch at work.

        Raises:
            ValueError: ``seeds`` is no list or range, or one is not a whole number from 0 to 2^63 - 1.
            NonFiniteError: the network returned NaN or infinity; names the step and the time.
            IntegrationError: the same by "rk45" and "ggf", or their tolerances cannot be met; holds what was reached.
            BatchTooLargeError: the batch does not fit in memory; says what does.
        """
        for batch, states in self._states(seeds, self.batch_size if batch_size is None else batch_size, on_step):
            yield batch, self._images(states)

    def _states(
        self, seeds: Sequence[int], batch_size: int, on_step: OnStep | None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of seeds and states at the end of their runs."""
        require_batch_size(batch_size)
        require_sequence(seeds)
        for condition in self.conditions:
            condition.require_seeds(seeds)
        for start in range(0, len(seeds), batch_size):
            batch = [check_seed(seed) for seed in seeds[start : start + batch_size]]
            yield batch, self._batches.sample(batch, batch_size, on_step)

    def _images(self, states: Tensor) -> Tensor:
        return self.model.to_images(states.chunk(self.model.sde.parts, dim=1)[0])

    @torch.inference_mode()
    def _run(self, seeds: Sequence[int], on_step: OnStep | None) -> Tensor:
        """States of the seeds, run as one batch."""
        noise = Noise(self.run_seed, torch.tensor(seeds, dtype=torch.int64, device=self.device), self.backend)
        prior = self.model.prior(noise.normal(0, self.model.state_shape))
        return self.engine.run(prior, noise, on_step)

    def _fitting_batch(self) -> int:
        """The most images that fit on a GPU, less a little."""
        if self.device.type != "cuda":
            return CPU_BATCH
        gpu = torch.cuda.get_device_properties(self.device)
        key = {
            "device": gpu.name,
            "memory": gpu.total_memory,
            "network": shape_sha256(self.model),
            "image_shape": self.model.image_shape,
            "precision": self.engine.precision,
            "gradient": isinstance(self.engine, Engine) and self.engine.through_network,
            "versions": [__version__, torch.__version__],
        }
        most = remembered_batch(key, lambda: largest_batch(self.engine.fits))
        if most == 0:
            raise BatchTooLargeError(f"not even one image of this model fits in the memory of {self.device}")
        return max(1, most - most // SPARE)
