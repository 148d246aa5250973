# SPDX-License-Identifier: Apache-2.0
"""Graph capture of adaptive solvers and of the probability flow: checks, replays, and the fallback to eager steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.flow.adaptive import AdaptiveRunner
from scoresde_fast.flow.codes import Decoder
from scoresde_fast.flow.likelihood import LikelihoodEstimator
from scoresde_fast.flow.options import AdaptiveOptions, ProbeKind, Probes
from scoresde_fast.flow.probability_flow import ProbabilityFlow
from scoresde_fast.loop import capture
from scoresde_fast.loop.capture_safety import require_capturable
from scoresde_fast.mixture import ExactScore
from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops import checks
from scoresde_fast.run_options import RunOptions
from scoresde_fast.sdes import VPSDE
from tests.support.flow_models import SDES, small_network
from tests.support.recorded_graphs import RecordedGraphs

MakeRun = Callable[[ScoreFunction, bool], Callable[[], Tensor]]
"""``run = make_run(model, captured)``; ``run()`` returns the results of two batches, with or without graphs."""

LOOSE: dict[str, Any] = {
    "rtol": 0.1,
    "atol": 0.1,
    "strict": False,
}  # strict batches run in other threads on a CPU, unlike on a GPU
DEVICE = torch.device("meta")


def point_model(network: nn.Module) -> ScoreFunction:
    """Return a model of points with four elements."""
    return ScoreFunction(network, ExactScore(VPSDE()), (1, 2, 2), None)


def on_meta(sde: str) -> ScoreFunction:
    """Return a small network on the device "meta"."""
    return small_network(sde, centered=False).eval().to(DEVICE)


class CheckedError(Exception):
    """Raised after a check, because a step on the device "meta" has no values."""


@pytest.fixture
def checking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check a step instead of capturing it, then raise `CheckedError`."""

    def check(self: capture.GraphCapture, step: capture.Step) -> capture.Step:
        require_capturable(step, DEVICE)
        raise CheckedError

    monkeypatch.setattr(capture.GraphCapture, "step", check)


@torch.inference_mode()
def adaptive_step(model: ScoreFunction, solver: str) -> None:
    """Attempt the first step of a solver for two samples."""
    options = AdaptiveOptions(solver, denoise=False).on(model.sde)
    runner = AdaptiveRunner(model, options, DEVICE, RunOptions())
    runner._graphs.wanted = True
    runner.release()
    runner.refresh()
    x = torch.zeros(2, *model.state_shape, dtype=torch.float64, device=DEVICE)
    runner.solve(x, [0, 0])


@pytest.mark.same_everywhere
@pytest.mark.parametrize("solver", ["rk45", "ggf"])
@pytest.mark.parametrize("sde", SDES)
def test_a_step_of_an_adaptive_solver_can_be_captured(checking: None, sde: str, solver: str) -> None:
    """On the device "meta", a step has no host reads, no copies and no data-dependent shapes, and is repeatable."""
    if (sde, solver) == ("cld", "ggf"):
        pytest.skip("ggf is not defined on CLD")
    with pytest.raises(CheckedError):
        adaptive_step(on_meta(sde), solver)


@pytest.mark.same_everywhere
@pytest.mark.parametrize(
    ("sde", "probes", "steps"),
    [
        ("vpsde", None, None),
        ("cld", None, 5),
        ("vesde", Probes("rademacher", 2), None),
        ("subvpsde", Probes("normal", 2), 5),
        ("cld", Probes("rademacher", 2), None),
        ("vpsde", Probes("exact"), None),
    ],
    ids=str,
)
def test_a_step_of_the_flow_can_be_captured(
    checking: None, monkeypatch: pytest.MonkeyPatch, sde: str, probes: Probes | None, steps: int | None
) -> None:
    """Steps to the data can be captured, and steps to the prior with the divergence by each kind of probe."""
    model = on_meta(sde)
    flow = ProbabilityFlow(model, to_data=probes is None, probes=probes, device=DEVICE, steps=steps)
    monkeypatch.setattr(flow._graphs, "wanted", True)
    with pytest.raises(CheckedError):
        flow.run(torch.zeros(2, *model.state_shape, dtype=torch.float64), [0, 1])


@pytest.mark.same_everywhere
@pytest.mark.parametrize("solver", ["rk45", "ggf", "flow"])
def test_a_network_without_weights_runs_on_the_device(checking: None, solver: str) -> None:
    """A network without weights has no device; its step uses the device of the states."""
    model = point_model(Scaled(1.0))
    with pytest.raises(CheckedError):
        if solver == "flow":
            flow = ProbabilityFlow(model, to_data=False, probes=Probes(), device=DEVICE)
            flow._graphs.wanted = True
            flow.run(torch.zeros(2, 1, 2, 2, dtype=torch.float64), [0, 1])
        else:
            adaptive_step(model, solver)


