# SPDX-License-Identifier: Apache-2.0
"""Folding: builds the inference network of a run from a plain network.

All samples of a run share t, so all values that depend only on time become a table with one row per time: the
projections of the time embedding in all blocks, with the biases of the convolutions that they shift, and the noise
level.  If samples have different times (adaptive solvers), these values are computed for each evaluation.  The factors
1/sqrt(2) of residual blocks are folded into weights, the projections of attention are merged, and feature maps are
channels_last in the precision of the run.
"""

from __future__ import annotations

import copy
import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_input

from scoresde_fast.devices import DTYPES, Precision, choose_precision
from scoresde_fast.networks.base import ScoreNetwork
from scoresde_fast.networks.blocks import NIN, AttentionBlock, ResnetBlock
from scoresde_fast.ops.convolution import convolution
from scoresde_fast.ops.derivatives import goes_through_dispatcher, may_have_tangents, version, with_derivatives
from scoresde_fast.ops.group_norm_attention import MergedAttention, group_norm_attention, merge_attention
from scoresde_fast.ops.winograd_convolution import fits, operation, unchecked, winograd_weight

TENSOR_CORE_CHANNELS = 8
"""On a GPU the channels of images are padded to a multiple of this number."""


class TimedFoldedNetwork(nn.Module):
    """The inference network for samples at different times.

    Gradients and tangents pass through the image; weights are constants.

    Args:
        network: the plain network, on its device, in evaluation mode; it is not changed.
        precision: precision of weights and feature maps, see `choose_precision`.  The input, the output and the values
            that depend on time are float32.

    Raises:
        ValueError: the precision is unknown, or not available on the device.
    """

    time_weight: Tensor | None
    time_bias: Tensor | None

    @torch.no_grad()
    def __init__(self, network: ScoreNetwork, precision: Precision = "auto") -> None:
        super().__init__()
        device = next(network.parameters()).device
        self.precision = choose_precision(precision, device)
        self.dtype, self.centered = DTYPES[self.precision], network.centered
        self._source = (network,)  # a tuple, so that it is not registered as a submodule
        self._folded_from = _fingerprint(network)
        self.network = copy.deepcopy(network, _shared_memory(network)).eval()
        self.channels = network.image_channels
        multiple = 1 if device.type == "cpu" else TENSOR_CORE_CHANNELS
        self.padding = -network.input_channels % multiple
        folding = Folding(self.network, self.dtype, multiple)
        self.register_buffer("time_weight", torch.cat(folding.weights) if folding.weights else None)
        self.register_buffer("time_bias", torch.cat(folding.biases) if folding.biases else None)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the output (B, K, H, W) for x (B, C, H, W) and labels (B,), all float32 and contiguous."""
        shifts, scale = self.time_values(labels)
        return self.evaluate(x, shifts, scale[:, None, None, None])

    @torch.no_grad()
    def time_values(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shifts (n, width) of the channels of all blocks, and the factors (n,) of the output."""
        temb, sigma = self.network.embed(labels), self.network.noise_level(labels)
        shifts = labels.new_zeros(len(labels), 0)
        if self.time_weight is not None and temb is not None:
            shifts = F.linear(temb, self.time_weight, self.time_bias)
        return shifts, torch.ones_like(labels) if sigma is None else 1 / sigma

    def evaluate(self, x: Tensor, shifts: Tensor, scale: Tensor) -> Tensor:
        """Return ``scale`` times the body's output (B, K, H, W), for x (B, C, H, W), shifts (width,) or (B, width)."""
        return self.scaled(self.network.body(self.prepared(x), shifts), scale)

    def prepared(self, x: Tensor) -> Tensor:
        """Return x (B, C, H, W) as the body takes it: in [-1, 1], with padded channels, in channels_last."""
        x = x if self.centered else 2 * x - 1
        if self.padding:
            x = F.pad(x, (0, 0, 0, 0, 0, self.padding))
        return x.contiguous(memory_format=torch.channels_last)

    def scaled(self, h: Tensor, scale: Tensor) -> Tensor:
        """Return the output (B, K, H, W), float32 and contiguous, from that of the body and the factor."""
        return (h[:, : self.channels] * scale).contiguous()

    def stale(self) -> bool:
        """Return whether weights of the plain network have changed; writes to ``Tensor.data`` are not detected."""
        return _fingerprint(self._source[0]) != self._folded_from


