# SPDX-License-Identifier: Apache-2.0
"""``group_norm_silu``: every backend against float64, derivatives, and rejected arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from scoresde_fast.ops.fir_resample import fir_down, fir_up
from scoresde_fast.ops.group_norm_silu import backward, group_norm_silu, operation, tangent
from scoresde_fast.ops.registration import INTERPRETED
from tests.support.steps import opcheck

FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# (B, C, H, W), groups: odd sizes, one pixel, a group size that is not a power of two.
SHAPES = [((2, 8, 6, 6), 2), ((3, 12, 5, 7), 4), ((2, 40, 1, 1), 5)]

# The C++ forward allocates its own memory: csrc/tests checks what it writes.
pytestmark = pytest.mark.usefixtures("poisoned")


@pytest.fixture(params=["reference", "cpu", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that is present here."""
    name = str(request.param)
    skip_if_missing(name)
    return name


def skip_if_missing(name: str, chosen: Any = operation) -> None:
    if name == "triton" and not INTERPRETED:
        pytest.skip("Triton kernels run on a CPU in the interpreter only (TRITON_INTERPRET=1)")
    missing = None if name == "reference" else chosen.backends[name].missing
    if missing:
        pytest.skip(missing)


def case(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, join: bool, shift: int
) -> dict[str, Any]:
    """Arguments of the operation; shift: 0 none, 1 (C,), 2 (B, C)."""
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    batch, channels = shape[:2]
    image: dict[str, Any] = {"dtype": dtype, "memory_format": layout}
    return {
        "x": (2 * normal(*shape) + 3).to(**image),
        "weight": normal(channels),
        "bias": normal(channels).to(torch.bfloat16),
        "shift": [None, normal(channels), normal(batch, channels).half()][shift],
        "residual": normal(*shape).to(**image) if join else None,
        "scale": math.sqrt(0.5) if join else 1.25,
    }


def double(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value.double() if isinstance(value, Tensor) else value for name, value in arguments.items()}


def assert_as_good(ours: Tensor, reference: Tensor, exact: Tensor, exact_of_reference: Tensor | None = None) -> None:
    """Assert an error of at most twice the reference's in the same dtype, plus 1 ulp (float32: 8) of the largest value.

    A float32 result has about ten roundings of half an ulp, and those of sums, whose order depends on the processor.  A
    16-bit result is rounded only once to its dtype, at the end.
    """
    assert (ours.shape, ours.dtype, ours.stride()) == (reference.shape, reference.dtype, reference.stride())
    largest = float(exact.abs().max())
    ulp = torch.finfo(ours.dtype).eps * 2.0 ** math.floor(math.log2(largest)) if largest else 0.0
    ulps = 8 if ours.dtype == torch.float32 else 1
    theirs = (reference.double() - (exact if exact_of_reference is None else exact_of_reference)).abs().max()
    assert float((ours.double() - exact).abs().max()) <= 2 * float(theirs) + ulps * ulp


def check(backend: str, arguments: dict[str, Any], groups: int, **options: Any) -> None:
    ours = group_norm_silu(groups=groups, **arguments, **options, implementation=operation.choose("cpu", backend))
    reference = group_norm_silu(groups=groups, **arguments, **options, implementation=operation.reference)
    exact = group_norm_silu(groups=groups, **double(arguments), **options)
    if arguments["residual"] is None:
        assert ours[1].shape == (0,)
        exact_of_reference = exact
    else:
        assert_as_good(ours[1], reference[1], exact[1])
        # The norm is computed from the stored h.
        norm = {"weight": arguments["weight"].double(), "bias": arguments["bias"].double(), "groups": groups, **options}
        exact, exact_of_reference = (group_norm_silu(h[1].double(), **norm) for h in (ours, reference))
    for index in (0, 2):
        assert_as_good(ours[index], reference[index], exact[index], exact_of_reference[index])


