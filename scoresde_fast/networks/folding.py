# SPDX-License-Identifier: Apache-2.0
"""Folding: builds the inference network of a run from a plain network.

All samples of a run share t, so everything that depends only on time becomes a table with one row per time: the
projections of the time embedding in all blocks, the biases of the convolutions to which they are added, and the noise
level.  If samples have different times (adaptive solvers), these values are computed for each evaluation.  The factors
1/sqrt(2) of residual blocks are folded into weights, the projections of attention are merged, and feature maps are
channels_last in the precision of the run.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.devices import DTYPES, Precision, choose_precision
from scoresde_fast.networks.base import ScoreNetwork
from scoresde_fast.networks.blocks import AttentionBlock, ResnetBlock
from scoresde_fast.networks.folded_convolution import FoldedConvolution
from scoresde_fast.networks.layers import NIN
from scoresde_fast.ops.derivatives import version
from scoresde_fast.ops.group_norm_attention import MergedAttention, group_norm_attention, merge_attention

TENSOR_CORE_CHANNELS = 8
"""On a GPU the channels of images are padded to a multiple of this number."""


class TimedFoldedNetwork(nn.Module):
    """The inference network for samples at different times.

    Gradients and tangents pass through the image; weights are constants.

    Args:
        network: the plain network, on its device, in evaluation mode; it is not changed.
        precision: precision of weights and feature maps, see `choose_precision`.  The input, the output and values that
            depend on time are float32.

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
        folding = Folding(
            self.dtype,
            timed=network.time0 is not None,
            in_channels=network.input_channels,
            out_channels=self.channels,
            multiple=multiple,
        )
        folding.fold_children(self.network)
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
        """Return the output (B, K, H, W) for x (B, C, H, W), shifts (width,) or (B, width) and a broadcast factor."""
        x = x if self.centered else 2 * x - 1
        if self.padding:
            x = F.pad(x, (0, 0, 0, 0, 0, self.padding))
        h: Tensor = self.network.body(x.contiguous(memory_format=torch.channels_last), shifts)
        return (h[:, : self.channels] * scale).contiguous()

    def stale(self) -> bool:
        """Return whether weights of the plain network have changed; writes to ``Tensor.data`` are not detected."""
        return _fingerprint(self._source[0]) != self._folded_from


class FoldedNetwork(TimedFoldedNetwork):
    """The inference network of a run, with a table of everything that depends only on time.

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
        # Predictor and corrector evaluate at the same times.
        times, row_of = (tensor.to(device) for tensor in labels.cpu().unique(return_inverse=True))
        table, scale = self.time_values(times)
        self.time_weight = self.time_bias = None  # replaced by the table
        self.register_buffer("row_of", row_of)
        self.register_buffer("table", table)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """Return the output (B, K, H, W) for x (B, C, H, W), both float32, at the row (1,) int64 of the step table."""
        row = self.row_of.index_select(0, row)
        return self.evaluate(x, self.table.index_select(0, row)[0], self.scale.index_select(0, row))


def _shared_memory(network: nn.Module) -> dict[int, Tensor]:
    """Return a memo for ``copy.deepcopy`` that shares all tensors, with weights that require no gradients."""
    constants = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in network.parameters()}
    return {id(buffer): buffer for buffer in network.buffers()} | constants


def _fingerprint(network: nn.Module) -> list[tuple[int, int]]:
    """Return address and version of each weight: they change when weights are replaced or written."""
    return [(weight.data_ptr(), version(weight)) for weight in network.parameters()]


class TimeColumns(nn.Module):
    """Selects the channels of one block from the shifts of all blocks; replaces the block's projection."""

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
        # As in `FoldedConvolution`.
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


class Folding:
    """Replaces modules by their folded forms, and collects their projections of the time embedding.

    Args:
        dtype: dtype of feature maps.
        timed: whether blocks add a projection of the time embedding.
        in_channels, out_channels: channels of input and output images, which are padded to a multiple of ``multiple``.
    """

    def __init__(self, dtype: torch.dtype, *, timed: bool, in_channels: int, out_channels: int, multiple: int) -> None:
        self.dtype, self.timed = dtype, timed
        self.in_channels, self.out_channels, self.multiple = in_channels, out_channels, multiple
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.width = 0

    def fold_children(self, module: nn.Module) -> None:
        """Replace the children of ``module`` in place."""
        for name, child in module.named_children():
            if isinstance(child, ResnetBlock):
                self._fold_block(child)
            elif isinstance(child, AttentionBlock):
                setattr(module, name, FoldedAttention(child, self.dtype))
            elif isinstance(child, nn.Conv2d | NIN):
                setattr(module, name, self._convolution(child))
            else:
                self.fold_children(child)

    def _fold_block(self, block: ResnetBlock) -> None:
        rescale = 1 / math.sqrt(2.0) if block.skip_rescale else 1.0
        folded: dict[str, nn.Module] = {"dropout": nn.Identity()}
        shortcut = "shortcut_nin" if block.shortcut_conv is None else "shortcut_conv"
        layer = getattr(block, shortcut)
        if layer is None:
            folded["conv1"] = self._convolution(block.conv1, rescale, residual_scale=rescale)
        else:
            # One bias for both: the bias of a cuDNN convolution costs a pass over memory.
            assert block.conv1.bias is not None
            folded["conv1"] = FoldedConvolution(block.conv1.weight * rescale, None, self.dtype, padding=1)
            folded[shortcut] = self._convolution(layer, rescale, more_bias=block.conv1.bias)
        if block.time is None or not self.timed:
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

    def _convolution(
        self,
        layer: nn.Conv2d | NIN,
        factor: float = 1.0,
        *,
        residual_scale: float = 1.0,
        more_bias: Tensor | float = 0.0,
    ) -> FoldedConvolution:
        """Return the folded factor * (layer + more_bias); channels of images are padded with zeros."""
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
