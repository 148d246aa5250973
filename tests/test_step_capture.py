# SPDX-License-Identifier: Apache-2.0
"""Steps of the adaptive solvers and of the probability flow, captured as graphs: checked, replayed, and given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from recorded_graphs import RecordedGraphs
from test_adaptive import tiny
from test_capture import SDE_OF, model_of
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.adaptive.engine import AdaptiveEngine
from scoresde_fast.adaptive.options import AdaptiveOptions
from scoresde_fast.latent import density
from scoresde_fast.latent.codes import Decoder
from scoresde_fast.latent.runner import FlowRunner, FlowSettings, Probes
from scoresde_fast.loop import capture
from scoresde_fast.loop.capture_safety import require_capturable
from scoresde_fast.loop.loop import StepBackends
from scoresde_fast.mixture import ExactScore
from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops import checks
from scoresde_fast.sdes import VPSDE

Run = Callable[[ScoreFunction, bool], Tensor]
"""``run(model, captured)``: numbers that a run makes, with or without graphs."""

LOOSE = {"rtol": 0.1, "atol": 0.1}
DEVICE = torch.device("meta")


class CheckedError(Exception):
    """Raised after a check, because a step on the device "meta" leads nowhere."""


@pytest.fixture
def checking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is checked in place of its capture, and ends there."""

    def step(self: capture.GraphCapture, step: capture.Step) -> capture.Step:
        require_capturable(step, DEVICE)
        raise CheckedError

    monkeypatch.setattr(capture.GraphCapture, "step", step)


@pytest.mark.same_everywhere
@pytest.mark.parametrize("solver", ["rk45", "ggf"])
@pytest.mark.parametrize("sde", SDE_OF)
def test_a_step_of_an_adaptive_solver_can_be_captured(checking: None, sde: str, solver: str) -> None:
    """On a device without data: no host read, no copy, no shape of data, the same operations twice."""
    if (sde, solver) == ("cld", "ggf"):
        pytest.skip("not defined")
    model = model_of(sde)
    options = AdaptiveOptions.of(solver, model.sde, denoise=False, eps=None, chosen={})
    engine = AdaptiveEngine(
        model, options, DEVICE, precision="fp32", captured=True, strict=False, run_seed=0,
        backends=StepBackends.choose(DEVICE),
    )  # fmt: skip
    x = torch.zeros(2, *model.state_shape, dtype=torch.float64, device=DEVICE)
    with pytest.raises(CheckedError), torch.inference_mode():
        engine._solve(x, torch.zeros(2, dtype=torch.int64, device=DEVICE), lambda share: None)


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
    """The same down to the data, and up to the prior with the divergence by each kind of probe."""
    model = model_of(sde)
    runner = FlowRunner(model, FlowSettings(device=DEVICE, steps=steps), to_data=probes is None, probes=probes)
    monkeypatch.setattr(runner._graphs, "wanted", True)
    with pytest.raises(CheckedError):
        runner.run(torch.zeros(2, *model.state_shape, dtype=torch.float64), [0, 1])


def sampled(solver: str) -> Run:
    def run(model: ScoreFunction, captured: bool) -> Tensor:
        sampler = sf.Sampler(model, solver, **LOOSE)
        assert isinstance(sampler.engine, AdaptiveEngine)
        sampler.engine._graphs.wanted = captured
        sampler.engine.release()
        return torch.cat([sampler.sample([1, 2]), sampler.sample([5, 4])])

    return run


def decoded(model: ScoreFunction, captured: bool) -> Tensor:
    decoder = Decoder(model, **LOOSE)
    decoder.runner._graphs.wanted = captured
    codes = torch.randn(4, *model.state_shape, generator=torch.Generator().manual_seed(0))
    return torch.cat([decoder.decode(codes[:2]), decoder.decode(codes[2:])])


def densities(probe: str) -> Run:
    def run(model: ScoreFunction, captured: bool) -> Tensor:
        estimator = density.LikelihoodEstimator(model, probe=probe, dequantize=False, **LOOSE)  # type: ignore[arg-type]
        estimator.runner._graphs.wanted = captured
        data = torch.rand(4, *model.image_shape, generator=torch.Generator().manual_seed(0))
        halves = (estimator.estimate(part, seeds) for part, seeds in ((data[:2], [0, 1]), (data[2:], [2, 3])))
        return torch.cat([half.log_density for half in halves])

    return run


RUNS: dict[str, Run] = {
    **{solver: sampled(solver) for solver in ("rk45", "ggf")},
    "decode": decoded,
    **{f"likelihood-{probe}": densities(probe) for probe in ("rademacher", "normal")},
}


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> RecordedGraphs:
    """What records a step, on a CPU, in place of CUDA graphs."""
    graphs = RecordedGraphs()
    monkeypatch.setattr(capture, "CudaGraphs", lambda device: graphs)
    monkeypatch.setattr(checks, "require_row", lambda *_: None)  # on a CPU alone it looks at the counter
    return graphs


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_a_replayed_step_gives_the_same(graphs: RecordedGraphs, run: Run) -> None:
    """Two batches of one size share a graph, whose replays lead where the plain steps do."""
    model = tiny()
    torch.testing.assert_close(run(model, True), run(model, False), rtol=0, atol=1e-6)
    assert graphs.captured == 1 and graphs.replayed > 1


class HostReading(nn.Module):
    """Looks at the time on the host, as no graph can."""

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The score, up to a factor, of a normal distribution."""
        return x if labels[0].item() > 0 else 2 * x


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS.keys())
def test_a_step_that_no_graph_holds_runs_plain_with_one_warning(graphs: RecordedGraphs, run: Run) -> None:
    """The warning names the operation, its line and the way to silence it; the results are those of the plain steps."""
    model = ScoreFunction(HostReading(), ExactScore(VPSDE()), (1, 2, 2), centered=True, is_image=False)
    with pytest.warns(RuntimeWarning, match="HostReading cannot be captured as a CUDA graph") as caught:
        result = run(model, True)
    assert torch.equal(result, run(model, False))
    message = str(caught[0].message)
    assert len(caught) == 1 and caught[0].filename == __file__ and graphs.captured == 0
    assert "_local_scalar_dense.default reads a tensor on the host" in message
    assert "test_step_capture.py" in message and "capture=False" in message
