# SPDX-License-Identifier: Apache-2.0
"""The operation ``convolution``: every backend and tile against float64, derivatives, and rejected arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from scoresde_fast.ops import convolution as module
from scoresde_fast.ops.convolution import convolution, operation
from scoresde_fast.ops.registration import INTERPRETED
from tests.support.steps import backends, opcheck

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
# (B, C, H, W), K: smaller and larger than a tile in each, odd sizes, images thinner than the kernel's halo.
SHAPES = [((3, 5, 7, 6), 9), ((2, 72, 4, 4), 24), ((5, 3, 1, 2), 130), ((1, 16, 9, 17), 64)]
CASES: list[tuple[tuple[int, int, int, int], int, tuple[str, ...]]] = [(*shape, ()) for shape in SHAPES]
CASES += [(*SHAPES[0], without) for without in (("bias",), ("residual",), ("bias", "residual"))]

pytestmark = pytest.mark.usefixtures("poisoned")
needs_interpreter = pytest.mark.skipif(not INTERPRETED, reason="TRITON_INTERPRET=1 was not set before the import")


@pytest.fixture(params=["reference", *backends(operation)])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that is present here."""
    return str(request.param)


def case(
    shape: tuple[int, ...],
    outputs: int,
    side: int = 3,
    dtype: torch.dtype = torch.bfloat16,
    layout: torch.memory_format = torch.channels_last,
) -> dict[str, Any]:
    """Arguments of the operation, with bias and residual."""
    generator = torch.Generator().manual_seed(sum(shape) + outputs)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    channels = shape[1]
    image: dict[str, Any] = {"dtype": dtype, "memory_format": layout}
    return {
        "x": (normal(*shape) + 0.5).to(**image),
        "weight": (normal(outputs, channels, side, side) / (side * channels**0.5)).to(**image),
        "bias": normal(outputs),
        "residual": normal(shape[0], outputs, *shape[2:]).to(**image),
        "scale": math.sqrt(0.5),
    }


def double(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value.double() if isinstance(value, Tensor) else value for name, value in arguments.items()}


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None, scale: float) -> Tensor:
    """The operation in plain PyTorch."""
    h = F.conv2d(x, weight, None if bias is None else bias.to(x.dtype), padding="same")
    return h if residual is None else h + scale * residual


def assert_as_good(ours: Tensor, arguments: dict[str, Any]) -> None:
    """The error is at most twice the plain form's in the same dtype, plus 1 ulp of the largest value."""
    assert_errors(ours, plain(**arguments), plain(**double(arguments)))


def assert_errors(ours: Tensor, same_dtype: Tensor, exact: Tensor) -> None:
    assert (ours.shape, ours.dtype) == (exact.shape, same_dtype.dtype)
    ulp = torch.finfo(ours.dtype).eps * 2.0 ** math.floor(math.log2(float(exact.abs().max())))
    error, plain_error = (float((result.double() - exact).abs().max()) for result in (ours, same_dtype))
    assert error <= 2 * plain_error + ulp


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("side", [3, 1])
@pytest.mark.parametrize(("shape", "outputs", "without"), CASES, ids=str)
def test_error_against_float64(
    backend: str, shape: tuple[int, ...], outputs: int, without: tuple[str, ...], side: int, dtype: torch.dtype
) -> None:
    """Every shape, kernel, dtype and form, in channels_last."""
    arguments = case(shape, outputs, side, dtype) | dict.fromkeys(without)
    ours = convolution(**arguments, implementation=operation.choose("cpu", backend))
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert_as_good(ours, arguments)


@pytest.mark.parametrize("side", [3, 1])
@pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS)
def test_default_backend(layout: torch.memory_format, side: int) -> None:
    """The result has the memory format of x, not of the weight; one pixel or one channel counts as channels_last."""
    arguments = case((2, 6, 5, 4), 10, side, torch.float32, layout)
    ours = convolution(**arguments)
    assert ours.is_contiguous(memory_format=layout)
    assert_as_good(ours, arguments)
    arguments["weight"] = arguments["weight"].contiguous(memory_format=torch.channels_last)
    assert convolution(**arguments).is_contiguous(memory_format=layout)
    for shape in ((2, 6, 1, 1), (2, 1, 5, 4)):
        image = case(shape, 10, side, torch.float32, layout)
        image["residual"] = image["residual"].contiguous(memory_format=torch.channels_last)
        assert convolution(**image).is_contiguous(memory_format=torch.channels_last)


def tiles() -> list[Any]:
    """Every tile of the table, with its dtype and precision."""
    if not INTERPRETED:
        return []
    from scoresde_fast.kernels.convolution import TILES

    kinds = {"16 bits": (torch.bfloat16, False), "tf32": (torch.float32, True), "ieee": (torch.float32, False)}
    return [pytest.param(tile, *kinds[kind], id=f"{kind}-{tile}") for kind, group in TILES.items() for tile in group]