@pytest.mark.parametrize("join", [False, True], ids=["alone", "join"])
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
def test_accuracy(backend: str, shape: tuple[int, ...], groups: int, dtype: str, layout: str, join: bool) -> None:
    """y, h and the statistics are as accurate as the reference, for every kind of shift, stride and dtype."""
    for shift in (1,) if join else (0, 2):
        check(backend, case(shape, DTYPES[dtype], FORMATS[layout], join, shift), groups)


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("taps", [(1.0, 3.0, 3.0, 1.0), (1.0, 1.0), (1.0, 2.0, 4.0)], ids=str)
@pytest.mark.parametrize("resample", ["up", "down"])
def test_resampling(backend: str, resample: str, taps: tuple[float, ...], layout: str) -> None:
    """The filter follows the activation, for any number of taps."""
    if backend == "triton":
        pytest.importorskip("scoresde_fast.kernels.fir_resample")
    for dtype in (torch.float32, torch.bfloat16):
        check(backend, case((2, 8, 6, 10), dtype, FORMATS[layout], True, 1), 2, resample=resample, taps=taps)


def test_reference_equals_torch() -> None:
    """The result is that of the sum, torch's GroupNorm and SiLU, and `fir_resample`."""
    arguments = double(case((2, 8, 6, 4), torch.float32, torch.contiguous_format, True, 2))
    y, h, statistics = group_norm_silu(groups=2, **arguments, resample="down")
    joined = (arguments["x"] + arguments["shift"][:, :, None, None] + arguments["residual"]) * math.sqrt(0.5)
    z = F.group_norm(joined, 2, arguments["weight"], arguments["bias"], 1e-6)
    torch.testing.assert_close(y, fir_down(F.silu(z), (1, 3, 3, 1)))
    torch.testing.assert_close(h, joined)
    torch.testing.assert_close(statistics[..., 0], joined.reshape(2, 2, -1).mean(-1))
    plain, empty, _ = group_norm_silu(joined, arguments["weight"], arguments["bias"], 2, silu=False, resample="up")
    torch.testing.assert_close(plain, fir_up(z, (1, 3, 3, 1)))
    assert empty.shape == (0,)


