# SPDX-License-Identifier: Apache-2.0
"""The Triton kernels of noise and of the solver steps, in Triton's interpreter, against the float64 references."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde_fast.ops import affine_step, affine_step_pair, hutchinson_dot, langevin_norms, langevin_step
from scoresde_fast.ops import normal as normal_op
from scoresde_fast.ops import rademacher as rademacher_op
from scoresde_fast.ops.checks import signed64
from scoresde_fast.ops.library import INTERPRETED
from scoresde_fast.ops.step_table import PAIR_WIDTH, WIDTH, DeviceTable
from scoresde_fast.rng import WORD, box_muller, philox_words, split64

if not INTERPRETED or find_spec("triton") is None:
    pytest.skip("the kernels are interpreted only with Triton and TRITON_INTERPRET=1", allow_module_level=True)

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import box_muller_fast, box_muller_precise, philox

IDS = torch.tensor([3, 2**32 + 5])
SEED = 0xFEDCBA9876543210
GUARD = 32
ROWS = 3


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """Memory that a launcher allocates starts as NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def table(width: int, slot: int = 0, save: int = 0, draw: int = 2**32 - 1) -> DeviceTable:
    """Three rows of coefficients in (-1, 1), the second with this control."""
    coefficients = torch.rand((ROWS, width), generator=torch.Generator().manual_seed(1)) * 2 - 1
    if width == WIDTH:
        coefficients[:, 9].abs_()
    control = torch.tensor([[5, 0, 1], [draw - 2**32 if draw >= 2**31 else draw, slot, save], [9, 1, 0]])
    return DeviceTable(coefficients, control.int())


class Guarded:
    """Random tensors inside larger memory, which must stay as it was."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.memory: list[tuple[Tensor, Tensor]] = []

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
        count = math.prod(shape)
        memory = torch.full((count + 2 * GUARD,), 77.0, dtype=dtype)
        memory[GUARD : GUARD + count] = torch.randn(count, generator=self.generator).to(dtype)
        self.memory.append((memory[:GUARD], memory[GUARD + count :]))
        return memory[GUARD : GUARD + count].view(shape)

    def check(self) -> None:
        assert all(bool((side == 77.0).all()) for sides in self.memory for side in sides)


def assert_accurate(ours: Tensor, reference: Tensor, exact: Tensor) -> None:
    """Error against float64 at most twice the same-dtype reference's, plus 1 ulp of the largest value."""
    largest = exact.abs().max().to(ours.dtype)
    unit = float(torch.nextafter(largest, torch.tensor(math.inf, dtype=ours.dtype)) - largest)
    error, allowed = (float((result.double() - exact).abs().max()) for result in (ours, reference))
    assert error <= 2 * allowed + unit, f"error {error:.3g}, the reference's {allowed:.3g}, 1 ulp {unit:.3g}"


def compare(operation: Callable[..., Any], registers: dict[str, Tensor | None], *rest: Any) -> None:
    """Run an in-place operation on copies by Triton, by the reference and in float64; compare every register."""
    results = []
    for backend, wide in (("triton", False), ("reference", False), ("reference", True)):
        guarded = Guarded()
        copies: dict[str, Tensor | None] = {}
        for name, register in registers.items():
            copies[name] = None
            if register is not None:
                dtype = torch.float64 if wide and register.dtype == torch.float32 else register.dtype
                copies[name] = guarded(tuple(register.shape), dtype).copy_(register)
        operation(backend, *copies.values(), *rest)
        guarded.check()
        results.append(copies)
    for name in registers:
        if registers[name] is not None:
            assert_accurate(*(copies[name] for copies in results))  # type: ignore[arg-type]


