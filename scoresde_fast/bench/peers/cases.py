# SPDX-License-Identifier: Apache-2.0
"""Peers on time grids: candidates of the comparison, and cases for studies with an exact score."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from importlib import metadata
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from scoresde_fast.bench.candidates import (
    BAR_AFTER,
    Candidate,
    Case,
    ComparisonOptions,
    Prepared,
    Priority,
    SampleBatch,
    most_steps,
    suited_grid,
)
from scoresde_fast.bench.peers import diffusers, k_diffusion
from scoresde_fast.bench.peers.method import Peer, Predictions, Trace
from scoresde_fast.bench.peers.predictions import NetworkPredictions, evaluation_program, time_at
from scoresde_fast.errors import MissingPackageError
from scoresde_fast.loop.inputs import NetworkInputs
from scoresde_fast.loop.run_monitor import NonFiniteError
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import SDE, Array, ScalarSDE
from scoresde_fast.solvers import GRIDS, TimeGrid, grids_of, make_grid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, time_of
from scoresde_fast.solvers.spacings import beta_quantiles

EXTRA, ALONE = "pip install 'scoresde-fast[peers]'", "pip install --no-deps k-diffusion"
"""Commands that install diffusers and the dependencies of both, and k-diffusion without its dozen other ones."""
NEEDED = {
    diffusers.LIBRARY: ("diffusers", "scipy"),
    k_diffusion.LIBRARY: ("k_diffusion", "scipy", "torchsde", "torchdiffeq", "torchvision"),
}
"""Packages that each library's solvers import."""


def beta_sigmas(ratios: Array, fraction: Array) -> Array:
    """Quantiles of Beta(0.6, 0.6), scaled to s; the grid ``beta`` has them in t, as published (Lee et al. 2024)."""
    return ratios[0] + (ratios[1] - ratios[0]) * beta_quantiles(fraction)


def flow_sigmas(ratios: Array, fraction: Array) -> Array:
    """Evenly spaced in s / (1 + s), the time of a rectified flow."""
    first, last = ratios / (1 + ratios)
    u = first + (last - first) * fraction
    return u / (1 - u)


PEER_GRIDS: dict[str, Callable[[Array, Array], Array]] = {"beta_sigmas": beta_sigmas, "flow_sigmas": flow_sigmas}
"""Grids that only diffusers has, between the ratios s at T and eps. Its exponential grid and ``use_lu_lambdas`` are
``logsnr``."""


@dataclass(frozen=True)
class PeerCase:
    """A peer on a grid.

    Attributes:
        peer: the solver.
        grid: name of the grid.
        schedule: the noise schedule at its n + 1 edges.
    """

    peer: Peer
    grid: str
    schedule: NoiseSchedule

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.schedule.times) - 1

    @property
    def evaluations(self) -> int:
        """Network evaluations, without denoising."""
        return self.peer.evaluations(self.steps)

    def end(self, predictions: Predictions, x: Tensor, seed: int = 0) -> Tensor:
        """Return the states at eps of a run from states (B, ...) at T, without denoising."""
        scale = self.schedule.scale
        return self.peer(predictions, x / float(scale[0]), self.schedule, seed) * float(scale[-1])

    def __str__(self) -> str:
        return f"{self.peer}, {self.grid}, {self.steps} steps"


def peer_cases(
    sde: ScalarSDE,
    evaluations: int,
    *,
    peers: Sequence[Peer] | None = None,
    grids: Sequence[str] = (),
    eps: float | None = None,
) -> Iterator[PeerCase]:
    """Yield every peer on every grid, with as many steps as ``evaluations`` allow; denoising is not counted.

    Run them with `scoresde_fast.bench.peers.predictions.ModelPredictions`, in float64 for an exact score.

    Args:
        sde: the noise schedule.
        evaluations: network evaluations of a run.
        peers: the peers; by default the deterministic ones of all installed libraries.
        grids: names of the grids; by default all, with `PEER_GRIDS`.
        eps: time at which to stop; by default that of the SDE.
    """
    if peers is None:
        peers = [peer for peer in all_peers() if peer.deterministic]
    schedules = cache(partial(_schedule, sde, eps=eps))
    grids = grids or (*grids_of(sde), *PEER_GRIDS)
    for peer in peers:
        steps = peer.steps_within(evaluations)
        for grid in grids if peer.grid is None else (peer.grid,):
            if steps:
                yield PeerCase(peer, grid, schedules(grid, steps))


