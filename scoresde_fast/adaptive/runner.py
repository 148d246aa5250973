# SPDX-License-Identifier: Apache-2.0
"""The engine of a sampler whose solver chooses its own steps; see `scoresde_fast.loop.engine.Engine` for the other."""

from __future__ import annotations

import torch
from torch import Tensor

from scoresde_fast.adaptive.gotta_go_fast import GottaGoFast
from scoresde_fast.adaptive.options import AdaptiveOptions
from scoresde_fast.flow import Drift, TimeCurves
from scoresde_fast.loop.capture import GraphCapture
from scoresde_fast.loop.engine import program_for
from scoresde_fast.loop.evaluate import evaluator
from scoresde_fast.loop.fallback import out_of_memory
from scoresde_fast.loop.lanes import in_lane
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.ode import IntegrationError, Integrator, Solution, Tolerances
from scoresde_fast.ode.integrate import OnAttempt
from scoresde_fast.precision import Precision, arithmetic
from scoresde_fast.sdes import CLDSDE, ScalarSDE
from scoresde_fast.solvers import find_solver
from scoresde_fast.solvers.table import StepTable

PROGRESS = 1000
"""Parts of the way that progress is told in: how many evaluations there will be is not known."""


class AdaptiveEngine:
    """Runs one batch after another from the prior to the data, and counts the evaluations of each sample.

    `refresh` comes before a run.

    Args:
        model: on its device, in evaluation mode; its network may be replaced or changed between two runs.
        options: the solver and its tolerances, complete: see `AdaptiveOptions.on`.
        precision: what the network computes in.
        captured: capture a step as a CUDA graph; the device is a GPU.
        strict: see `arithmetic`.
        run_seed: of the noise.
        backends: what makes noise and the last step.
    """

    def __init__(
        self,
        model: ScoreFunction,
        options: AdaptiveOptions,
        device: torch.device,
        *,
        precision: Precision,
        captured: bool,
        strict: bool,
        run_seed: int,
        backends: StepBackends,
    ) -> None:
        self.precision: Precision = precision
        self.evaluations: dict[int, int] = {}
        self._model, self._device = model, device
        # Numbers, which `AdaptiveOptions.on` has put there.
        assert options.eps is not None and options.rtol is not None and options.atol is not None
        self._flow, self._eps = options.solver == "rk45", options.eps
        self._tolerances = Tolerances(options.rtol, options.atol, options.error_norm)
        self._strict, self._run_seed, self._backends = strict, run_seed, backends
        self._graphs = GraphCapture(model, device, wanted=captured)
        self._finish = self._last_row() if options.denoise else None
        self._denoise: Loop | None = None
        self._drift: Drift | None = None
        self._solver: Integrator | GottaGoFast | None = None
        self.refresh()

    def refresh(self) -> None:
        """Make everything anew where the network has changed."""
        if self._drift is not None and not self._drift.stale():
            return
        self.release()
        # What a network is folded to may depend on the number of threads, in its last bits; so it has one.
        if self._device.type == "cpu":
            in_lane(self._make)
        else:
            self._make()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _make(self) -> None:
        sde, eps = self._model.sde, self._eps
        capture = self._graphs.step if self._graphs.wanted else None
        if self._finish is not None:
            network = evaluator(self._model.network, self._finish.labels, self.precision)
            self._denoise = Loop(self._finish, network, self._backends)
        self._drift = Drift(self._model, eps, self.precision, flow=self._flow, device=self._device)
        if self._flow:
            self._solver = Integrator(self._flat_slope, sde.T, eps, self._tolerances, capture=capture)
            return
        assert isinstance(sde, ScalarSDE)
        diffusion = TimeCurves(lambda t: sde.diffusion(t)[None], eps, sde.T, self._device)
        self._solver = GottaGoFast(
            self._drift, diffusion, sde.T, eps, self._tolerances, run_seed=self._run_seed,
            noise_backend=self._backends.affine_step, capture=capture,
        )  # fmt: skip

    def release(self) -> None:
        """Give back what is held on the device."""
        self._drift = self._solver = self._denoise = None
        self._graphs.release()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def size_for(self, batch: int, full: int) -> int:
        """A step that is captured has one size for all batches; else any is taken as it is."""
        return full if self._graphs.wanted else 0

    def prepare(self, batch: int) -> None:
        """Nothing: a batch is made ready as it runs."""

    @torch.inference_mode()
    def run(self, x: Tensor, noise: Noise, on_step: OnStep | None = None) -> Tensor:
        """The data that a run makes of ``x`` (B, C, H, W).

        Raises:
            IntegrationError: NaN or infinity, or tolerances that cannot be met; holds what was reached.
        """

        def on_attempt(share: float) -> None:
            assert on_step is not None
            on_step(int(PROGRESS * share), PROGRESS)

        with arithmetic(self.precision, self._device, strict=self._strict):
            solution = self._solve(x.double(), noise.sample_ids, on_step and on_attempt)
            states = solution.y.view(x.shape).float()
            if self._finish is not None:
                assert self._denoise is not None
                states = self._denoise.run(states, noise)
        last = int(self._finish is not None)
        counts = zip(noise.sample_ids.tolist(), solution.evaluations.tolist(), strict=True)
        self.evaluations.update({seed: count + last for seed, count in counts})
        return states

    @torch.inference_mode()
    def fits(self, batch: int) -> bool:
        """Whether an evaluation of that many images fits in memory; what was made ready is given back."""
        self.release()
        self.refresh()
        assert self._drift is not None
        x = torch.zeros(batch, *self._model.state_shape, device=self._device, dtype=torch.float64)
        try:
            with arithmetic(self.precision, self._device, strict=self._strict):
                self._drift.slope(x, torch.ones(batch, dtype=torch.float64, device=self._device))
        except Exception as error:
            if not out_of_memory(error):
                raise
            return False
        finally:
            self.release()
        return True

    def _solve(self, x: Tensor, sample_ids: Tensor, on_attempt: OnAttempt | None) -> Solution:
        assert self._solver is not None
        try:
            if isinstance(self._solver, GottaGoFast):
                return self._solver.solve(x, sample_ids, on_attempt)
            return self._solver.solve(x.flatten(1), on_attempt)
        except IntegrationError as error:
            raise error.named(sample_ids.tolist()) from None

    def _flat_slope(self, y: Tensor, t: Tensor) -> Tensor:
        assert self._drift is not None
        return self._drift.slope(y.view(len(y), *self._model.state_shape), t).flatten(1)

    def _last_row(self) -> Program:
        """The denoising."""
        sde, eps = self._model.sde, self._eps
        finish = find_solver("em" if isinstance(sde, CLDSDE) else "ddim", sde).finish
        assert finish is not None
        return program_for(self._model, StepTable.of([finish(sde, eps, eps)]), self._device)
