# SPDX-License-Identifier: Apache-2.0
"""The convolution of folded networks: weights in the layout and precision of inference, with a fused residual add."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from scoresde_fast.ops.convolution import convolution
from scoresde_fast.ops.derivatives import goes_through_dispatcher, may_have_tangents, with_derivatives
from scoresde_fast.ops.winograd_convolution import fits, operation, unchecked, winograd_weight


class FoldedConvolution(nn.Module):
    """conv2d(x) + bias + residual_scale * residual for inference, channels_last in and out.

    On a CPU a 3x3 convolution that preserves the size uses Winograd's algorithm.  Its weights then take four times the
    memory, and eight times from the first gradient on.  Gradients and tangents pass through x and residual; weights are
    constants.

    Args:
        weight: (K, C, 3, 3) or (K, C, 1, 1).
        bias: (K,) or None.
        dtype: dtype of the feature maps; sums are in float32.
        stride, padding: as in ``torch.nn.Conv2d``.
        residual_scale: factor of the residual.
        reads_images: whether input and products are float32: rounding a noisy image to 16 bits would exceed the noise
            of the last steps.
        writes_images: whether the output is float32.
    """

    winograd: Tensor | None
    weight: Tensor | None
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        dtype: torch.dtype,
        *,
        stride: int = 1,
        padding: int = 0,
        residual_scale: float = 1.0,
        reads_images: bool = False,
        writes_images: bool = False,
    ) -> None:
        super().__init__()
        weight, bias = weight.detach(), None if bias is None else bias.detach()
        on_cpu = weight.device.type == "cpu"
        winograd = on_cpu and stride == 1 and padding == 1 and fits(weight) and operation.present("cpu")
        self.implementation = operation.choose("cpu") if winograd else None
        self.stride, self.padding, self.residual_scale = stride, padding, residual_scale
        self.out_dtype = torch.float32 if writes_images else dtype
        # On a CPU without 16-bit instructions, products of 16 bits take ten times as long.
        self.compute = torch.float32 if on_cpu or reads_images else dtype
        if self.implementation is not None:
            self.register_buffer("winograd", winograd_weight(weight.float()))
            self.register_buffer("weight", None)
            self.register_buffer("bias", None if bias is None else bias.float())
            return
        self.register_buffer("winograd", None)
        self.register_buffer("weight", weight.to(self.compute).contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", None if bias is None else bias.to(self.compute))

    @property
    def uses_winograd(self) -> bool:
        """Whether the CPU's Winograd kernel computes this convolution."""
        return self.implementation is not None

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return (B, K, H, W) for x (B, C, H, W) and a residual (B, K, H, W) or None; with a stride it must be None."""
        if self.implementation is not None:
            assert self.winograd is not None
            return unchecked(self.implementation, x, self.winograd, self.bias, residual, self.residual_scale)
        if may_have_tangents() and not goes_through_dispatcher():
            # PyTorch's own rule also convolves the image with zeros as the tangent of the weight.
            transpose = partial(self._transpose, x.shape, x.dtype)
            return with_derivatives(self._convolve, transpose, x, residual, self.residual_scale)
        return self._convolve(x, residual, biased=True)

    def _convolve(self, x: Tensor, residual: Tensor | None, biased: bool) -> Tensor:
        """Convolve by PyTorch or the fused kernels of `ops.convolution`, for any shape and device."""
        assert self.weight is not None
        x, bias = x.to(self.compute), self.bias if biased else None
        if self.stride == 1 and 2 * self.padding + 1 == self.weight.shape[2]:
            joined = None if residual is None else residual.to(self.compute)
            return convolution(x, self.weight, bias, joined, self.residual_scale).to(self.out_dtype)
        return F.conv2d(x, self.weight, bias, self.stride, self.padding).to(self.out_dtype)

    def _transpose(self, shape: torch.Size, dtype: torch.dtype, y: Tensor) -> Tensor:
        """Apply the transposed convolution, the gradient in x of ``shape`` and ``dtype``."""
        assert self.weight is not None
        wide = y.to(self.compute)
        return conv2d_input(shape, self.weight, wide, self.stride, self.padding).to(dtype)
