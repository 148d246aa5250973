# SPDX-License-Identifier: Apache-2.0
"""The operation ``fir_resample``: its formula, every backend, gradients, tangents, and rejected arguments."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from torch.autograd import forward_ad

from scoresde_fast.ops.fir_resample import DIRECTIONS, fir_down, fir_resample, fir_up, operation
from tests.support.steps import backends, opcheck

TAPS = [1.0, 3.0, 3.0, 1.0]
FILTERS = [TAPS, [1.0, 2.0], [1.0, 2.0, 1.0], [1.0, 2.0, 5.0, -1.0, 0.5], [float(k % 5 + 1) for k in range(12)]]
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


@pytest.fixture(params=["reference", *backends(operation)])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that is present here."""
    return str(request.param)


def image(*shape: int, dtype: torch.dtype = torch.float32, layout: str = "nchw", seed: int = 0) -> torch.Tensor:
    """Return normals, rounded to ``dtype``."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.to(dtype).contiguous(memory_format=FORMATS[layout])


def by_formula(x: torch.Tensor, taps: list[float], direction: str, offset: int, gain: float) -> torch.Tensor:
    """Apply the module's formula, as a matrix for each axis."""

    def matrix(length: int) -> torch.Tensor:
        size = 2 * length if direction == "up" else length // 2
        m = torch.zeros(size, length, dtype=torch.float64)
        for n, i in itertools.product(range(size), range(length)):
            tap = n + offset - 2 * i if direction == "up" else 2 * n + offset - i
            m[n, i] = taps[tap] / sum(taps) if 0 <= tap < len(taps) else 0.0
        return m

    return gain * matrix(x.shape[2]) @ x.double() @ matrix(x.shape[3]).T


@pytest.mark.parametrize("taps", FILTERS, ids=len)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_reference_is_the_formula(taps: list[float], direction: str) -> None:
    """The reference is exact at every offset, for odd and even filters, also filters wider than the image."""
    x = image(2, 3, 4, 6, dtype=torch.float64)
    for offset in range(len(taps)):
        ours = operation.reference(x, taps, direction, offset, 2.5)
        torch.testing.assert_close(ours, by_formula(x, taps, direction, offset, 2.5), rtol=1e-12, atol=1e-13)