class FoldedNetwork(TimedFoldedNetwork):
    """The inference network of a run, with a table of the values that depend only on time.

    Args:
        network, precision: as in `TimedFoldedNetwork`.
        labels: (rows,) float32, time label of each row of the step table.

    Raises:
        ValueError: as in `TimedFoldedNetwork`.
    """

    row_of: Tensor
    table: Tensor
    scale: Tensor

    def __init__(self, network: ScoreNetwork, labels: Tensor, precision: Precision = "auto") -> None:
        super().__init__(network, precision)
        device = next(network.parameters()).device
        # Several rows may have the same time, as those of a predictor and its corrector.
        times, row_of = (tensor.to(device) for tensor in labels.cpu().unique(return_inverse=True))
        table, scale = self.time_values(times)
        self.time_weight = self.time_bias = None  # replaced by the table
        self.register_buffer("row_of", row_of)
        self.register_buffer("table", table)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """Return the output (B, K, H, W) for x (B, C, H, W), both float32, at the row (1,) int64 of the step table."""
        return self.evaluate(x, *self.at(row))

    def at(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Return the shifts (width,) and the factor (1,) at a row."""
        row = self.row_of.index_select(0, row)
        return self.table.index_select(0, row)[0], self.scale.index_select(0, row)


def _shared_memory(network: nn.Module) -> dict[int, Tensor]:
    """Return a memo with which ``copy.deepcopy`` shares all tensors; the copy's weights require no gradients."""
    constants = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in network.parameters()}
    return {id(buffer): buffer for buffer in network.buffers()} | constants


def _fingerprint(network: nn.Module) -> list[tuple[int, int]]:
    """Return address and version of each weight, which change when the weight is replaced or written."""
    return [(weight.data_ptr(), version(weight)) for weight in network.parameters()]


class Folding:
    """Replaces modules of a network by their folded forms, and collects their projections of the time embedding.

    Args:
        network: the network, which is changed.
        dtype: dtype of feature maps.
        multiple: the channels of input and output images are padded to a multiple of this number.

    Attributes:
        weights, biases: the collected projections in the order of the blocks; biases include those of ``conv0``.
    """

    def __init__(self, network: ScoreNetwork, dtype: torch.dtype, multiple: int) -> None:
        self.dtype, self.multiple = dtype, multiple
        self.in_channels, self.out_channels = network.input_channels, network.image_channels
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.width = 0
        self._fold_children(network)

    def _fold_children(self, module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, ResnetBlock):
                self._fold_block(child)
            elif isinstance(child, AttentionBlock):
                setattr(module, name, FoldedAttention(child, self.dtype))
            elif isinstance(child, nn.Conv2d | NIN):
                setattr(module, name, self._convolution(child))
            else:
                self._fold_children(child)

    def _fold_block(self, block: ResnetBlock) -> None:
        rescale = 1 / math.sqrt(2.0) if block.skip_rescale else 1.0
        folded: dict[str, nn.Module] = {"dropout": nn.Identity()}
        shortcut = block.shortcut
        if shortcut is None:
            folded["conv1"] = self._convolution(block.conv1, rescale, residual_scale=rescale)
        else:
            # The shortcut has the bias of both: each bias of a cuDNN convolution costs a pass over memory.
            assert block.conv1.bias is not None
            folded["conv1"] = FoldedConvolution(block.conv1.weight * rescale, None, self.dtype, padding=1)
            name = "shortcut_nin" if shortcut is block.shortcut_nin else "shortcut_conv"
            folded[name] = self._convolution(shortcut, rescale, more_bias=block.conv1.bias)
        if block.time is None:
            folded["conv0"] = self._convolution(block.conv0)
        else:
            assert block.conv0.bias is not None
            self.weights.append(block.time.weight)
            self.biases.append(block.time.bias + block.conv0.bias)
            start, self.width = self.width, self.width + block.conv0.out_channels
            folded["time"] = TimeColumns(start, self.width)
            folded["conv0"] = FoldedConvolution(block.conv0.weight, None, self.dtype, padding=1)
        for name, layer in folded.items():
            setattr(block, name, layer)
        block.__class__ = FoldedBlock

    def _convolution(
        self,
        layer: nn.Conv2d | NIN,
        factor: float = 1.0,
        *,
        residual_scale: float = 1.0,
        more_bias: Tensor | float = 0.0,
    ) -> FoldedConvolution:
        """Return factor * (layer + more_bias) as a folded convolution; channels of images are padded with zeros."""
        stride, padding = 1, 0
        if isinstance(layer, nn.Conv2d):
            assert isinstance(layer.padding, tuple) and layer.bias is not None
            weight, bias = layer.weight * factor, (layer.bias + more_bias) * factor
            stride, padding = layer.stride[0], layer.padding[0]
        else:
            weight, bias = layer.W.t()[:, :, None, None] * factor, (layer.b + more_bias) * factor
        reads, writes = weight.shape[1] == self.in_channels, weight.shape[0] == self.out_channels
        if reads:
            weight = F.pad(weight, (0, 0, 0, 0, 0, -self.in_channels % self.multiple))
        if writes:
            padding_channels = -self.out_channels % self.multiple
            weight, bias = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, padding_channels)), F.pad(bias, (0, padding_channels))
        return FoldedConvolution(
            weight, bias, self.dtype, stride=stride, padding=padding, residual_scale=residual_scale,
            reads_images=reads, writes_images=writes,
        )  # fmt: skip


