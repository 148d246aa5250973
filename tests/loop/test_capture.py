# SPDX-License-Identifier: Apache-2.0
"""Capture of steps as CUDA graphs, checked without a GPU: all solvers pass, and errors name unsafe operations.

The last tests capture on a GPU if there is one.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.loop.capture import CudaGraphs, require_capturable_loop
from scoresde_fast.loop.capture_safety import CaptureUnsafeError, require_capturable
from scoresde_fast.loop.evaluator import evaluator
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program, split
from scoresde_fast.loop.table_runner import TableRunner
from scoresde_fast.ops import checks
from scoresde_fast.sdes import CLDSDE, SDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS, SolverOptions, build_table
from scoresde_fast.solvers.correctors import CORRECTORS
from scoresde_fast.solvers.options import Norm

pytestmark = pytest.mark.same_everywhere

DEVICE = "meta"
"""Tensors with a shape but no data: reading them on the host, or copying them there, always fails."""
SDE_OF: dict[str, SDE] = {"vesde": VESDE(), "vpsde": VPSDE(), "subvpsde": SubVPSDE(), "cld": CLDSDE()}
CASES = [
    (sde, solver, probability_flow, corrector, norm)
    for sde, sde_object in SDE_OF.items()
    for solver, entry in SOLVERS.items()
    for probability_flow in (False, True)
    for corrector in ("none", *CORRECTORS)
    for norm in (("sample", "batch") if corrector == "langevin" else ("sample",))
    if isinstance(sde_object, entry.sdes) and (entry.probability_flow or not probability_flow)
    if corrector == "none" or (entry.correctable and isinstance(sde_object, CORRECTORS[corrector].sdes))
]
IDS = [
    f"{sde}-{solver}-{'flow' if probability_flow else 'sde'}-{c}-{norm}"
    for sde, solver, probability_flow, c, norm in CASES
]
NETWORK = {
    "name": "ncsnpp",
    "nf": 8,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [4],
    "scale_by_sigma": True,
}


def model_of(sde: str) -> sf.ScoreModel:
    config = {"data": {"image_size": 8, "centered": False}, "model": NETWORK, "training": {"sde": sde}}
    return sf.create(config).eval().to(DEVICE)


@pytest.fixture(scope="module")
def models() -> dict[str, sf.ScoreModel]:
    return {sde: model_of(sde) for sde in SDE_OF}


@pytest.mark.parametrize(("sde", "solver", "probability_flow", "corrector", "norm"), CASES, ids=IDS)
def test_steps_can_be_captured(
    models: dict[str, sf.ScoreModel], sde: str, solver: str, probability_flow: bool, corrector: str, norm: Norm
) -> None:
    """A step reads nothing on the host, copies nothing to or from it, uses no generator and repeats its operations."""
    model = models[sde]
    table = build_table(
        SDE_OF[sde], SolverOptions(solver, 30, corrector, corrector_steps=2, probability_flow=probability_flow)
    )
    program = Program.of_model(model, table, DEVICE)
    labels = model.parametrisation.labels(table.times)
    evaluate = evaluator(model.network, torch.from_numpy(labels).float(), "fp32")
    loop = Loop(program, evaluate, StepBackends.choose(DEVICE), langevin_norm=norm)
    with torch.inference_mode():
        require_capturable_loop(loop, model.state_shape)


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("sde", SDE_OF)
def test_operations_do_not_depend_on_the_counter(sde: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With data on a CPU, steps at different counter values are the same operations on the same tensors."""
    monkeypatch.setattr(checks, "require_row", lambda *_: None)  # on a CPU it reads the counter on the host
    model = model_of(sde).to_empty(device="cpu")
    table = build_table(SDE_OF[sde], SolverOptions("gddim" if sde == "cld" else "pc", 30))
    program = Program.of_model(model, table, "cpu")
    loop = Loop(program, evaluator(model.network, program.labels, "fp32"), StepBackends.choose("cpu", backend))
    registers = loop.registers((2, *model.state_shape))
    with torch.inference_mode():
        require_capturable(lambda: loop.pattern(split(program.kinds)[0].pattern, registers), "cpu")
    assert int(registers.counter) == 2 * len(split(program.kinds)[0].pattern)  # the check runs the steps twice