@pytest.mark.parametrize("layout", FORMATS)
def test_slabs_too_large_for_registers(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Triton kernels that work in pieces are as accurate, also if the last piece is partial."""
    skip_if_missing("triton")
    plan = pytest.importorskip("scoresde_fast.kernels.group_norm_plan")
    launcher = pytest.importorskip("scoresde_fast.kernels.group_norm_silu")
    monkeypatch.setattr(plan, "MAX_SLAB_BYTES", 0)
    monkeypatch.setattr(launcher, "PIECE", 256)
    for join, shift in ((False, 2), (True, 1)):
        for dtype in (torch.float32, torch.bfloat16):
            check("triton", case((2, 12, 9, 11), dtype, FORMATS[layout], join, shift), 3)


def test_mean_far_from_zero(backend: str) -> None:
    """With a mean of a thousand standard deviations, y is accurate up to the rounding of the mean.

    torch's norm, which the reference uses, subtracts squares here and may lose every digit.
    """
    arguments = case((2, 8, 8, 8), torch.float32, torch.channels_last, False, 0)
    arguments["x"] = arguments["x"] + 2000
    check(backend, arguments, 2)
    if backend == "cpu":
        y = group_norm_silu(groups=2, **arguments, implementation=operation.choose("cpu", backend))[0]
        exact, _, statistics = group_norm_silu(groups=2, **double(arguments))
        steepest = 1.1 * arguments["weight"].abs().max() * statistics[..., 1].max()
        assert (y.double() - exact).abs().max() <= 2 * 2.0**-24 * statistics[..., 0].max() * steepest


def test_independent_of_batch(backend: str) -> None:
    """A sample has the same bits in any batch, and for any division of the groups among threads."""
    run = operation.choose("cpu", backend)
    arguments = case((5, 16, 24, 24), torch.bfloat16, torch.channels_last, False, 2)
    whole = group_norm_silu(groups=4, **arguments, implementation=run)
    for sample in (0, 4):
        alone = {
            **arguments,
            "x": arguments["x"][sample : sample + 1],
            "shift": arguments["shift"][sample : sample + 1],
        }
        for ours, theirs in zip(group_norm_silu(groups=4, **alone, implementation=run), whole, strict=True):
            assert torch.equal(ours, theirs[sample : sample + 1])


@pytest.mark.parametrize("shape", [(0, 8, 4, 4), (2, 8, 0, 4)], ids=str)
@pytest.mark.parametrize("resample", ["none", "up"])
def test_empty(backend: str, shape: tuple[int, ...], resample: str) -> None:
    """Zero samples and zero pixels are valid."""
    if backend == "triton" and resample != "none":
        pytest.importorskip("scoresde_fast.kernels.fir_resample")
    x = torch.zeros(shape)
    run = operation.choose("cpu", backend)
    y, _, statistics = group_norm_silu(x, torch.ones(8), torch.zeros(8), 2, resample=resample, implementation=run)
    factor = 2 if resample == "up" else 1
    assert y.shape == (*shape[:2], factor * shape[2], factor * shape[3])
    assert torch.equal(statistics, torch.zeros(shape[0], 2, 2))


def test_opcheck(backend: str) -> None:
    """Schema, fake, strides and dispatch of the registered operators are consistent."""
    run = operation.choose("cpu", backend)
    for layout in FORMATS.values():
        a = case((2, 8, 4, 6), torch.float32, layout, True, 2)
        opcheck(run, (a["x"], a["weight"], a["bias"], 2, 1e-6, a["shift"], a["residual"], 0.5, True, "none", []))
        opcheck(run, (a["x"], a["weight"], a["bias"], 2, 1e-6, None, None, 1.0, True, "none", []))


@pytest.mark.parametrize("joined", [False, True], ids=["alone", "joined"])
@pytest.mark.parametrize("layout", FORMATS)
def test_derivatives_of_every_backend(backend: str, layout: str, joined: bool) -> None:
    """The gradient and tangent operators are as accurate as their references."""
    for op in (backward, tangent):
        skip_if_missing(backend, op)
    a = case((2, 12, 5, 7), torch.float32, FORMATS[layout], True, 0)
    x, r, shift = a["x"], a["residual"], None if joined else torch.linspace(-1, 1, 24).view(2, 12)
    statistics = operation.reference(x, a["weight"], a["bias"], 3, 1e-6, shift, None, 1.0, True, "none", [])[2]
    for dtype in (torch.float32, torch.bfloat16):
        g, source = r.to(dtype), x.to(dtype)
        rest = (source, shift, statistics, a["weight"], a["bias"], 3, 1.0 if not joined else 0.7, joined, True)
        for op, arguments in ((backward, (g, g.flip(0) if joined else None, *rest)), (tangent, (g, *rest))):
            exact = op.reference(*(value.double() if isinstance(value, Tensor) else value for value in arguments))
            ours, reference = op.choose("cpu", backend)(*arguments), op.reference(*arguments)
            lists = ([ours], [reference], [exact]) if op is tangent else (ours, reference, exact)
            for result, of_reference, truth in zip(*lists, strict=True):
                assert_as_good(result, of_reference, truth.double())


@pytest.mark.parametrize("join", [False, True], ids=["alone", "join"])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_gradients(resample: str, join: bool) -> None:
    """Gradients of every tensor, through y and h, equal those of torch's operators in float64; compiled ones too."""

    def loss(*tensors: Tensor) -> Tensor:
        x, weight, bias, shift = tensors[:4]
        y, h, _ = group_norm_silu(
            x, weight, bias, 2, shift=shift, residual=tensors[4] if join else None, scale=0.7, resample=resample
        )
        return (y * y.sin()).sum() + (h.cos().sum() if join else 0)

    a = case((2, 8, 6, 6), torch.float32, torch.channels_last, True, 2)
    leaves = [a["x"], a["weight"], a["bias"].float(), a["shift"].float(), a["residual"]][: 5 if join else 4]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    ours = torch.autograd.grad(loss(*leaves), leaves)
    exact = torch.autograd.grad(loss(*(leaf.double() for leaf in leaves)), leaves)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    of_compiled = torch.autograd.grad(compiled(*leaves), leaves)
    for eager, truth, again in zip(ours, exact, of_compiled, strict=True):
        torch.testing.assert_close(eager, truth, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(eager, again)


@pytest.mark.parametrize("join", [False, True], ids=["alone", "join"])
@pytest.mark.parametrize("resample", ["none", "up", "down"])
def test_tangents(resample: str, join: bool) -> None:
    """Dual tensors, `torch.func.jvp` and a compiled `jvp` agree with central differences in float64."""
    a = case((2, 8, 6, 6), torch.float32, torch.channels_last, True, 2)
    primals = (a["x"], a["shift"].float(), a["residual"])
    tangents = tuple(primal.cos() for primal in primals)

    def run(x: Tensor, shift: Tensor, residual: Tensor) -> Tensor:
        weight, bias = a["weight"].to(x.dtype), a["bias"].to(x.dtype)
        added = residual if join else None
        y, h, _ = group_norm_silu(x, weight, bias, 2, shift=shift, residual=added, scale=0.7, resample=resample)
        return torch.cat([y.flatten(), h.flatten()])

    def along(step: float) -> Tensor:
        return run(*(p.double() + step * t.double() for p, t in zip(primals, tangents, strict=True)))

    exact = (along(1e-5) - along(-1e-5)) / 2e-5
    ours = torch.func.jvp(run, primals, tangents)[1]
    torch.testing.assert_close(ours.double(), exact, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(lambda *p: torch.func.jvp(run, p, tangents)[1], fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*primals), ours)
    with forward_ad.dual_level():
        dual = run(*(forward_ad.make_dual(p, t) for p, t in zip(primals, tangents, strict=True)))
        torch.testing.assert_close(forward_ad.unpack_dual(dual).tangent, ours)


def test_tangent_of_weight() -> None:
    """A tangent of weight or bias is rejected, not ignored."""
    x, weight = torch.randn(1, 4, 2, 2), torch.ones(4)
    with pytest.raises(NotImplementedError, match="no tangent in weight or bias"):
        torch.func.jvp(lambda w: group_norm_silu(x, w, torch.zeros(4), 1)[0], (weight,), (weight,))


X = torch.zeros(2, 8, 4, 6)
REFUSALS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": ({"x": X.int()}, TypeError, "x is int32; it must be float32"),
    "shape": ({"x": X[0]}, ValueError, r"x has shape \(8, 4, 6\); it must be \(B, C, H, W\)"),
    "strides": ({"x": X.mT}, ValueError, "it must be contiguous or channels_last"),
    "groups": ({"groups": 3}, ValueError, "groups is 3; it must be a positive divisor of the 8 channels"),
    "no groups": ({"groups": 0}, ValueError, "groups is 0"),
    "weight": ({"weight": torch.ones(7)}, ValueError, r"weight has shape \(7,\).* it must be \(8,\)"),
    "bias dtype": ({"bias": torch.zeros(8).double()}, TypeError, "bias is float64"),
    "shift": ({"shift": torch.zeros(3, 8)}, ValueError, r"shift has shape \(3, 8\).* it must be \(8,\) or \(2, 8\)"),
    "shift strides": ({"shift": torch.zeros(8, 2).T}, ValueError, "shift has strides"),
    "device": ({"shift": torch.zeros(8, device="meta")}, ValueError, "shift is on meta, x on cpu"),
    "residual": ({"residual": X[:1]}, ValueError, r"residual has shape \(1, 8, 4, 6\); it must be \(2, 8,"),
    "residual dtype": ({"residual": X.half()}, TypeError, "residual is float16; it must be float32"),
    "residual format": (
        {"residual": X.to(memory_format=torch.channels_last)},
        ValueError,
        "residual has strides .* it must be ",
    ),
    "resample": ({"resample": "upp"}, ValueError, "unknown resample 'upp' - did you mean 'up'"),
    "taps": ({"resample": "up", "taps": (1.0,)}, ValueError, "a filter has 2 to 12 values"),
    "odd": ({"x": torch.zeros(2, 8, 5, 6), "resample": "down"}, ValueError, "only even heights and widths"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    """The message names the value and what is allowed."""
    changed, error, sentence = REFUSALS[name]
    arguments: dict[str, Any] = {"x": X, "weight": torch.ones(8), "bias": torch.zeros(8), "groups": 2}
    with pytest.raises(error, match=sentence):
        group_norm_silu(**{**arguments, **changed})
