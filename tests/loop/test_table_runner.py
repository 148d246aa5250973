# SPDX-License-Identifier: Apache-2.0
"""Compilation, capture, precision and padding: the images stay the same; warnings and errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.loop import capture as capturing
from scoresde_fast.loop import table_runner
from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop
from scoresde_fast.loop.program import Program
from scoresde_fast.mixture import ExactScore
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import VPSDE
from tests.support.recorded_graphs import RecordedGraphs

NOT_COMPILED = ".*cannot be compiled"


def function(forward: Callable[[Tensor, Tensor], Tensor]) -> ScoreFunction:
    """Return a model with a user's network on 2x2 images."""

    class UserNetwork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return self.weight * forward(x, labels)

    return ScoreFunction(UserNetwork(), ExactScore(VPSDE()), (1, 2, 2))


def table_runner_of(sampler: sf.Sampler) -> table_runner.TableRunner:
    """Return the runner of a sampler with fixed steps."""
    assert isinstance(sampler.runner, table_runner.TableRunner)
    return sampler.runner


@pytest.mark.parametrize("solver", ["pc", "ancestral"])
def test_captured_images_are_the_same(
    tiny: sf.ScoreModel, solver: str, replayed: Callable[..., RecordedGraphs]
) -> None:
    """Padded, replayed batches give each seed its image; each batch size is captured once, and serves similar sizes."""
    plain, sampler = (sf.Sampler(tiny, solver, 5) for _ in range(2))
    graphs = replayed(sampler)
    for seeds, captured in (([5, 3, 8, 1], 1), ([2, 9], 1), ([7], 1), (range(6), 2), (range(9), 2)):
        images = sampler.sample(seeds)
        # The last bits of sums depend on the batch size: over ten evaluations, states of up to 50 (five standard
        # deviations) differ by up to 6e-5.  Images of two seeds differ by more than 0.1.
        torch.testing.assert_close(images, plain.sample(seeds), rtol=0, atol=1e-4)
        assert len(table_runner_of(sampler)._loops) == captured
    assert graphs.captured > 0 and graphs.replayed >= 5 * 5


def test_changed_network_is_used(tiny: sf.ScoreModel, replayed: Callable[..., RecordedGraphs]) -> None:
    """Weights changed in place, replaced weights and a new network take effect in the next run, captured or not."""
    for capture in (False, True):
        model = function(lambda x, labels: -x)
        sampler = sf.Sampler(model, "em", 4, denoise=False)
        if capture:
            replayed(sampler)

        def differs(before: Tensor, sampler: sf.Sampler = sampler) -> Tensor:
            after = sampler.sample([0, 1])
            assert not torch.equal(before, after)
            return after

        images = sampler.sample([0, 1])
        with torch.no_grad():
            next(model.network.parameters()).add_(0.25)
        images = differs(images)
        model.network.load_state_dict({"weight": torch.tensor(0.2)}, assign=True)
        images = differs(images)
        model.network = function(lambda x, labels: -0.1 * x).network
        differs(images)