X, ROW, MASK = torch.ones(3, device=DEVICE), torch.ones(1, device=DEVICE, dtype=torch.int64), torch.ones(3) > 0
HOST_READS: dict[str, Callable[[], object]] = {
    "item": lambda: X.sum().item(),
    "bool": lambda: bool(X.sum() > 0),
    "if": lambda: 1 if X[0] > 0 else 0,
    "int": lambda: X[int(ROW)],
    "tolist": lambda: X.tolist(),
    "equal": lambda: torch.equal(X, X),
    "allclose": lambda: torch.allclose(X, X),
    "cpu": lambda: X.cpu(),
    "to": lambda: X.to("cpu"),
    "copy_": lambda: torch.empty(3).copy_(X),
}
DATA_DEPENDENT_SHAPES: dict[str, Callable[[], object]] = {
    "nonzero": lambda: X.nonzero(),
    "mask": lambda: X[X > 0],
    "masked_select": lambda: X.masked_select(X > 0),
    "unique": lambda: X.unique(),
    "repeat_interleave": lambda: X.repeat_interleave(ROW.expand(3)),
}
HOST_COPIES: dict[str, Callable[[], object]] = {
    "tensor": lambda: torch.tensor([1.0, 2.0], device=DEVICE),
    "scalar": lambda: X * torch.tensor(2.0),
    "to": lambda: torch.arange(3).to(DEVICE),
    "from_numpy": lambda: torch.from_numpy(torch.ones(3).numpy()).to(DEVICE),
    "new_tensor": lambda: X.new_tensor([1.0]),
    "as_tensor": lambda: torch.as_tensor([1.0], device=DEVICE),
    "copy_": lambda: X.clone().copy_(torch.ones(3)),
    "mask": lambda: X.masked_fill(MASK, 0.0),
}


@pytest.mark.parametrize("step", HOST_READS.values(), ids=HOST_READS.keys())
def test_host_read_is_rejected(step: Callable[[], object]) -> None:
    """Reading a device tensor on the host, or copying it there, is rejected."""
    with pytest.raises(CaptureUnsafeError, match=r"reads a tensor on the host|copies a tensor to the host|mixes"):
        require_capturable(step, DEVICE)


@pytest.mark.parametrize("step", DATA_DEPENDENT_SHAPES.values(), ids=DATA_DEPENDENT_SHAPES.keys())
def test_data_dependent_shape_is_rejected(step: Callable[[], object]) -> None:
    """Operations whose output shape depends on data are rejected."""
    with pytest.raises(CaptureUnsafeError, match="shape that depends on data"):
        require_capturable(step, DEVICE)


@pytest.mark.parametrize("step", HOST_COPIES.values(), ids=HOST_COPIES.keys())
def test_copy_from_the_host_is_rejected(step: Callable[[], object]) -> None:
    """A tensor is rejected if it is made from host values, copied from the host, or left on the host."""
    with pytest.raises(CaptureUnsafeError, match=r"from values on the host|copies a tensor from the host|mixes"):
        require_capturable(step, DEVICE)


@pytest.mark.parametrize(
    "step", [lambda: torch.randn_like(X), lambda: X.clone().normal_(), lambda: torch.nn.functional.dropout(X)]
)
def test_random_generator_is_rejected(step: Callable[[], object]) -> None:
    """Draws from PyTorch's random generator, including those of dropout, are rejected."""
    with pytest.raises(CaptureUnsafeError, match="random generator"):
        require_capturable(step, DEVICE)


class Steps:
    """Steps that differ each time they run."""

    def __init__(self) -> None:
        self.step = 0
        self.table = torch.ones(8, 3, device=DEVICE)
        self.results: list[Tensor] = [X]

    def number(self) -> None:
        self.step += 1
        X * float(self.step)

    def view(self) -> None:
        self.step += 1
        self.table[self.step] * 2

    def shape(self) -> None:
        self.step += 1
        self.table[: self.step].sum()

    def branch(self) -> None:
        self.step += 1
        X.exp() if self.step % 2 else X.log()

    def repeat(self) -> None:
        self.step += 1
        for _ in range(self.step):
            X + 1

    def input(self) -> None:
        self.results.append(self.results[-1] + 1)


@pytest.mark.parametrize("name", ["number", "view", "shape", "branch", "repeat", "input"])
def test_changing_step_is_rejected(name: str) -> None:
    """A number, view, shape, branch, count or input that differs between two runs of a step is rejected."""
    with pytest.raises(CaptureUnsafeError, match="differs between two runs of the step"):
        require_capturable(getattr(Steps(), name), DEVICE)