@needs_interpreter
@pytest.mark.parametrize(("tile", "dtype", "tf32"), tiles())
def test_every_tile(tile: Any, dtype: torch.dtype, tf32: bool) -> None:
    """Each tile is accurate where it ends within an image, spans several images or exceeds the pixels or channels."""
    from scoresde_fast.kernels.convolution import convolution as launch

    for size in ((4, 4), (11, 13)):
        arguments = case((2, tile.c + 8, *size), 40, 3, dtype)
        assert_as_good(launch(**arguments, tf32=tf32, tile=tile), arguments)


@needs_interpreter
def test_choose_tile() -> None:
    """Large tiles are chosen where they occupy a GPU, and small tiles for few pixels or few channels."""
    from scoresde_fast.kernels.convolution import TILES, Tile, choose_tile

    assert choose_tile(256 * 256, 256, 256, 2, False) == TILES["16 bits"][0]
    assert choose_tile(256 * 1024, 128, 128, 2, False) == TILES["16 bits"][1]
    assert choose_tile(16, 256, 256, 2, False) == TILES["16 bits"][-1]
    assert choose_tile(256 * 1024, 3, 3, 2, False) == Tile(128, 16, 16, 8, 3)
    assert choose_tile(256 * 1024, 128, 128, 4, True) == TILES["tf32"][0]


@needs_interpreter
@pytest.mark.parametrize("side", [3, 1])
def test_independent_images(side: int) -> None:
    """In one tile, an image gives the same bits alone and in a batch, even beside one that has become NaN.

    The numbers have so few bits that sums are exact, because the interpreter's matrix product may sum in another order.
    """
    arguments = case((3, 16, 3, 5), 8, side)
    for name in ("x", "weight", "bias"):
        arguments[name] = (16 * arguments[name]).round() / 16
    run = operation.choose("cpu", "triton")
    alone = {name: arguments[name][1:2] for name in ("x", "residual")}
    expected = convolution(**arguments | alone, implementation=run)
    arguments["x"][::2], arguments["residual"][::2] = math.nan, math.nan
    torch.testing.assert_close(convolution(**arguments, implementation=run)[1:2], expected, rtol=0, atol=0)


def test_empty(backend: str) -> None:
    """Zero images are valid."""
    arguments = case((0, 8, 4, 4), 5)
    assert convolution(**arguments, implementation=operation.choose("cpu", backend)).shape == (0, 5, 4, 4)


@pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS)
def test_opcheck(backend: str, layout: torch.memory_format) -> None:
    """Schema, fake and dispatch of the registered operators are consistent."""
    if backend == "triton" and layout == torch.contiguous_format:
        pytest.skip("the kernel reads channels_last")
    arguments = tuple(case((2, 8, 4, 4), 6, layout=layout).values())
    opcheck(operation.choose("cpu", backend), arguments)
    opcheck(operation.choose("cpu", backend), (*arguments[:2], None, None, 1.0, True))
    opcheck(torch.ops.scoresde_fast.convolution.default, arguments)


@pytest.fixture(params=[False, True], ids=["plain", "fused"])
def listed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the table of shapes lists ``case((2, 8, 4, 4), 6)`` for the fused form."""
    monkeypatch.setattr(module, "FASTER_FUSED", frozenset({(16, 8, 6, 3)} if request.param else ()))
    return bool(request.param)


def test_default_form(listed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fused form runs for listed shapes and for 1x1 with a residual, but only in 16 bits and channels_last."""
    called = []
    fused = torch.ops.scoresde_fast.convolution.default

    def count(*arguments: Any) -> Tensor:
        called.append(1)
        return fused(*arguments)

    monkeypatch.setattr(torch.ops.scoresde_fast.convolution, "default", count)
    convolution(**case((2, 8, 4, 4), 6))
    assert len(called) == listed
    for other in (
        case((2, 8, 4, 4), 6, 1) | {"residual": None},
        case((2, 8, 4, 4), 6, 1, dtype=torch.float32),
        case((2, 8, 4, 4), 6, dtype=torch.float32),
        case((2, 8, 4, 4), 6, layout=torch.contiguous_format),
    ):
        convolution(**other)
    assert len(called) == listed
    convolution(**case((2, 8, 4, 4), 6, 1))
    assert len(called) == listed + 1


def test_compile(listed: bool) -> None:
    """torch.compile finds no graph break with either form, and keeps the memory format."""
    arguments = case((2, 8, 4, 4), 6)
    compiled = torch.compile(convolution, fullgraph=True, backend="aot_eager")(**arguments)
    torch.testing.assert_close(compiled, convolution(**arguments), rtol=0, atol=0)
    assert compiled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["x", "weight", "bias", "residual"])
