# SPDX-License-Identifier: Apache-2.0
"""The runner of a solver that chooses its own steps; see `scoresde_fast.loop.table_runner` for the other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from scoresde_fast.devices import choose_capture
from scoresde_fast.flow.control import Tolerances
from scoresde_fast.flow.drift import Drift, TimeCurves
from scoresde_fast.flow.errors import IntegrationError
from scoresde_fast.flow.gotta_go_fast import GottaGoFast
from scoresde_fast.flow.integrate import Integrator, OnAttempt, Solution
from scoresde_fast.flow.options import AdaptiveOptions
from scoresde_fast.loop.capture import GraphCapture
from scoresde_fast.loop.evaluate import evaluator
from scoresde_fast.loop.fallback import out_of_memory
from scoresde_fast.loop.lanes import in_lane
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.runner import prior
from scoresde_fast.loop.table_runner import program_for
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.precision import arithmetic, choose_precision
from scoresde_fast.run_options import RunOptions
from scoresde_fast.sdes import CLDSDE, ScalarSDE
from scoresde_fast.solvers import find_solver
from scoresde_fast.solvers.table import StepTable

PROGRESS = 1000
"""Parts of the way that progress is told in: how many evaluations there will be is not known."""


class AdaptiveRunner:
    """Runs "rk45" or "ggf", every sample with steps of its own; see `Runner`.

    Args:
        model: on its device, in evaluation mode; its network may be replaced or changed between two runs.
        options: the solver and its tolerances, complete: see `AdaptiveOptions.on`.
        device: the model's.
        run: precision ("auto" is fp32), capture of a step, strictness, backend and run seed.

    Raises:
        ValueError: the device lacks the precision, or cannot capture; or a tolerance is out of its range.
        RuntimeError: the backend cannot run here; says why.
    """

    nfe = None
    through_network = False

    def __init__(self, model: ScoreFunction, options: AdaptiveOptions, device: torch.device, run: RunOptions) -> None:
        self.device = device
        self.precision = choose_precision("fp32" if run.precision == "auto" else run.precision, device)
        self.batch_dependent = options.error_norm == "batch"
        self._model, self._run = model, run
        self._backends = StepBackends.choose(device, run.backend)
        self._evaluations: dict[int, int] = {}
        # Numbers, which `AdaptiveOptions.on` has put there.
        assert options.eps is not None and options.rtol is not None and options.atol is not None
        self._flow, self._eps = options.solver == "rk45", options.eps
        self._tolerances = Tolerances(options.rtol, options.atol, options.error_norm)
        self._graphs = GraphCapture(model, device, wanted=choose_capture(run.capture, device))
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
        if self.device.type == "cpu":
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
        self._drift = Drift(self._model, eps, self.precision, flow=self._flow, device=self.device)
        if self._flow:
            self._solver = Integrator(self._flat_slope, sde.T, eps, self._tolerances, capture=capture)
            return
        assert isinstance(sde, ScalarSDE)
        diffusion = TimeCurves(lambda t: sde.diffusion(t)[None], eps, sde.T, self.device)
        self._solver = GottaGoFast(
            self._drift, diffusion, sde.T, eps, self._tolerances, run_seed=self._run.run_seed,
            noise_backend=self._backends.affine_step, capture=capture,
        )  # fmt: skip

    def release(self) -> None:
        """Give back what is held on the device."""
        self._drift = self._solver = self._denoise = None
        self._graphs.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def size_for(self, batch: int, full: int) -> int:
        """A step that is captured has one size for all batches; else any is taken as it is."""
        return full if self._graphs.wanted else 0

    def prepare(self, batch: int) -> None:
        """Nothing: a batch is made ready as it runs."""

    @torch.inference_mode()
    def run(self, seeds: Sequence[int], on_step: OnStep | None = None) -> Tensor:
        """States (len(seeds), *state_shape) of the seeds, run as one batch.

        Raises:
            IntegrationError: NaN or infinity, or tolerances that cannot be met; holds what was reached.
        """
        x, noise = prior(self._model, self._run, seeds, self.device)

        def on_attempt(share: float) -> None:
            assert on_step is not None
            on_step(int(PROGRESS * share), PROGRESS)

        with arithmetic(self.precision, self.device, strict=self._run.strict):
            solution = self._solve(x.double(), noise.sample_ids, on_step and on_attempt)
            states = solution.y.view(x.shape).float()
            if self._finish is not None:
                assert self._denoise is not None
                states = self._denoise.run(states, noise)
        last = int(self._finish is not None)
        counts = zip(seeds, solution.evaluations.tolist(), strict=True)
        self._evaluations.update({seed: count + last for seed, count in counts})
        return states

    def evaluations(self, seeds: Sequence[int]) -> list[int]:
        """Network evaluations that each seed's run has cost; ValueError where one has not been run."""
        if missing := [seed for seed in seeds if seed not in self._evaluations]:
            raise ValueError(f"the image of seed {missing[0]} has not been drawn, so what it costs is not known")
        return [self._evaluations[seed] for seed in seeds]

    @torch.inference_mode()
    def fits(self, batch: int) -> bool:
        """Whether an evaluation of that many images fits in memory; what was made ready is given back."""
        self.release()
        self.refresh()
        assert self._drift is not None
        x = torch.zeros(batch, *self._model.state_shape, device=self.device, dtype=torch.float64)
        try:
            with arithmetic(self.precision, self.device, strict=self._run.strict):
                self._drift.slope(x, torch.ones(batch, dtype=torch.float64, device=self.device))
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
        return program_for(self._model, StepTable.of([finish(sde, eps, eps)]), self.device)