def test_safe_operations_are_accepted() -> None:
    """Indexing by the counter, new tensors, numbers, in-place operations and inactive dropout are accepted."""
    x, table, dropout = torch.ones(3, device=DEVICE), torch.ones(8, 3, device=DEVICE), nn.Dropout(0.5).eval()

    def step() -> None:
        x.add_(table.index_select(0, ROW)[0]).mul_(torch.zeros_like(x))
        x.copy_(dropout(x[ROW]) * 2.0 + torch.arange(3, device=DEVICE) + torch.full((3,), 0.5, device=DEVICE))
        x.view(1, 3).expand(2, 3).contiguous()
        ROW.add_(1)

    require_capturable(step, DEVICE)


def test_check_keeps_no_memory() -> None:
    """Temporary tensors are freed, so that a check needs no more memory than the step."""

    def step() -> None:
        temporary = weakref.ref(X + 1)
        assert temporary() is None

    require_capturable(step, DEVICE)


def test_failed_capture_detaches_the_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failed capture detaches the allocator from the pool, and raises the error of the step."""
    ended: list[tuple[int, tuple[int, int]]] = []

    def end(device: int, pool: tuple[int, int]) -> None:
        ended.append((device, pool))
        raise RuntimeError("not currently recording to mempool_id")

    for name in ("Stream", "CUDAGraph", "device", "stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *args, **kwargs: nullcontext())
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 7))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", end, raising=False)

    def step() -> None:
        raise ValueError("error of the step")

    with pytest.raises(ValueError, match="error of the step"):
        CudaGraphs(torch.device("cuda", 3)).capture(step)
    assert ended == [(3, (0, 7))]


@pytest.fixture
def gpu_model() -> sf.ScoreModel:
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    torch.manual_seed(0)
    config = {"data": {"image_size": 32, "centered": False}, "model": NETWORK, "training": {"sde": "vesde"}}
    return sf.create(config)


GPU: dict[str, Any] = {"solver": "pc", "device": "cuda", "precision": "fp32", "compile": False}


def test_graphs_on_a_gpu(gpu_model: sf.ScoreModel) -> None:
    """Captured and padded batches of several sizes give the images of the plain loop, without a warning."""
    plain, captured = (sf.Sampler(gpu_model, steps=20, capture=capture, **GPU) for capture in (False, True))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for seeds in (range(64), [3], range(70, 100)):
            torch.testing.assert_close(captured.sample(seeds), plain.sample(seeds), rtol=0, atol=1e-4)
    assert isinstance(captured.runner, TableRunner)
    assert all(type(loop).__name__ == "CapturedLoop" for loop in captured.runner._loops.values())


def test_memory_of_graphs_on_a_gpu(gpu_model: sf.ScoreModel) -> None:
    """A captured loop takes at most 256 MB more than a plain one, for any number of steps and batch sizes."""
    memory = []
    for steps, capture, sizes in ((20, False, [64]), (20, True, [64]), (1000, True, [64, 1, 4, 16])):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved()
        sampler = sf.Sampler(gpu_model, steps=steps, capture=capture, **GPU)
        assert isinstance(sampler.runner, TableRunner)
        for size in sizes:
            sampler.runner.prepare(size)
        if steps < 1000:
            sampler.sample(range(64))
        memory.append(torch.cuda.memory_reserved() - before)
        sampler.runner.release()
    assert max(memory[1:]) - memory[0] <= 256 * 2**20


def test_uncapturable_network_on_a_gpu(gpu_model: sf.ScoreModel) -> None:
    """The network runs uncaptured, after one warning that names the operation."""
    forward = gpu_model.network.forward

    def host_reading(x: Tensor, labels: Tensor) -> Tensor:
        assert labels[0].item() > 0
        return forward(x, labels)

    gpu_model.network.forward = host_reading
    sampler = sf.Sampler(gpu_model, steps=3, **GPU)
    with pytest.warns(RuntimeWarning, match="_local_scalar_dense reads a tensor on the host") as caught:
        images = [sampler.sample(range(4)) for _ in range(2)]
    assert len(caught) == 1 and torch.equal(*images)


def test_strict_and_auto_batches_on_a_gpu(gpu_model: sf.ScoreModel) -> None:
    """Strict images are bit-identical for any batch size; the largest batch that fits is found and works."""
    strict = sf.Sampler(gpu_model, steps=5, strict=True, **GPU)
    whole = strict.sample(range(40))
    parts = torch.cat([images for _, images in strict.stream(range(40), batch_size=7)])
    assert torch.equal(whole, parts)
    automatic = sf.Sampler(gpu_model, steps=2, batch_size="auto", **GPU)
    assert automatic.batch_size >= 64
    assert len(automatic.sample(range(automatic.batch_size))) == automatic.batch_size