def _schedule(sde: ScalarSDE, name: str, steps: int, eps: float | None = None) -> NoiseSchedule:
    """Return the noise schedule at the edges of a grid of this package or of `PEER_GRIDS`."""
    stop = sde.sampling_eps if eps is None else eps
    if name in GRIDS:
        return NoiseSchedule.at(sde, make_grid(name, sde, steps, stop).edges)
    start = sde.T
    ratios = PEER_GRIDS[name](sde.noise_to_signal(np.array([start, stop])), np.linspace(0.0, 1.0, steps + 1))
    edges = time_of(sde, ratios, stop, start)
    edges[[0, -1]] = start, stop
    return NoiseSchedule.at(sde, TimeGrid.between(sde.trained_times(edges)).edges)


def missing(library: str) -> list[str]:
    """Return the packages that a library's solvers need and that are not installed."""
    return [package for package in NEEDED[library] if find_spec(package) is None]


def absence_notes() -> list[str]:
    """Return a sentence on each library, or part of one, that cannot run for lack of a package."""
    notes = []
    for library in NEEDED:
        if absent := missing(library):
            command = EXTRA if absent != ["k_diffusion"] else ALONE
            verb = "is" if len(absent) == 1 else "are"
            notes.append(f"{library} does not take part, because {', '.join(absent)} {verb} missing: {command}.")
    if not missing(diffusers.LIBRARY) and not diffusers.has_torchsde():
        solvers = " and ".join(diffusers.NEED_TORCHSDE)
        notes.append(f"{solvers} of diffusers do not take part, because torchsde is missing: {EXTRA}.")
    return notes


def library_versions() -> dict[str, str]:
    """Return the version of each installed library."""
    return {library: metadata.version(library) for library in NEEDED if not missing(library)}


def all_peers() -> tuple[Peer, ...]:
    """Return the peers of all installed libraries.

    Raises:
        MissingPackageError: no library is installed.
    """
    modules = {diffusers.LIBRARY: diffusers, k_diffusion.LIBRARY: k_diffusion}
    found = tuple(peer for library, module in modules.items() if not missing(library) for peer in module.peers())
    if not found:
        raise MissingPackageError(f"--peers needs diffusers or k-diffusion to be installed: {EXTRA}, then {ALONE}")
    return found


def peers(model: ScoreFunction, options: ComparisonOptions) -> Iterator[Candidate]:
    """Yield a candidate for each peer, grid and budget, if ``options.peers`` asks for them.

    Raises:
        ValueError: the SDE is not a scalar one.
        MissingPackageError: no library is installed.
    """
    if not options.peers:
        return
    sde = model.sde
    if not isinstance(sde, ScalarSDE):
        raise ValueError(f"no solver of another library runs on the SDE {sde.name!r}; leave out --peers")
    suited = suited_grid(sde)
    grids = options.grids or ((*grids_of(sde), *PEER_GRIDS) if options.variants else (suited,))
    if suited not in grids:
        suited = grids[0]
    for peer in all_peers():
        if not options.variants and not peer.default:
            continue
        for grid in grids if peer.grid is None else (peer.grid,):
            for budget in options.budgets:
                case = Case(
                    name=peer.name,
                    solver=peer.full_solver,
                    probability_flow=peer.deterministic,
                    order=peer.order,
                    grid=grid,
                    budget=budget,
                    options=peer.options,
                )
                if grid == suited or peer.grid is not None:
                    priority = Priority.DEFAULT if peer.default else Priority.OTHER_ORDER
                else:
                    priority = Priority.OTHER_GRID if peer.default else Priority.OTHER_GRID_AND_ORDER
                yield Candidate(case, priority, partial(prepare, model, options, peer, grid, budget))