def test_stale_evaluator_is_replaced(tiny: sf.ScoreModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stale evaluator is replaced before the next batch, and everything derived from it is rebuilt."""
    evaluators: list[PlainNetwork] = []

    def make(network: nn.Module, program: Program, inputs: object, precision: str) -> tuple[PlainNetwork, PlainNetwork]:
        evaluators.append(PlainNetwork(network, program.labels))
        assert precision == "fp32" and not torch.is_inference_mode_enabled()
        return evaluators[-1], evaluators[-1]

    monkeypatch.setattr(table_runner, "evaluators", make)
    sampler = sf.Sampler(tiny, "em", 2)
    for batches in (1, 2):
        sampler.sample(range(4))
        sampler.sample(range(9))
        assert len(evaluators) == batches
        monkeypatch.setattr(evaluators[-1], "stale", lambda: True)
    loops = table_runner_of(sampler)._loops.values()
    assert all(isinstance(loop, Loop) and loop.evaluate is evaluators[-1] for loop in loops)


def test_failed_refresh_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory runs out while a new network is prepared, the next run uses that network."""
    model = function(lambda x, labels: -x)
    sampler = sf.Sampler(model, "em", 2)
    model.network = function(lambda x, labels: -0.1 * x).network

    def out_of_memory(*arguments: object) -> object:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(table_runner, "evaluators", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError):
            sampler.sample([0])
    assert torch.equal(sampler.sample([0]), sf.sample(model, [0], solver="em", steps=2))


def test_uncapturable_network_runs_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning names the operation, the line that requested it and the option that silences it."""

    def forward(x: Tensor, labels: Tensor) -> Tensor:
        return -x if labels[0].item() > 0.5 else -2 * x

    expected = sf.sample(function(forward), seeds=range(3), solver="em", steps=4)
    sampler = sf.Sampler(function(forward), "em", 4)
    table_runner_of(sampler)._graphs.wanted = True
    message = r"UserNetwork cannot be captured.*_local_scalar_dense.*test_table_runner\.py"
    with pytest.warns(RuntimeWarning, match=message) as caught:
        for _ in range(2):
            assert torch.equal(sampler.sample(range(3)), expected)
    assert len(caught) == 1 and "capture=False" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_capture_is_retried_after_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """If memory runs out during a capture, the error is raised without a warning, and the next run captures again."""

    def out_of_memory(device: torch.device) -> RecordedGraphs:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(capturing, "CudaGraphs", out_of_memory)
    graphs = capturing.GraphCapture(function(lambda x, labels: -x), torch.device("cpu"), wanted=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(torch.OutOfMemoryError):
            graphs.step(lambda: None)
    monkeypatch.setattr(capturing, "CudaGraphs", lambda device: RecordedGraphs())
    step = lambda: None  # noqa: E731
    assert graphs.wanted and graphs.step(step) is not step


def test_uncompilable_network_runs_with_one_warning() -> None:
    """A network that reads a tensor on the host runs uncompiled, with the same images."""

    def forward(x: Tensor, labels: Tensor) -> Tensor:
        return -x if labels[0].item() > 0.5 else -2 * x

    expected = sf.sample(function(forward), seeds=range(3), solver="em", steps=4)
    sampler = sf.Sampler(function(forward), "em", 4, compile=True)
    with pytest.warns(RuntimeWarning, match="UserNetwork cannot be compiled") as caught:
        for _ in range(2):
            assert torch.equal(sampler.sample(range(3)), expected)
    assert len([warning for warning in caught if warning.category is RuntimeWarning]) == 1


def test_all_batch_sizes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a dozen batch sizes is compiled, beyond PyTorch's recompile limit of eight."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, options, **others: torch_compile(f, backend=backend, **others))
    model = function(lambda x, labels: -x)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", NOT_COMPILED, RuntimeWarning)  # PyTorch's own warnings are allowed
        for size in range(1, 13):
            sf.Sampler(model, "em", 2, compile=True, batch_size=size).sample(range(size))
    assert len(graphs) == 12


class MatrixNetwork(nn.Module):
    """A product with a matrix, which autocast computes in half precision."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        output = self.linear(x.flatten(1))
        self.seen.append(output.dtype)
        return output.view(x.shape)


@pytest.mark.parametrize("outer", [False, True], ids=["alone", "in autocast"])
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
@pytest.mark.parametrize("solver", ["em", "rk45"])
def test_precision_of_own_network(solver: str, precision: str, dtype: torch.dtype, outer: bool) -> None:
    """A user's network computes in the requested precision, by autocast; an autocast of the caller has no effect."""
    network = MatrixNetwork()
    model = sf.wrap(network, VPSDE(), prediction="epsilon", shape=(1, 2, 2))
    network.seen.clear()
    options: dict[str, Any] = {"steps": 2} if solver == "em" else {"rtol": 0.1, "atol": 0.1}
    with torch.autocast("cpu", torch.float16, enabled=outer):
        sampler = sf.Sampler(model, solver, precision=precision, **options)
        images = sampler.sample([0])
    assert sampler.describe()["precision"] == precision
    assert set(network.seen) == {dtype} and images.dtype == torch.float32


def test_report_of_the_implementation(tiny: sf.ScoreModel, replayed: Callable[..., RecordedGraphs]) -> None:
    """A sampler says how its network runs."""
    assert sf.Sampler(tiny, "em", 2, precision="bf16").implementation == "folded network, bf16"
    assert sf.Sampler(tiny, "rk45").implementation == "folded network, fp32"
    sampler = sf.Sampler(function(lambda x, labels: -x), "em", 2, compile=True)
    assert sampler.implementation == "network as written, fp32, compiled"
    replayed(sampler)
    assert sampler.implementation == "network as written, fp32, compiled, captured"


def test_network_without_weights_runs_in_float32() -> None:
    """There is nothing to cast in a closed form; the description says so."""
    model = sf.GaussianMixture.gaussian(VPSDE(), 0.5, 0.2, (1, 2, 2))
    assert sf.Sampler(model, "em", 2, precision="bf16").describe()["precision"] == "fp32"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "bf17"}, "unknown precision 'bf17' - did you mean 'bf16'"),
        ({"precision": "tf32"}, "precision 'tf32' is only available on GPUs.*choose from: auto, fp32, bf16, fp16"),
        ({"capture": True}, "capture=True needs a CUDA device, but the device is cpu: choose capture='auto'"),
        ({"compile": "yes"}, "compile is 'yes'; it must be True or False or 'auto'"),
        ({"batch_size": "all"}, "batch_size is 'all'; it must be an integer or 'auto'"),
        ({"strict": True, "langevin_norm": "batch"}, "choose langevin_norm='sample'"),
        ({"solver": "rk45", "steps": None, "strict": True, "error_norm": "batch"}, "choose error_norm='sample'"),
    ],
)
def test_bad_options(tiny: sf.ScoreModel, options: dict[str, Any], message: str) -> None:
    """The message gives the value and what is allowed, before anything runs."""
    with pytest.raises(ValueError, match=message):
        sf.Sampler(tiny, **{"solver": "pc", "steps": 2, **options})


def test_description_has_precision_and_strictness(tiny: sf.ScoreModel) -> None:
    """The description contains precision and strictness, but not the batch size, which does not affect images."""
    for strict, batch_size in ((False, 1), (True, 9)):
        description = sf.Sampler(tiny, "pc", 2, strict=strict, batch_size=batch_size).describe()
        assert description["precision"] == "fp32" and description["strict"] == strict
        assert "batch_size" not in description


def test_compiled_images_are_the_same(threads: Callable[[int], None]) -> None:
    """A compiled network gives the same images within 1e-4, with one worker and with two."""
    model = function(lambda x, labels: -x.tanh() / labels.view(-1, 1, 1, 1).sqrt())
    plain, compiled = (sf.Sampler(model, "em", 8, compile=compile) for compile in (False, True))
    for workers in (1, 2):
        threads(workers)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", NOT_COMPILED, RuntimeWarning)
            images = compiled.sample(range(17))
        torch.testing.assert_close(images, plain.sample(range(17)), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_compiled_embedded_model(threads: Callable[[int], None]) -> None:
    """A compiled embedded model gives the same images within 1e-4."""
    threads(2)
    model = sf.load("digits-vp")
    plain, compiled = (sf.Sampler(model, steps=40, compile=compile).sample(range(16)) for compile in (False, True))
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-4)