def sampler_run(solver: str) -> MakeRun:
    def make_run(model: ScoreFunction, captured: bool) -> Callable[[], Tensor]:
        sampler = sf.Sampler(model, solver, **LOOSE)
        assert isinstance(sampler.runner, AdaptiveRunner)
        sampler.runner._graphs.wanted = captured
        sampler.runner.release()
        return lambda: torch.cat([sampler.sample([1, 2]), sampler.sample([5, 4])])

    return make_run


def decoder_run(model: ScoreFunction, captured: bool) -> Callable[[], Tensor]:
    decoder = Decoder(model, **LOOSE)
    decoder.flow._graphs.wanted = captured
    codes = torch.randn(4, *model.state_shape, generator=torch.Generator().manual_seed(0))
    return lambda: torch.cat([decoder.decode(half) for half in codes.split(2)])


def likelihood_run(probe: ProbeKind) -> MakeRun:
    def make_run(model: ScoreFunction, captured: bool) -> Callable[[], Tensor]:
        estimator = LikelihoodEstimator(model, probe=probe, dequantize=False, **LOOSE)
        estimator.flow._graphs.wanted = captured
        data = torch.rand(4, *model.image_shape, generator=torch.Generator().manual_seed(0))
        return lambda: torch.cat([estimator.estimate(half).log_density for half in data.split(2)])

    return make_run


RUNS: dict[str, MakeRun] = {
    **{solver: sampler_run(solver) for solver in ("rk45", "ggf")},
    "decode": decoder_run,
    **{f"likelihood-{probe}": likelihood_run(probe) for probe in ("rademacher", "normal")},
}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> RecordedGraphs:
    """Record steps on a CPU in place of CUDA graphs."""
    graphs = RecordedGraphs()
    monkeypatch.setattr(capture, "CudaGraphs", lambda device: graphs)
    monkeypatch.setattr(checks, "require_row", lambda *_: None)  # on a CPU it reads the counter on the host
    return graphs


@pytest.mark.parametrize("make_run", RUNS.values(), ids=RUNS.keys())
def test_a_replayed_step_gives_the_same_result(graphs: RecordedGraphs, make_run: MakeRun) -> None:
    """Two batches of one size share a graph, and its replays give the results of eager steps."""
    model = small_network("vpsde", centered=True)
    torch.testing.assert_close(make_run(model, True)(), make_run(model, False)(), rtol=0, atol=1e-6)
    assert graphs.captured == 1 and graphs.replayed > 1


class Scaled(nn.Module):
    """A multiple of the state: the score of a centred normal distribution, up to a factor."""

    def __init__(self, weight: Tensor | float) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Map (B, ...) and (B,) to (B, ...)."""
        return self.weight * x


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "captured"])
@pytest.mark.parametrize("make_run", RUNS.values(), ids=RUNS.keys())
def test_a_changed_network_is_used(graphs: RecordedGraphs, make_run: MakeRun, captured: bool) -> None:
    """Runs use a weight that was changed in place, a weight that was replaced, and a network that was replaced."""
    network = Scaled(nn.Parameter(torch.tensor(1.0)))
    model = point_model(network)
    run = make_run(model, captured)
    results = [run()]
    with torch.no_grad():
        next(network.parameters()).add_(0.2)
    results.append(run())
    network.load_state_dict({"weight": torch.tensor(1.4)}, assign=True)
    results.append(run())
    model.network = Scaled(nn.Parameter(torch.tensor(1.6)))
    results.append(run())
    for weight, result in zip((1.0, 1.2, 1.4, 1.6), results, strict=True):
        expected = make_run(point_model(Scaled(nn.Parameter(torch.tensor(weight)))), False)()
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)
    assert len({float(result.double().sum()) for result in results}) == 4


class HostReading(nn.Module):
    """A network that reads the time on the host, which a graph cannot capture."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the score of a centred normal distribution, up to a factor."""
        return x if labels[0].item() > 0 else 2 * x


@pytest.mark.parametrize("make_run", RUNS.values(), ids=RUNS.keys())
def test_a_step_that_cannot_be_captured_runs_eagerly(graphs: RecordedGraphs, make_run: MakeRun) -> None:
    """One warning names the operation, its line and the option that silences it; results are those of eager steps."""
    model = point_model(HostReading())
    with pytest.warns(RuntimeWarning, match="HostReading cannot be captured as a CUDA graph") as caught:
        result = make_run(model, True)()
    assert torch.equal(result, make_run(model, False)())
    message = str(caught[0].message)
    assert len(caught) == 1 and caught[0].filename == __file__ and graphs.captured == 0
    assert "_local_scalar_dense.default reads a tensor on the host" in message
    assert "test_probability_flow_capture.py" in message and "capture=False" in message