class FoldedBlock(ResnetBlock):
    """A `ResnetBlock` of folded layers, whose last convolution, or whose shortcut, also computes the scaled sum."""

    def convolve_and_join(self, h: Tensor, x: Tensor) -> Tensor:
        conv1, shortcut = self.conv1, self.shortcut
        if shortcut is None:
            return conv1(h, residual=x)
        # Without Winograd's kernel the 1x1 shortcut adds: only the fused 1x1 kernel is as fast as cuDNN.
        if conv1.implementation is None:
            return shortcut(x, residual=conv1(h))
        return conv1(h, residual=shortcut(x))


class FoldedConvolution(nn.Module):
    """conv2d(x) + bias + residual_scale * residual for inference, channels_last in and out.

    On a CPU a 3x3 convolution that preserves the size uses Winograd's algorithm.  Its weights take four times the
    memory, and eight times after the first gradient.  Gradients and tangents pass through x and residual; weights are
    constants.

    Args:
        weight: (K, C, 3, 3) or (K, C, 1, 1).
        bias: (K,) or None.
        dtype: dtype of the feature maps; sums are in float32.
        stride, padding: as in ``torch.nn.Conv2d``.
        residual_scale: factor of the residual.
        reads_images: whether input and products are float32, because the error of a noisy image in 16 bits would
            exceed the noise of the last steps.
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
        plain = weight.to(self.compute).contiguous(memory_format=torch.channels_last)
        self.register_buffer("winograd", winograd_weight(plain) if winograd else None)
        self.register_buffer("weight", None if winograd else plain)
        self.register_buffer("bias", None if bias is None else bias.to(self.compute))

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return (B, K, H, W) for x (B, C, H, W) and a residual (B, K, H, W); with a stride only None."""
        if self.implementation is not None:
            assert self.winograd is not None
            return unchecked(self.implementation, x, self.winograd, self.bias, residual, self.residual_scale)
        if may_have_tangents() and not goes_through_dispatcher():
            # PyTorch's own rule would also convolve the image with the zero tangent of the weight.
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
        """Return the transposed convolution of ``y``: the gradient in x, which has this ``shape`` and ``dtype``."""
        assert self.weight is not None
        wide = y.to(self.compute)
        return conv2d_input(shape, self.weight, wide, self.stride, self.padding).to(dtype)


class TimeColumns(nn.Module):
    """Selects the shifts of one block from those of all blocks; replaces the block's projection."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, shifts: Tensor) -> Tensor:
        """(..., channels of all blocks) -> (..., channels of this block)."""
        return shifts[..., self.start : self.stop].contiguous()


class FoldedAttention(nn.Module):
    """An `AttentionBlock` with its projections merged."""

    def __init__(self, block: AttentionBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm, self.scale = block.norm, 1 / math.sqrt(2.0) if block.skip_rescale else 1.0
        self.dtype = dtype
        # On a CPU, products are float32 for the reason given in `FoldedConvolution`.
        self.compute = torch.float32 if block.query.W.device.type == "cpu" else dtype
        merged = merge_attention(
            block.query.W, block.query.b, block.key.W, block.value.W, block.value.b, block.out.W, block.out.b, dtype
        )
        for name, tensor in merged._asdict().items():
            self.register_buffer(name, tensor.to(self.compute) if tensor.ndim == 2 else tensor)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        weights = MergedAttention(*(self.get_buffer(name) for name in MergedAttention._fields))
        norm = self.norm
        y = group_norm_attention(
            x.to(self.compute), norm.weight, norm.bias, norm.num_groups, norm.eps, weights, self.scale
        )
        return y.to(self.dtype)