def assert_accurate(x: torch.Tensor, taps: list[float], direction: str, offset: int, backend: str) -> None:
    """Assert that the error against float64 is at most that of a float32 sum in any order, plus one final rounding.

    On each axis a tap, its product and up to K - 1 sums are rounded, each by at most 2^-24 of the summed magnitudes.
    """
    gain = 4.0 if direction == "up" else 1.0
    arguments = (taps, direction, offset, gain)
    exact = by_formula(x, *arguments)
    ours, reference = operation.choose("cpu", backend)(x, *arguments), operation.reference(x, *arguments)
    assert ours.shape == exact.shape
    assert ours.dtype == x.dtype
    assert ours.stride() == reference.stride()
    if backend == "reference":  # torch's convolution, which is compared with the formula in float64
        return
    sizes = [abs(tap) for tap in taps]
    summed = by_formula(x.abs(), sizes, direction, offset, gain * (sum(sizes) / sum(taps)) ** 2)
    bound = 2 * (len(taps) + 1) * 2.0**-24 * summed
    if x.dtype != torch.float32:
        info = torch.finfo(x.dtype)
        bound += info.eps / 2 * (exact.abs() + bound + info.smallest_normal)
    assert ((ours.double() - exact).abs() <= bound).all()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_backends_with_the_usual_filter(direction: str, dtype: torch.dtype, layout: str, backend: str) -> None:
    """The filter of NCSN++ is correct for sizes that fill vectors and sizes that do not."""
    shapes = [(1, 9, 4, 8)] if backend == "triton" else [(2, 3, 6, 10), (1, 16, 8, 8), (1, 8, 4, 32), (2, 9, 2, 34)]
    for shape in shapes:
        offset = 1 if direction == "up" else 2
        assert_accurate(image(*shape, dtype=dtype, layout=layout), TAPS, direction, offset, backend)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("taps", FILTERS[1:], ids=len)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_backends_with_every_filter(direction: str, taps: list[float], layout: str, backend: str) -> None:
    """Filters of 2 to 12 taps, also asymmetric, are correct at the offsets of the forward and the adjoint."""
    for offset in {0, (len(taps) - 1) // 2, len(taps) - 1} if backend != "triton" else {len(taps) // 2}:
        assert_accurate(image(1, 8, 2, 4, layout=layout), taps, direction, offset, backend)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_cpu_kernel_on_large_images(direction: str) -> None:
    """Large images are correct: many rows, rows with many channels, blocks that end inside an image."""
    for shape, layout in [
        ((1, 2, 70, 66), "nchw"),
        ((1, 3, 30, 70), "channels_last"),
        ((1, 520, 4, 40), "channels_last"),
    ]:
        for taps in (TAPS, FILTERS[3]):
            assert_accurate(image(*shape, layout=layout), taps, direction, len(taps) // 2, _present("cpu"))


def _present(name: str) -> str:
    missing = operation.backends[name].refusal("cpu")
    if missing is not None:
        pytest.skip(missing)
    return name


def test_means_are_kept(backend: str) -> None:
    """A constant image stays constant, except at the borders."""
    x = torch.ones(1, 1, 6, 6)
    choose = operation.choose("cpu", backend)
    torch.testing.assert_close(choose(x, TAPS, "up", 1, 4.0)[..., 1:-1, 1:-1], torch.ones(1, 1, 10, 10))
    torch.testing.assert_close(choose(x, TAPS, "down", 2, 1.0)[..., 1:-1, 1:-1], torch.ones(1, 1, 1, 1))


@pytest.mark.parametrize("taps", [TAPS, [1.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0, 7.0]], ids=len)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_gradients(direction: Literal["up", "down"], taps: list[float]) -> None:
    """First and second derivatives in backward and forward mode agree with finite differences."""
    x = image(1, 2, 2, 4, dtype=torch.float64).requires_grad_()
    for layout in FORMATS.values():

        def resample(x: torch.Tensor, layout: torch.memory_format = layout) -> torch.Tensor:
            return fir_resample(x.contiguous(memory_format=layout), taps, direction)

        assert torch.autograd.gradcheck(resample, x, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(resample, x, check_fwd_over_rev=True)


def test_transforms() -> None:
    """torch.func's transforms, also nested, give the derivatives of a linear map."""
    x, v = (image(2, 3, 4, 4, dtype=torch.float64, seed=seed) for seed in (0, 1))

    def ours(x: torch.Tensor) -> torch.Tensor:
        return fir_down(fir_up(x * x, TAPS).sin(), TAPS)

    def plain(x: torch.Tensor) -> torch.Tensor:
        return by_formula(by_formula(x * x, TAPS, "up", 1, 4.0).sin(), TAPS, "down", 2, 1.0)

    def jvp(f: Callable[..., torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(f, (x,), (v,))[1]

    def slope(f: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return torch.func.grad(lambda x: f(x).sum())

    transforms: list[Callable[..., torch.Tensor]] = [
        lambda f: jvp(f, x),
        lambda f: jvp(lambda x: jvp(f, x), x),
        lambda f: torch.func.grad(lambda x: f(x).square().sum())(x),
        lambda f: jvp(slope(f), x),
        lambda f: torch.func.grad(lambda x: jvp(f, x).sum())(x),
        lambda f: torch.func.vmap(f)(torch.stack([x, v])),
    ]
    for transform in transforms:
        torch.testing.assert_close(transform(ours), transform(plain))


def test_tangents_without_gradients() -> None:
    """Tangents are computed when gradients are disabled."""
    x, v = image(1, 2, 4, 4), image(1, 2, 4, 4, seed=1)
    with torch.no_grad(), forward_ad.dual_level():
        y = fir_up(forward_ad.make_dual(x, v), TAPS)
        assert torch.equal(forward_ad.unpack_dual(y).tangent, fir_up(v, TAPS))


def test_compiles() -> None:
    """Forward and backward compile to one graph and give the eager values, up to the sine's last bit."""
    x = image(1, 3, 4, 4, layout="channels_last").requires_grad_()
    compiled = torch.compile(lambda x: fir_down(fir_up(x, TAPS).sin(), TAPS), fullgraph=True, backend="aot_eager")
    y = compiled(x)
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    expected = fir_down(fir_up(x, TAPS).sin(), TAPS)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), x)[0])


@pytest.mark.parametrize("layout", FORMATS)
def test_opcheck(layout: str, backend: str) -> None:
    """Schema, fake and dispatch of the registered operators are consistent."""
    x = image(2, 3, 4, 4, layout=layout)
    opcheck(operation.choose("cpu", backend), (x, TAPS, "up", 1, 4.0))
    opcheck(torch.ops.scoresde_fast.fir_resample.default, (x.requires_grad_(), TAPS, "down", 2, 1.0))


@pytest.mark.parametrize("layout", FORMATS)
def test_memory_format_is_kept(layout: str, backend: str) -> None:
    """The memory format is kept, also when resampling down to one pixel and up from it."""
    choose = operation.choose("cpu", backend)
    pixel = choose(image(2, 4, 2, 2, layout=layout), TAPS, "down", 2, 1.0)
    assert pixel.shape == (2, 4, 1, 1)
    assert choose(pixel, TAPS, "up", 1, 4.0).is_contiguous(memory_format=FORMATS[layout])


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_empty(direction: str, shape: tuple[int, ...], backend: str) -> None:
    """Zero images, channels or rows are valid."""
    y = operation.choose("cpu", backend)(torch.empty(shape), TAPS, direction, 1, 1.0)
    factor = 2.0 if direction == "up" else 0.5
    assert y.shape == (*shape[:2], int(factor * shape[2]), int(factor * shape[3]))


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((torch.ones(1, 1, 4, 4).int(), TAPS, "up"), TypeError, "x is int32; it must be float32"),
        ((torch.ones(4, 4), TAPS, "up"), ValueError, r"x has shape \(4, 4\); it must be \(B, C, H, W\)"),
        ((torch.ones(1, 2, 4, 4)[..., ::2], TAPS, "up"), ValueError, "must be contiguous or channels_last"),
        ((torch.ones(1, 1, 4, 5), TAPS, "down"), ValueError, r"\(1, 1, 4, 5\); only even heights and widths"),
        ((torch.ones(1, 1, 4, 4), TAPS, "upp"), ValueError, "unknown direction 'upp' - did you mean 'up'"),
        ((torch.ones(1, 1, 4, 4), [1.0], "up"), ValueError, r"taps \(1.0,\) has 1 values; a filter has 2 to 12"),
        ((torch.ones(1, 1, 4, 4), [1.0] * 13, "up"), ValueError, "has 13 values; a filter has 2 to 12"),
        ((torch.ones(1, 1, 4, 4), [1.0, -1.0], "up"), ValueError, "sum to 0 and cannot be normalised"),
    ],
    ids=["dtype", "dimensions", "strides", "odd", "direction", "one tap", "13 taps", "zero sum"],
)
def test_refusals(arguments: tuple[Any, ...], error: type[Exception], sentence: str) -> None:
    """The message names the value and what is allowed."""
    with pytest.raises(error, match=sentence):
        fir_resample(*arguments)


def test_offset_outside_the_filter() -> None:
    """An offset outside the filter is rejected."""
    with pytest.raises(ValueError, match="offset 4 is outside the filter; with 4 taps it must be 0 to 3"):
        fir_resample(torch.ones(1, 1, 4, 4), TAPS, "up", offset=4)