class PlannedRun:
    """A run of a peer whose evaluations are known: ``steps`` steps to eps, and with ``denoise`` one evaluation there.

    Attributes:
        case: the peer on its grid.
        digest: hash of the method.
        nfe: network evaluations a sample; a guided one counts as two.
    """

    def __init__(
        self, model: ScoreFunction, options: ComparisonOptions, peer: Peer, grid: str, steps: int, *, denoise: bool
    ) -> None:
        assert isinstance(model.sde, ScalarSDE)
        self.model, self.options, self.denoise = model, options, denoise
        self.case = PeerCase(peer, grid, _schedule(model.sde, grid, steps))
        trace = Trace.of(peer, self.case.schedule)
        self.digest = trace.digest
        self._times = time_at(model.sde, np.array(trace.ratios), self.case.schedule)
        if denoise:
            self._times = np.append(self._times, self.case.schedule.times[-1])
        self.nfe = evaluation_program(model, self._times, "cpu", NetworkInputs(guidance=options.guidance)).nfe

    @cached_property
    def network(self) -> NetworkPredictions:
        """The inference network."""
        options, device = self.options, torch.device(self.options.device)
        model = self.model.to(device)
        inputs = NetworkInputs.bind(options.inputs, options.guidance, model, device)
        return NetworkPredictions(model, self._times, inputs, options.precision)

    def states(self, seeds: Sequence[int]) -> Tensor:
        """Return the final states of one batch.

        Raises:
            NonFiniteError: they are NaN or infinite.
        """
        with self.network.run(seeds) as ids:
            x = self.model.prior(Noise(0, ids).normal(0, self.model.state_shape))
            x = self.case.end(self.network, x, seed=seeds[0])
            if self.denoise:
                x = self.network.denoised(x / float(self.case.schedule.scale[-1]))
            if not x.isfinite().all():
                raise NonFiniteError(f"{self.case.peer} gave NaN or infinity")
            return x

    def images(self, seeds: Sequence[int]) -> Tensor:
        """Return the samples of seeds in batches, with a bar on a terminal if they take long."""
        batch_size = self.options.batch_size or len(seeds)
        batches, hide = [], len(seeds) <= batch_size or None
        with tqdm(total=len(seeds), unit=" samples", disable=hide, leave=False, delay=BAR_AFTER) as bar:
            for start in range(0, len(seeds), batch_size):
                batch = seeds[start : start + batch_size]
                batches.append(self.model.to_images(self.states(batch)))
                bar.update(len(batch))
        return torch.cat(batches)


def prepare(model: ScoreFunction, options: ComparisonOptions, peer: Peer, grid: str, budget: int) -> Prepared:
    """Prepare a peer with as many steps as the budget allows, and one evaluation for denoising at eps.

    As for solvers of this package, the error to the flow is that of a run that takes one more step instead.

    Raises:
        ValueError: the solver cannot run with these steps, or within the budget.
    """
    planned = _longest(partial(PlannedRun, model.at_trained_times(), options, peer, grid), peer, budget, model.sde)
    if smaller := [other for other in options.budgets if planned.nfe <= other < budget]:
        raise ValueError(f"the {planned.nfe} evaluations of the longest run also fit the budget {min(smaller)}")

    def draw(seeds: Sequence[int]) -> SampleBatch:
        return SampleBatch(planned.images(seeds), planned.nfe)

    def warm_up(batch: int) -> None:
        if planned.network.device.type == "cuda":
            planned.states(range(batch))

    steps = planned.case.steps + 1

    @cache
    def to_eps() -> PlannedRun:
        steps_to_eps = steps // peer.multiple * peer.multiple
        return PlannedRun(model.at_trained_times(), options, peer, grid, steps_to_eps, denoise=False)

    def flow_end(seeds: Sequence[int]) -> Tensor:
        return to_eps().images(seeds)

    return Prepared(planned.nfe, planned.digest, draw, warm_up, steps, flow_end if peer.deterministic else None)


def _longest(plan: Callable[..., PlannedRun], peer: Peer, budget: int, sde: SDE) -> PlannedRun:
    """Return the longest run within the budget; raises ValueError if none is."""
    most = min(peer.steps_within(budget - 1), (most_steps(sde) - 1) // peer.multiple * peer.multiple)
    steps, longest = most, None
    while longest is None:
        if steps < peer.shortest:
            least = peer.evaluations(peer.shortest) + 1
            raise ValueError(f"the budget is too small: the shortest run takes at least {least} evaluations")
        run = plan(steps, denoise=True)
        if run.nfe <= budget:
            longest = run
        else:  # guided evaluations count as two
            steps = min(steps - 1, steps * budget // run.nfe) // peer.multiple * peer.multiple
    while steps < most and (run := plan(steps + peer.multiple, denoise=True)).nfe <= budget:
        steps, longest = steps + peer.multiple, run
    return longest