@triton.jit
def _pairs_kernel(p_first, p_second, p_radius, p_angle, PRECISE: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    radius, angle = tl.load(p_radius + at).to(tl.uint32), tl.load(p_angle + at).to(tl.uint32)
    first, second = box_muller_precise(radius, angle) if PRECISE else box_muller_fast(radius, angle)
    tl.store(p_first + at, first)
    tl.store(p_second + at, second)


@triton.jit
def _words_kernel(p_words, p_calls, draw, sample_id, run_seed, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    call = tl.load(p_calls + at).to(tl.uint32)
    words = philox(call, draw.to(tl.uint32), sample_id.to(tl.int64), run_seed.to(tl.int64))
    for k in tl.static_range(4):
        tl.store(p_words + k * BLOCK + at, words[k].to(tl.int64))


def test_philox() -> None:
    """Every bit of the four words is the contract's, at the ends of the call, draw, sample id and key."""
    calls = torch.tensor([0, 1, 2**31, 2**32 - 1])
    for draw, sample, seed in [(0, 0, 0), (2**32 - 1, 2**63 - 1, SEED), (5, 2**32 + 7, 2**64 - 1)]:
        words = torch.empty(4, 4, dtype=torch.int64)
        _words_kernel[(1,)](words, calls, draw, sample, signed64(seed), BLOCK=4)
        counter = (calls, torch.tensor(draw), torch.tensor(sample & WORD), torch.tensor(sample >> 32))
        assert torch.equal(words, torch.stack(philox_words(counter, split64(seed))))


@pytest.mark.parametrize("precise", [True, False], ids=["precise", "fast"])
def test_box_muller(precise: bool) -> None:
    """On random words and on the edges of every octant and of every branch, within the stated error of the contract."""
    size = 2**17
    words = torch.randint(0, 2**32, (2, size), generator=torch.Generator().manual_seed(3))
    edges = torch.arange(9)[:, None] * 2**29 + torch.tensor([-512, -256, -1, 0, 255, 256])
    root = int(2**32 * math.sqrt(0.5))
    edges = torch.cat(
        [edges.flatten(), torch.arange(-4, 5) * 256 + root, 2 ** torch.arange(32), 2**32 - edges[0]]
    ).clamp(0, 2**32 - 1)
    words[0, : len(edges)] = edges
    words[1, size - len(edges) :] = edges
    words[1, : len(edges)] = edges.flip(0)
    ours = torch.empty(2, size)
    _pairs_kernel[(1,)](ours[0], ours[1], words[0], words[1], PRECISE=precise, BLOCK=size)
    expected = torch.stack(box_muller(words[0], words[1]))
    if precise:
        unit = torch.nextafter(expected.abs(), torch.tensor(math.inf)) - expected.abs()
        assert float(((ours - expected).abs() / unit).max()) <= 2
    else:
        # float32 cannot hold 1 - 2^-25: the radius there is 0 rather than 2.4e-4.
        assert float((ours - expected).abs().max()) <= 3.5e-4


@pytest.mark.parametrize("elements", [1, 3, 63, 105, 500, 1100])
def test_fields(elements: int) -> None:
    """Signs are the contract's bit for bit; normals agree to 2 ulp in the precise form, to 4e-6 in the fast one."""
    ids = torch.tensor([7, 2**63 - 1])
    signs = rademacher_op.operation
    for draw in (0, 2**32 - 1):
        arguments = (ids, SEED - 2**64, draw, elements)
        assert torch.equal(signs.choose("cpu", "triton")(*arguments), signs.reference(*arguments))
    expected = normal_op.operation.reference(*arguments, True)
    precise, fast = (normal_op.operation.choose("cpu", "triton")(*arguments, form) for form in (True, False))
    unit = torch.nextafter(expected.abs(), torch.tensor(math.inf)) - expected.abs()
    assert float(((precise - expected).abs() / unit).max()) <= 2
    assert float((fast - expected).abs().max()) <= 4e-6
    assert precise.shape == fast.shape == (2, elements)


STEPS = [
    # shape, network output, saved, history, earlier, noise
    pytest.param((1,), torch.float32, False, 0, 0, True, id="1, fp32, noise"),
    pytest.param((3,), torch.bfloat16, False, 0, 0, True, id="3, bf16, noise"),
    pytest.param((63,), torch.float16, True, 1, 0, True, id="63, fp16, saved, 1 slot, noise"),
    pytest.param((500,), None, False, 0, 0, True, id="500, noise alone"),
    pytest.param((500,), torch.float32, False, 0, 0, False, id="500, fp32"),
    pytest.param((3, 7, 5), torch.bfloat16, True, 4, 3, True, id="3x7x5, everything"),
    pytest.param((3, 8, 8), torch.bfloat16, True, 3, 3, True, id="3x8x8, everything"),
    pytest.param((3, 8, 8), torch.float32, False, 2, 1, False, id="3x8x8, 1 earlier"),
    pytest.param((3, 8, 8), None, False, 3, 2, False, id="3x8x8, 2 earlier, no network"),
    pytest.param((3, 8, 8), None, True, 0, 0, False, id="3x8x8, saved alone"),
    pytest.param((3, 20, 18), torch.bfloat16, False, 0, 0, True, id="3x20x18, several programs"),
]
PAIRS = [
    pytest.param((2, 1), torch.float32, False, 0, 0, True, id="1, fp32, noise"),
    pytest.param((2, 3), torch.bfloat16, True, 2, 1, True, id="3, bf16, saved, 1 earlier, noise"),
    pytest.param((2, 5, 10), torch.float16, False, 0, 0, True, id="50, fp16, noise"),
    pytest.param((6, 7, 5), torch.bfloat16, True, 3, 3, True, id="3x7x5, everything"),
    pytest.param((6, 8, 8), torch.bfloat16, True, 4, 3, True, id="3x8x8, everything"),
    pytest.param((6, 8, 8), None, False, 2, 2, False, id="3x8x8, 2 earlier, no network"),
    pytest.param((2, 270), None, False, 0, 0, True, id="270, noise alone, several programs"),
    pytest.param((2, 63), torch.float32, True, 1, 0, False, id="63, fp32, saved, 1 slot"),
]


def make_registers(shape: tuple[int, ...], output: torch.dtype | None, saved: bool, ring: int, pair: bool) -> Any:
    """The registers of a step of two samples; a pair's network output has half the channels."""
    new, whole = Guarded(), (2, *shape)
    return {
        "state": new(whole),
        "saved": new(whole) if saved else None,
        "history": new((ring, *whole)) if ring else None,
        "output": new((2, shape[0] // (1 + pair), *shape[1:]), output) if output else None,
    }


@pytest.mark.parametrize(("shape", "output", "saved", "ring", "earlier", "noise"), STEPS)
def test_affine_step(shape: Any, output: Any, saved: bool, ring: int, earlier: int, noise: bool) -> None:
    """Every combination of registers in use, a ring that wraps, each kind of counter, nothing written past the end."""
    counter = {0: None, 1: torch.tensor([1]), 2: torch.tensor([3], dtype=torch.int32)}[ring % 3]
    row = 1 if counter is None else 1 - int(counter)

    def run(backend: str, state: Tensor, saved: Tensor, history: Tensor, output: Tensor, rows: DeviceTable) -> None:
        affine_step.affine_step(
            state, rows, row, counter=counter, saved=saved, history=history, network_output=output,
            sample_ids=IDS if noise else None, earlier=earlier, run_seed=SEED, precise=True,
            implementation=affine_step.operation.choose("cpu", backend),
        )  # fmt: skip

    for save in range(1 + saved):
        compare(run, make_registers(shape, output, saved, ring, False), table(WIDTH, slot=2 * ring, save=save))


@pytest.mark.parametrize(("shape", "output", "saved", "ring", "earlier", "noise"), PAIRS)
def test_affine_step_pair(shape: Any, output: Any, saved: bool, ring: int, earlier: int, noise: bool) -> None:
    """The same for pairs, with halves of every remainder by 4: v's elements start inside a call of the noise."""

    def run(backend: str, state: Tensor, saved: Tensor, history: Tensor, output: Tensor, rows: DeviceTable) -> None:
        affine_step_pair.affine_step_pair(
            state, rows, 1, saved=saved, history=history, network_output=output, sample_ids=IDS if noise else None,
            earlier=earlier, run_seed=SEED, precise=True,
            implementation=affine_step_pair.operation.choose("cpu", backend),
        )  # fmt: skip

    for save in range(1 + saved):
        compare(run, make_registers(shape, output, saved, ring, True), table(PAIR_WIDTH, slot=2 * ring + 1, save=save))


def norms_of(backend: str, output: Tensor, ids: Tensor = IDS) -> Tensor:
    """`langevin_norms` of the second row, in the precise form."""
    return langevin_norms.langevin_norms(
        output, ids, table(WIDTH), 1, run_seed=SEED, precise=True,
        implementation=langevin_norms.operation.choose("cpu", backend),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1,), torch.float32),
        ((63,), torch.float16),
        ((3, 7, 5), torch.bfloat16),
        ((3, 8, 8), torch.float32),
        ((3, 20, 18), torch.bfloat16),
        ((4101,), torch.bfloat16),
    ],
    ids=str,
)
def test_langevin_norms(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Both sums, in one program and in several, are accurate, and a sample's are the same bits in any batch."""
    output = Guarded()((2, *shape), dtype)
    ours, reference = norms_of("triton", output), norms_of("reference", output)
    exact = norms_of("reference", output.double())
    assert ours.shape == (2, 2)
    for column in (0, 1):
        assert_accurate(ours[:, column], reference[:, column], exact[:, column])
    assert torch.equal(ours[1:], norms_of("triton", output[1:], IDS[1:]))


@pytest.mark.parametrize("norm", ["sample", "batch"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((1,), torch.float32), ((63,), torch.bfloat16), ((3, 7, 5), torch.float16), ((3, 20, 18), torch.bfloat16)],
    ids=str,
)
def test_langevin_step(shape: tuple[int, ...], dtype: torch.dtype, norm: Any) -> None:
    """The step by each sample's own norms and by the batch's means."""
    output = Guarded()((2, *shape), dtype)

    def run(backend: str, state: Tensor, network_output: Tensor, norms: Tensor) -> None:
        langevin_step.langevin_step(
            state, network_output, norms, IDS, table(WIDTH), 1, norm=norm, run_seed=SEED, precise=True,
            implementation=langevin_step.operation.choose("cpu", backend),
        )  # fmt: skip

    norms = norms_of("reference", output)
    compare(run, {"state": Guarded()((2, *shape)), "output": output, "norms": norms})


@pytest.mark.parametrize(
    ("shape", "dtype", "probe"),
    [
        ((1,), torch.float32, "normal"),
        ((63,), torch.float16, "rademacher"),
        ((3, 7, 5), torch.bfloat16, "normal"),
        ((3, 8, 8), torch.float32, "rademacher"),
        ((3, 8, 8), torch.bfloat16, "normal"),
        ((3, 20, 18), torch.bfloat16, "rademacher"),
        ((4101,), torch.float32, "rademacher"),
    ],
    ids=str,
)
def test_hutchinson_dot(shape: tuple[int, ...], dtype: torch.dtype, probe: Any) -> None:
    """Both probes, in one program and in several; a sample's sum does not depend on its batch."""
    coefficients = torch.tensor([[0.0, 0.0], [0.3, -0.7]])
    tangent = Guarded()((2, *shape), dtype)

    def divergence(backend: str, tangent: Tensor, ids: Tensor = IDS) -> Tensor:
        result = torch.ones(len(ids), dtype=torch.float64)
        hutchinson_dot.hutchinson_dot(
            result, tangent, ids, coefficients, 1, draw=2**32 - 1, probe=probe, run_seed=SEED, precise=True,
            implementation=hutchinson_dot.operation.choose("cpu", backend),
        )  # fmt: skip
        return result

    ours, reference = divergence("triton", tangent), divergence("reference", tangent)
    exact = divergence("reference", tangent.double())
    # The product is a float32 sum before float64 takes over.
    unit = 2.0**-23 * float(exact.abs().max())
    assert float((ours - exact).abs().max()) <= 2 * float((reference - exact).abs().max()) + unit
    assert torch.equal(ours[1:], divergence("triton", tangent[1:], IDS[1:]))


def test_fast_form_of_a_step() -> None:
    """Without ``precise`` a step's noise keeps the stated error."""
    rows = table(WIDTH)
    states = [torch.zeros(2, 192) for _ in range(2)]
    for state, precise in zip(states, (False, True), strict=True):
        triton_step = affine_step.operation.choose("cpu", "triton")
        affine_step.affine_step(state, rows, 1, sample_ids=IDS, precise=precise, implementation=triton_step)
    assert 0 < float((states[0] - states[1]).abs().max()) <= 4e-6


def test_float64_state() -> None:
    """A float64 state is stepped in float64, as the reference does."""
    new, rows = Guarded(), table(WIDTH)
    states = [new((2, 63), torch.float64).fill_(1 / 3) for _ in range(2)]
    output = new((2, 63))
    for state, backend in zip(states, ("triton", "reference"), strict=True):
        step = affine_step.operation.choose("cpu", backend)
        affine_step.affine_step(state, rows, 1, network_output=output, implementation=step)
    torch.testing.assert_close(*states, rtol=1e-15, atol=1e-15)


def test_a_counter_past_the_table_takes_the_last_row() -> None:
    """A replay too many reads no foreign memory."""
    rows = table(WIDTH)
    state = torch.ones(1, 8)
    torch.ops.scoresde_fast_triton.affine_step(
        state, None, None, None, None, rows.coefficients, rows.control, torch.tensor([ROWS + 4]), 0, 0, 0, False
    )
    assert torch.equal(state, rows.coefficients[-1, 0].expand(1, 8))


def test_empty_batch() -> None:
    """No samples are no error."""
    rows, none = table(WIDTH), torch.empty(0, dtype=torch.int64)
    arguments = (rows.coefficients, rows.control, None, 0)
    ops = torch.ops.scoresde_fast_triton
    assert ops.normal(none, 0, 0, 5, False).shape == (0, 5)
    assert ops.rademacher(none, 0, 0, 5).shape == (0, 5)
    assert ops.langevin_norms(torch.empty(0, 5), none, *arguments, 0, False).shape == (0, 2)
    ops.affine_step(torch.empty(0, 5), None, None, None, none, *arguments, 0, 0, False)
    ops.affine_step_pair(torch.empty(0, 4), None, None, None, none, *arguments, 0, 0, False)
    ops.langevin_step(torch.empty(0, 5), torch.empty(0, 5), torch.empty(0, 2), none, *arguments, True, 0, False)
    ops.hutchinson_dot(torch.empty(0).double(), torch.empty(0, 5), none, torch.ones(1, 2), None, 0, 0, True, 0, False)


CALLS: dict[str, Callable[[], tuple[Any, ...]]] = {
    "normal": lambda: (IDS, 1, 2, 6, False),
    "rademacher": lambda: (IDS, 1, 2, 6),
    "affine_step": lambda: (
        torch.ones(2, 6), torch.ones(2, 6), torch.ones(2, 2, 6), torch.ones(2, 6), IDS, *table(WIDTH).__dict__.values(),
        torch.tensor([1]), 0, 1, 1, False,
    ),
    "affine_step_pair": lambda: (
        torch.ones(2, 6), torch.ones(2, 6), None, torch.ones(2, 3), IDS, *table(PAIR_WIDTH).__dict__.values(),
        None, 0, 0, 1, False,
    ),
    "langevin_norms": lambda: (torch.ones(2, 6), IDS, *table(WIDTH).__dict__.values(), None, 0, 1, False),
    "langevin_step": lambda: (
        torch.ones(2, 6), torch.ones(2, 6), torch.ones(2, 2), IDS, *table(WIDTH).__dict__.values(), None, 0, False, 1,
        False,
    ),
    "hutchinson_dot": lambda: (
        torch.ones(2).double(), torch.ones(2, 6), IDS, torch.ones(1, 2), None, 0, 1, True, 1, False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_registration(name: str) -> None:
    """Schema and fake of the Triton operator hold together, and it compiles without a graph break."""
    function = getattr(torch.ops.scoresde_fast_triton, name).default
    torch.library.opcheck(function, CALLS[name](), test_utils=("test_schema", "test_faketensor"))
    eager, compiled = CALLS[name](), CALLS[name]()
    results = function(*eager), torch.compile(function, backend="aot_eager", fullgraph=True)(*compiled)
    for ours, expected in zip((results[1], *compiled), (results[0], *eager), strict=True):
        if isinstance(ours, Tensor):
            assert torch.equal(ours, expected)
