# SPDX-License-Identifier: Apache-2.0
"""The sampler: a model and a solver, made ready once, then asked for images by seed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, Literal, overload

import torch
from torch import Tensor

from scoresde_fast import __version__
from scoresde_fast.adaptive.engine import AdaptiveEngine
from scoresde_fast.adaptive.options import AdaptiveOptions
from scoresde_fast.devices import choose_capture, choose_compile, usable_device
from scoresde_fast.fingerprint import describe_model, shape_sha256
from scoresde_fast.loop.condition import Conditions, as_conditions, bind_all, describe_all
from scoresde_fast.loop.engine import Engine, program_for
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise, check_seed, require_sequence
from scoresde_fast.precision import choose_precision
from scoresde_fast.run_options import require_batch_size
from scoresde_fast.sampler.batch_fit import SPARE, largest_batch, remembered_batch
from scoresde_fast.sampler.batches import Batches, BatchTooLargeError
from scoresde_fast.sampler.options import accepting_options, solver_options, split_options
from scoresde_fast.solvers import SolverOptions, build_table

CPU_BATCH = 64
"""What batch_size="auto" is on a CPU, which gains nothing from larger ones."""


class Sampler:
    """Draws images from a model.  A seed always gives the same noise, whatever the batch it is in.

    Options that are left out are the model's own: those of its configuration, or predictor-corrector with 1000 steps.

    Args:
        model: any `ScoreFunction`; it is moved to the device and put in evaluation mode.
        solver: a solver's name, or all of its options as one object, `SolverOptions` or `AdaptiveOptions`.
        steps: of the solver.
        condition: what samples are held to (`scoresde_fast.Projection`) or guided by (`scoresde_fast.PiGDM`), or
            several that act one after the other; not by "rk45" and "ggf", which choose their own steps.
        options: those of `SolverOptions`, or for "rk45" and "ggf" of `AdaptiveOptions`, and those of `RunOptions`.

    A network that cannot be folded, compiled or captured runs without, with one warning where that was asked for.
    Weights that change after a run are seen by the next one.

    Raises:
        ValueError: an option is unknown or out of range, does not fit the model's SDE or the device, or the device is
            not there.
        RuntimeError: the backend cannot run here; says why.
        TypeError: ``model`` is no model, or there is no option of a name.
    """

    @accepting_options
    def __init__(
        self,
        model: ScoreFunction,
        solver: str | SolverOptions | AdaptiveOptions | None = None,
        steps: int | None = None,
        *,
        condition: Conditions = None,
        **options: Any,
    ) -> None:
        if not isinstance(model, ScoreFunction):
            raise TypeError(f"model is {model!r}; give a model, for example scoresde_fast.load('digits-vp')")
        given, self.run_options = split_options({"solver": solver, "steps": steps, **options})
        run = self.run_options
        self.options = solver_options(model, given)
        self.device = usable_device(run.device)
        self.model = model.to(self.device).eval()
        self.conditions = as_conditions(condition)
        self.step_backends = StepBackends.choose(self.device, run.backend)
        self.engine = self._adaptive_engine() if self._adaptive else self._table_engine()
        if run.strict and self.batch_dependent and not self._adaptive:
            raise ValueError(
                "strict=True cannot keep langevin_norm='batch', by which an image depends on its batch: "
                "choose langevin_norm='sample'"
            )
        self.batch_size = self._fitting_batch() if run.batch_size == "auto" else run.batch_size
        self._batches = Batches(
            self.engine, self._run, model.image_shape, self.device, strict=run.strict, whole=self.batch_dependent
        )

    def _adaptive_engine(self) -> AdaptiveEngine:
        run, options = self.run_options, self.options
        assert isinstance(options, AdaptiveOptions)
        if self.conditions:
            raise ValueError(f"solver {options.solver!r} takes no condition; choose one of fixed steps, as 'pc'")
        return AdaptiveEngine(
            self.model,
            options,
            self.device,
            precision=choose_precision("fp32" if run.precision == "auto" else run.precision, self.device),
            captured=choose_capture(run.capture, self.device),
            strict=run.strict,
            run_seed=run.run_seed,
            backends=self.step_backends,
        )

    def _table_engine(self) -> Engine:
        run, options = self.run_options, self.options
        assert isinstance(options, SolverOptions)
        self.table = build_table(self.model.sde, options)
        self.program = program_for(self.model, self.table, self.device)
        with torch.inference_mode(False):  # the caller may be in it, and gradients pass through what is made here
            bound = bind_all(self.conditions, self.model, self.table, options, self.device, run.backend)
        if run.compile is True and bound.through_network:
            warnings.warn(
                "the network's gradient, which a condition takes, is not compiled; compile=False says that this is "
                "meant",
                RuntimeWarning,
                stacklevel=3,
            )
        loop = partial(
            Loop, self.program, backends=self.step_backends, run_seed=run.run_seed, conditions=bound,
            langevin_norm=options.langevin_norm,
        )  # fmt: skip
        return Engine(
            self.model,
            loop,
            self.program.labels,
            self.model.state_shape,
            bound,
            precision=choose_precision(run.precision, self.device),
            precision_asked=run.precision != "auto",
            compiled=choose_compile(run.compile, self.device) and not bound.through_network,
            captured=choose_capture(run.capture, self.device),
            strict=run.strict,
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
            return self.options.error_norm == "batch"
        return self.options.langevin_norm == "batch" and any(row.langevin is not None for row in self.table.rows)

    def describe(self) -> dict[str, Any]:
        """Everything that decides the pixels, as plain values."""
        return {
            "model": describe_model(self.model),
            **asdict(self.options),
            "run_seed": self.run_options.run_seed,
            "precision": self.engine.precision,
            "strict": self.run_options.strict,
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
        run, ids = self.run_options, torch.tensor(seeds, dtype=torch.int64, device=self.device)
        noise = Noise(run.run_seed, ids, run.backend)
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
