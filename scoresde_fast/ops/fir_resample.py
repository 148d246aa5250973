# SPDX-License-Identifier: Apache-2.0
"""``fir_resample``: resampling by two with a separable FIR filter, the anti-aliased resampling of NCSN++.

Song et al. 2021, appendix H.  ``fir_up`` inserts zeros and filters; ``fir_down`` filters and subsamples.  Both keep the
image centred.  With the normalised taps h and the offset o, along each axis:

    up:    y[n] = sum_i x[i] h[n + o - 2 i]        down:    y[m] = sum_j x[j] h[2 m + o - j]

The adjoint of each direction is the other one with the K taps reversed and offset K - 1 - o.  Gradients of any order
therefore use the same operation, and so do tangents, because it is linear.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from scoresde_fast.ops import checks
from scoresde_fast.ops.derivatives import SingleLevelFunction, below_autograd, needs_derivatives
from scoresde_fast.ops.registration import define, library

Direction = Literal["up", "down"]
DIRECTIONS = get_args(Direction)


def fir_up(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Upsample (B, C, H, W) to (B, C, 2H, 2W): insert zeros, then filter by ``taps`` with gain 4 to keep the mean."""
    return fir_resample(x, taps, "up")


def fir_down(x: Tensor, taps: Sequence[float]) -> Tensor:
    """Downsample (B, C, H, W) to (B, C, H/2, W/2): filter by ``taps`` with gain 1, keep every second pixel."""
    return fir_resample(x, taps, "down")


def fir_resample(
    x: Tensor, taps: Sequence[float], direction: Direction, *, offset: int | None = None, gain: float | None = None
) -> Tensor:
    """Resample by two along height and width, to (B, C, 2H, 2W) or (B, C, H/2, W/2), in dtype and format of ``x``.

    Args:
        x: (B, C, H, W), float32, bfloat16, float16 or float64, contiguous or channels_last; "down" requires even H and
            W.  Sums are computed in float32, or in float64 for float64.
        taps: filter of each axis, 2 to 12 numbers; they are normalised to the sum 1.
        direction: "up" or "down".
        offset: o in the module's formula, in [0, K); None keeps the image centred.
        gain: total gain of both axes; None keeps the mean (4 for "up", 1 for "down").

    Raises:
        TypeError, ValueError: an argument is not as described.
    """
    compiling = torch.compiler.is_compiling()
    settings = (_settings if compiling else _cached_settings)(tuple(taps), direction, offset, gain)
    if not compiling and not needs_derivatives(x):
        backend = operation.default(x.device)
        if not backend.checks:
            _require_image(x, direction)
        try:
            return backend.function(x, *settings)
        except RuntimeError:
            _require_image(x, direction)
            raise
    _require_image(x, direction)
    return torch.ops.scoresde_fast.fir_resample.default(x, *settings)


def fir_kernel(taps: Sequence[float], gain: float = 1.0) -> Tensor:
    """Return the normalised outer product of ``taps`` with itself, times ``gain``: (K, K) float64."""
    row = torch.tensor(taps, dtype=torch.float64)
    square = torch.outer(row, row)
    return gain * square / square.sum()


