# SPDX-License-Identifier: Apache-2.0
"""The sampler: a model and a solver, made ready once, then asked for images by seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, get_args

import torch
from torch import Tensor

from scoresde_fast.errors import unknown
from scoresde_fast.lanes import OnStep, lane_count, run_in_lanes
from scoresde_fast.loop import StepBackends, run
from scoresde_fast.model import ScoreFunction, ScoreModel
from scoresde_fast.noise import Noise
from scoresde_fast.ops.langevin_step import LangevinNorm
from scoresde_fast.program import Program
from scoresde_fast.solvers import SolverOptions, build_table


class Sampler:
    """Draws images from a model.  A seed always gives the same noise, whatever the batch it is in.

    Options left at None are the model's own: those of its configuration, or predictor-corrector with 1000 steps.

    Args:
        model: any `ScoreFunction`; it is moved to ``device`` and put in evaluation mode.
        solver: "pc", or the name of a predictor ("euler_maruyama", "reverse_diffusion", "ancestral").
        steps: steps of the predictor.
        corrector: "langevin", "ald" or "none".
        corrector_steps: corrector steps before each predictor step.
        snr: signal-to-noise ratio of the corrector.
        grid: "uniform" (as published), "quadratic" or "karras".
        flow: solve the probability-flow ODE instead of the reverse SDE.
        denoise: leave out the noise of the last step.
        eps: time at which to stop.
        langevin_norm: "sample": the corrector's step is set by each sample's own norms; "batch": by the batch's, as
            published, so that a sample depends on its batch.
        run_seed: seed of the whole run, 0 to 2^64 - 1: another one gives other images for the same seeds.
        device: where to sample.
        batch_size: images at once.
        backend: what makes noise and steps: "auto" (the fastest that is there), "triton", "cuda", "cpu" or "reference";
            None takes the environment variable SCORESDE_FAST_BACKEND, else "auto".

    Raises:
        ValueError: an option is unknown or out of range, does not fit the model's SDE, or the device is not there.
        RuntimeError: the backend cannot run here; says why.
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
        grid: str = "uniform",
        flow: bool | None = None,
        denoise: bool | None = None,
        eps: float | None = None,
        langevin_norm: LangevinNorm = "sample",
        run_seed: int = 0,
        device: torch.device | str = "cpu",
        batch_size: int = 64,
        backend: str | None = None,
    ) -> None:
        if langevin_norm not in get_args(LangevinNorm):
            raise ValueError(unknown("langevin_norm", langevin_norm, get_args(LangevinNorm)))
        _require_batch_size(batch_size)
        chosen = {
            "solver": solver,
            "steps": steps,
            "corrector": corrector,
            "corrector_steps": corrector_steps,
            "snr": snr,
            "flow": flow,
            "denoise": denoise,
        }
        own = model_defaults(model)
        if solver is not None and corrector is None:
            del own["corrector"]  # the model's corrector belongs to the model's own predictor
        given = {name: value for name, value in chosen.items() if value is not None}
        self.options = SolverOptions(**{**own, **given, "grid": grid, "eps": eps})
        self.table = build_table(model.sde, self.options)
        self.device = usable_device(device)
        self.model = model.to(self.device).eval()
        self.langevin_norm: LangevinNorm = langevin_norm
        self.run_seed = run_seed
        self.batch_size = batch_size
        self.backend = backend
        self.step_backends = StepBackends.choose(self.device, backend)
        parametrisation, times = model.parametrisation, self.table.times
        self.program = Program.of(
            self.table, parametrisation.labels(times), parametrisation.output_scale(times), self.device
        )

    @property
    def nfe(self) -> int:
        """Network evaluations an image costs."""
        return self.table.nfe

    @property
    def batch_dependent(self) -> bool:
        """Whether an image depends on the others of its batch."""
        return self.langevin_norm == "batch" and any(row.langevin is not None for row in self.table.rows)

    def describe(self) -> dict[str, Any]:
        """Everything that decides the pixels, as plain values."""
        model = {
            "weights_sha256": weights_sha256(self.model),
            "config": self.model.config.to_dict() if isinstance(self.model, ScoreModel) else type(self.model).__name__,
        }
        options = asdict(self.options)
        return {"model": model, **options, "langevin_norm": self.langevin_norm, "run_seed": self.run_seed}

    def sample(self, seeds: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """Images of the seeds, in their order: (len(seeds), C, H, W) float32 in [0, 1]."""
        batches = [images for _, images in self.stream(seeds, on_step=on_step)]
        return torch.cat(batches) if batches else torch.empty(0, *self.model.image_shape)

    def stream(
        self, seeds: Sequence[int], batch_size: int | None = None, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Batches of (seeds, images (B, C, H, W) float32 in [0, 1]) on the sampler's device, in the order of the seeds.

        ``on_step`` is called with (evaluations done, evaluations in all) of the batch at work.

        Raises:
            ValueError: a seed is not an integer from 0 to 2^63 - 1.
            NonFiniteError: the network returned NaN or infinity; names the step and the time.
        """
        batch_size = self.batch_size if batch_size is None else batch_size
        _require_batch_size(batch_size)
        for start in range(0, len(seeds), batch_size):
            batch = list(seeds[start : start + batch_size])
            yield batch, self._sample_batch(batch, on_step)

    def _sample_batch(self, seeds: list[int], on_step: OnStep | None) -> Tensor:
        lanes = 1 if self.batch_dependent else lane_count(len(seeds), self.device)
        return self._run(seeds, on_step) if lanes == 1 else run_in_lanes(self._run, seeds, lanes, on_step)

    @torch.inference_mode()
    def _run(self, seeds: Sequence[int], on_step: OnStep | None) -> Tensor:
        noise = Noise(self.run_seed, torch.tensor(seeds, dtype=torch.int64, device=self.device), self.backend)
        prior = self.model.sde.prior_std * noise.normal(0, self.model.image_shape)
        x = run(
            self.program,
            self.model.network,
            prior,
            noise,
            langevin_norm=self.langevin_norm,
            backends=self.step_backends,
            on_step=on_step,
        )
        return self.model.to_images(x)


def sample(model: ScoreFunction, seeds: Sequence[int], **options: Any) -> Tensor:
    """Images of the seeds: (len(seeds), C, H, W) float32 in [0, 1].  ``options`` are those of `Sampler`."""
    return Sampler(model, **options).sample(seeds)


PREDICTORS = {
    "euler_maruyama": "euler_maruyama",
    "reverse_diffusion": "reverse_diffusion",
    "ancestral_sampling": "ancestral",
}


def model_defaults(model: ScoreFunction) -> dict[str, Any]:
    """The solver options that a model's configuration asks for; none where it has no configuration."""
    if not isinstance(model, ScoreModel):
        return {"corrector": None}
    sampling = model.config.sampling
    return {
        "solver": PREDICTORS.get(sampling.predictor, "reverse_diffusion"),
        "steps": sampling.steps or model.config.model.num_scales,
        "corrector": sampling.corrector,
        "corrector_steps": sampling.n_steps_each,
        "snr": sampling.snr,
        "flow": sampling.probability_flow,
        "denoise": sampling.noise_removal,
    }


def weights_sha256(model: torch.nn.Module) -> str:
    """SHA-256 of a model's weights and buffers, names and shapes included."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def usable_device(name: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        ValueError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        raise ValueError(f"device {str(name)!r} is not usable here; choose from: {', '.join(there)}") from error
    return device


def _require_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
