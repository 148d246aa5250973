# SPDX-License-Identifier: Apache-2.0
"""Peers on time grids: candidates of the comparison, and cases for studies with an exact score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
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
from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers import GRIDS, TimeGrid, make_grid
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, time_of

EXTRA = "pip install 'scoresde-fast[peers]'"
NEEDED = {
    diffusers.LIBRARY: ("diffusers", "scipy", "torchsde"),
    k_diffusion.LIBRARY: ("k_diffusion", "scipy", "torchsde", "torchdiffeq", "torchvision"),
}
"""Packages that each library's solvers import."""


def beta(ratios: Array, fraction: Array) -> Array:
    """Quantiles of Beta(0.6, 0.6) between the largest and the smallest ratio (Lee et al. 2024)."""
    from scipy.stats import beta as distribution

    return ratios[1] + distribution.ppf(1 - fraction, 0.6, 0.6) * (ratios[0] - ratios[1])


def flow(ratios: Array, fraction: Array) -> Array:
    """Evenly spaced in s / (1 + s), the time of a rectified flow."""
    first, last = ratios / (1 + ratios)
    u = first + (last - first) * fraction
    return u / (1 - u)


PEER_GRIDS = {"beta": beta, "flow": flow}
"""Grids that only other libraries have. Their Karras and exponential grids are ``karras`` and ``logsnr``."""


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
    grids: Sequence[str] = (*GRIDS, *PEER_GRIDS),
    eps: float | None = None,
) -> Iterator[PeerCase]:
    """Yield every peer on every grid, with as many steps as ``evaluations`` allow; denoising is not counted.

    Run them with `scoresde_fast.bench.peers.predictions.ModelPredictions`, in float64 for an exact score.

    Args:
        sde: the noise schedule.
        evaluations: network evaluations of a run.
        peers: the peers; by default the deterministic ones of all installed libraries.
        grids: names of the grids.
        eps: time at which to stop; by default that of the SDE.
    """
    if peers is None:
        peers = [peer for peer in all_peers() if peer.deterministic]
    schedules = cache(partial(_schedule, sde, eps=eps))
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
    """Return a sentence on each library that is not installed."""
    notes = []
    for library in NEEDED:
        if absent := missing(library):
            command = EXTRA if absent != ["k_diffusion"] else "pip install --no-deps k-diffusion"
            notes.append(f"{library} does not take part, because {' and '.join(absent)} is missing: {command}.")
    return notes


def library_versions() -> dict[str, str]:
    """Return the version of each installed library."""
    return {library: metadata.version(library) for library in NEEDED if not missing(library)}


@cache
def all_peers() -> tuple[Peer, ...]:
    """Return the peers of all installed libraries.

    Raises:
        MissingPackageError: no library is installed.
    """
    modules = {diffusers.LIBRARY: diffusers, k_diffusion.LIBRARY: k_diffusion}
    found = tuple(peer for library, module in modules.items() if not missing(library) for peer in module.peers())
    if not found:
        raise MissingPackageError(f"--peers needs diffusers or k-diffusion to be installed: {EXTRA}")
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
    grids = options.grids or ((*GRIDS, *PEER_GRIDS) if options.variants else (suited,))
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


def prepare(model: ScoreFunction, options: ComparisonOptions, peer: Peer, grid: str, budget: int) -> Prepared:
    """Prepare a peer with as many steps as the budget allows, and one evaluation for denoising at eps.

    Raises:
        ValueError: the solver cannot run with these steps, or within the budget.
    """
    trained = model.at_trained_times()
    sde = trained.sde
    assert isinstance(sde, ScalarSDE)
    guided = NetworkInputs(guidance=options.guidance)

    def case_of(steps: int) -> tuple[PeerCase, Trace, Array, int]:
        case = PeerCase(peer, grid, _schedule(sde, grid, steps))
        trace = Trace.of(peer, case.schedule)
        times = np.append(time_at(sde, np.array(trace.ratios), case.schedule), case.schedule.times[-1])
        return case, trace, times, evaluation_program(trained, times, "cpu", guided).nfe

    steps = min(peer.steps_within(budget - 1), most_steps(sde) // peer.multiple * peer.multiple)
    while steps > 0:
        case, trace, times, nfe = case_of(steps)
        if nfe <= budget:
            break
        steps = min(steps - 1, steps * budget // nfe) // peer.multiple * peer.multiple
    if steps <= 0:
        least = peer.evaluations(peer.multiple) + 1
        raise ValueError(f"the budget is too small: the shortest run takes {least}")
    if smaller := [other for other in options.budgets if nfe <= other < budget]:
        raise ValueError(f"the {nfe} evaluations of the longest run also fit the budget {min(smaller)}")
    return _prepared(trained, options, case, trace, times, nfe)


def _prepared(
    model: ScoreFunction, options: ComparisonOptions, case: PeerCase, trace: Trace, times: Array, nfe: int
) -> Prepared:
    batch_size, precision = options.batch_size or 64, options.precision

    @cache
    def network() -> NetworkPredictions:
        device = torch.device(options.device)
        on_device = model.to(device)
        inputs = NetworkInputs.bind(options.inputs, options.guidance, on_device, device)
        return NetworkPredictions(on_device, times, inputs, precision)

    def states(seeds: Sequence[int], denoise: bool) -> Tensor:
        with network().run(seeds) as ids:
            x = model.prior(Noise(0, ids).normal(0, model.state_shape))
            x = case.end(network(), x, seed=seeds[0])
            if denoise:
                x = network().denoised(x / float(case.schedule.scale[-1]))
            if not x.isfinite().all():
                raise NonFiniteError(f"{case.peer} gave NaN or infinity")
            return x

    def draw(seeds: Sequence[int]) -> SampleBatch:
        batches = []
        with tqdm(total=len(seeds), unit=" samples", disable=len(seeds) <= batch_size or None, leave=False,
                  delay=BAR_AFTER) as bar:  # fmt: skip
            for start in range(0, len(seeds), batch_size):
                batch = seeds[start : start + batch_size]
                batches.append(model.to_images(states(batch, denoise=True)))
                bar.update(len(batch))
        return SampleBatch(torch.cat(batches), nfe)

    def warm_up(batch: int) -> None:
        network()
        if torch.device(options.device).type == "cuda":
            states(range(batch), denoise=True)

    def flow_end(seeds: Sequence[int]) -> Tensor:
        batches = [seeds[start : start + batch_size] for start in range(0, len(seeds), batch_size)]
        return torch.cat([states(batch, denoise=False) for batch in batches])

    return Prepared(nfe, trace.digest, draw, warm_up, case.steps, flow_end if case.peer.deterministic else None)