def test_gradients(listed: bool, name: str) -> None:
    """Gradients are those of the reference, also for shapes whose forward would run fused."""
    arguments = case((2, 8, 4, 4), 6)
    cotangent = arguments["residual"].flip(0, 1)

    def gradient(run: Callable[..., Tensor], arguments: dict[str, Any]) -> Tensor:
        inputs = arguments | {name: arguments[name].clone().requires_grad_()}
        run(**inputs).backward(cotangent.to(arguments["x"].dtype))
        return inputs[name].grad

    assert_errors(gradient(convolution, arguments), gradient(plain, arguments), gradient(plain, double(arguments)))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
def test_tangents(listed: bool, compiled: bool) -> None:
    """Forward-mode tangents are correct; without the bias, the operation is linear in its images."""
    arguments = case((2, 8, 4, 4), 6)
    directions = arguments["x"].flip(0, 2), arguments["residual"].flip(0, 3)

    def tangent(x: Tensor, residual: Tensor) -> Tensor:
        run: Callable[..., Tensor] = lambda x, residual: convolution(  # noqa: E731
            x, arguments["weight"], arguments["bias"], residual, arguments["scale"]
        )
        return torch.func.jvp(run, (x, residual), directions)[1]

    run = torch.compile(tangent, fullgraph=True, backend="aot_eager") if compiled else tangent
    changed = dict(zip(("x", "residual"), directions, strict=True))
    assert_as_good(run(arguments["x"], arguments["residual"]), arguments | changed | {"bias": None})


@needs_interpreter
@pytest.mark.parametrize("name", ["x", "weight", "residual"])
def test_kernel_rejects_contiguous(name: str) -> None:
    """The kernel selected by name requires channels_last."""
    arguments = case((2, 8, 4, 4), 6)
    arguments[name] = arguments[name].contiguous()
    with pytest.raises(ValueError, match=rf"reads channels_last memory, but {name} has strides"):
        torch.ops.scoresde_fast_triton.convolution(*arguments.values())


@needs_interpreter
def test_kernel_rejects_float64() -> None:
    """The kernel selected by name rejects float64 and lists the supported dtypes."""
    with pytest.raises(ValueError, match="takes float32, bfloat16 and float16, not float64"):
        convolution(**double(case((1, 8, 2, 2), 6)), implementation=operation.choose("cpu", "triton"))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"x": torch.zeros(2, 8, 4, 4, dtype=torch.int32)}, TypeError, "x is int32; it must be float32"),
        ({"x": torch.zeros(2, 8, 4)}, ValueError, r"x has shape \(2, 8, 4\); it must be \(B, C, H, W\)"),
        ({"x": torch.zeros(2, 8, 4, 8)[..., ::2]}, ValueError, "x has strides .* must be contiguous or channels_last"),
        ({"x": torch.zeros(2, 8, 4, 4).half()}, TypeError, "weight is float32; it must be float16"),
        ({"x": torch.zeros(2, 4, 4, 4)}, ValueError, r"weight has shape .* must be \(K, 4, 3, 3\) or \(K, 4, 1, 1\)"),
        ({"x": torch.zeros(2, 8, 4, 4, device="meta")}, ValueError, "weight is on cpu, x on meta"),
        ({"weight": torch.zeros(6, 8, 5, 5)}, ValueError, r"weight has shape \(6, 8, 5, 5\)"),
        ({"weight": torch.zeros(6, 8, 3, 1)}, ValueError, r"weight has shape \(6, 8, 3, 1\)"),
        ({"weight": torch.zeros(6, 8)}, ValueError, r"weight has shape \(6, 8\)"),
        ({"weight": torch.zeros(6, 16, 3, 3)[:, ::2]}, ValueError, "weight has strides"),
        ({"bias": torch.zeros(1)}, ValueError, r"bias has shape \(1,\); for weight of shape .* it must be \(6,\)"),
        ({"bias": torch.zeros(6, dtype=torch.int8)}, TypeError, "bias is int8"),
        ({"bias": torch.zeros(12)[::2]}, ValueError, "bias has strides"),
        ({"residual": torch.zeros(2, 8, 4, 4)}, ValueError, r"residual has shape .* must be \(2, 6, 4, 4\) as"),
        ({"residual": torch.zeros(2, 6, 4, 4).half()}, TypeError, "residual is float16; it must be float32"),
        ({"residual": torch.zeros(2, 6, 4, 4, device="meta")}, ValueError, "residual is on meta, x on cpu"),
        (
            {"residual": torch.zeros(2, 6, 4, 4).contiguous(memory_format=torch.channels_last)},
            ValueError,
            "residual has strides .* it must be contiguous: call",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input(change: dict[str, Tensor], error: type[Exception], sentence: str) -> None:
    """Invalid arguments are rejected before any launch."""
    arguments: dict[str, Any] = {
        "x": torch.zeros(2, 8, 4, 4),
        "weight": torch.zeros(6, 8, 3, 3),
        "bias": torch.zeros(6),
        "residual": torch.zeros(2, 6, 4, 4),
    }
    with pytest.raises(error, match=sentence):
        convolution(**arguments | change)