def fir_filter(x: Tensor, kernel: Tensor, *, pad: int) -> Tensor:
    """Convolve with a `fir_kernel`, after padding each axis with ``pad`` zeros in total, one more in front if odd."""
    # On a CPU the convolution is ten times slower in 16 bits.
    wide = x.float() if x.device.type == "cpu" and x.dtype.itemsize == 2 else x
    if pad % 2:
        wide = F.pad(wide, (1, 0, 1, 0))
    return F.conv2d(wide, _each_channel(kernel.flip(0, 1), wide), padding=pad // 2, groups=x.shape[1]).to(x.dtype)


def centred_offset(taps: int, direction: str) -> int:
    """Return the offset o with which a filter with this number of taps keeps the image centred."""
    return taps - 2 - (taps - 1) // 2 if direction == "up" else taps // 2


def _settings(
    taps: tuple[float, ...], direction: Direction, offset: int | None, gain: float | None
) -> tuple[list[float], Direction, int, float]:
    """Return the operation's arguments after x, validated."""
    checks.require_choice("direction", direction, DIRECTIONS)
    count = len(taps)
    if not 2 <= count <= 12:
        raise ValueError(f"taps {taps} has {count} values; a filter has 2 to 12")
    total = math.fsum(taps)
    if total == 0 or not math.isfinite(total):
        raise ValueError(f"taps {taps} sum to {total:g} and cannot be normalised: choose others")
    if offset is None:
        offset = centred_offset(count, direction)
    if not 0 <= offset < count:
        raise ValueError(f"offset {offset} is outside the filter; with {count} taps it must be 0 to {count - 1}")
    gain = (4.0 if direction == "up" else 1.0) if gain is None else gain
    return [float(tap) for tap in taps], direction, offset, gain


# The checks take longer than filtering a small image.  A compiler can trace the function, but not its cache.
_cached_settings = functools.lru_cache(_settings)


def _require_image(x: Tensor, direction: Direction) -> None:
    checks.require_image("x", x)
    if direction == "down" and (x.shape[2] % 2 or x.shape[3] % 2):
        raise ValueError(f"x has shape {tuple(x.shape)}; only even heights and widths can be halved: pad or crop it")


def _reference(x: Tensor, taps: Sequence[float], direction: Direction, offset: int, gain: float) -> Tensor:
    if x.numel() == 0:
        return _fake(x, taps, direction, offset, gain)
    kernel, channels = _each_channel(fir_kernel(taps, gain), x), x.shape[1]
    # The convolution crops or pads both sides equally; F.pad makes up the difference.
    if direction == "up":
        front, back = offset, len(taps) - 2 - offset
        common = max(0, min(front, back))
        y = F.conv_transpose2d(x, kernel, stride=2, padding=common, groups=channels)
        y = y if front == back else F.pad(y, (common - front, common - back) * 2)
    else:
        front, back = len(taps) - 1 - offset, offset - 1
        common = max(0, min(front, back))
        padded = x if front == back else F.pad(x, (front - common, back - common) * 2)
        y = F.conv2d(padded, kernel.flip(2, 3), stride=2, padding=common, groups=channels)
    return y.contiguous(memory_format=_memory_format(x))


def _fake(x: Tensor, taps: Sequence[float], direction: Direction, offset: int, gain: float) -> Tensor:
    size = [2 * n if direction == "up" else n // 2 for n in x.shape[2:]]
    return torch.empty([*x.shape[:2], *size], dtype=x.dtype, device=x.device, memory_format=_memory_format(x))


def _each_channel(kernel: Tensor, x: Tensor) -> Tensor:
    return kernel.to(x).expand(x.shape[1], 1, -1, -1)


def _memory_format(x: Tensor) -> torch.memory_format:
    return torch.channels_last if _channels_last(x) else torch.contiguous_format


def _channels_last(x: Tensor) -> bool:
    """Return whether the result is channels_last; if ``x`` has both formats, its last stride decides."""
    return x.stride(3) != 1 and x.permute(0, 2, 3, 1).is_contiguous()


class _Resample(SingleLevelFunction):
    @staticmethod
    def forward(*arguments: Any) -> Any:
        return below_autograd(torch.ops.scoresde_fast.fir_resample.default)(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.arguments = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        taps, direction, offset, gain = ctx.arguments
        opposite = "down" if direction == "up" else "up"
        resample = torch.ops.scoresde_fast.fir_resample.default
        return resample(_dense(grads[0]), taps[::-1], opposite, len(taps) - 1 - offset, gain), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        with forward_ad._set_fwd_grad_enabled(True):
            return torch.ops.scoresde_fast.fir_resample.default(_dense(tangents[0]), *ctx.arguments)


def _dense(x: Tensor) -> Tensor:
    """Return ``x`` contiguous or channels_last; gradients and tangents may be expanded or sliced."""
    return x if _channels_last(x) else x.contiguous()


def _over_batches(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *options: Any) -> tuple[Tensor, int]:
    """Resample with one more batch dimension; this is the rule for ``torch.func.vmap``."""
    moved = x.movedim(in_dims[0] or 0, 0)
    merged = _dense(moved.flatten(0, 1))
    y = torch.ops.scoresde_fast.fir_resample.default(merged, *options)
    return y.unflatten(0, moved.shape[:2]), 0


def _autograd(x: Tensor, *options: Any) -> Tensor:
    if needs_derivatives(x):
        return _Resample.record(x, *options)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.scoresde_fast.fir_resample.default(x, *options)


operation = define(
    "fir_resample(Tensor x, float[] taps, str direction, int offset, float gain) -> Tensor",
    _reference,
    _fake,
    order=("triton", "cpu"),
    checked=("cpu",),
)
library.impl("fir_resample", _autograd, "Autograd")
torch.library.register_vmap("scoresde_fast::fir_resample", _over_batches, lib=library)
