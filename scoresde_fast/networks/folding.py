# SPDX-License-Identifier: Apache-2.0
"""Folding: the inference network of a run, made from the modules of the plain network.

All samples of a run share t, so everything that depends on time alone becomes a table with one row for each time: the
projections of the time embedding in all blocks, the biases of the convolutions to which they are added, and the noise
level.  Where every sample has its own time (adaptive solvers), the same values are computed for each evaluation.
Weights and epilogues absorb the 1/sqrt(2) of residual joins, the projections of attention are merged, and images are
channels_last, in the precision of the run, between the stem and the head.
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
"""On a GPU the channels of images are padded to a multiple of this."""


class TimedFoldedNetwork(nn.Module):
    """The inference network for samples that each have their own time.

    It carries tangents and gradients of the image; its weights are constants.

    Args:
        network: the plain network, on its device, in evaluation mode; it is not changed.
        precision: of weights and images inside, see `choose_precision`.  State, tables and the output are float32.

    Raises:
        ValueError: the precision is unknown, or the device lacks it.
    """

    time_weight: Tensor | None
    time_bias: Tensor | None

    @torch.no_grad()
    def __init__(self, network: ScoreNetwork, precision: Precision = "auto") -> None:
        super().__init__()
        device = next(network.parameters()).device
        self.precision = choose_precision(precision, device)
        self.dtype, self.centered = DTYPES[self.precision], network.centered
        self._source = (network,)  # in a tuple, so that it is not registered as a submodule
        self._folded_from = _fingerprint(network)
        self.network = copy.deepcopy(network, _shared_memory(network)).eval()
        self.channels = network.image_channels
        multiple = 1 if device.type == "cpu" else TENSOR_CORE_CHANNELS
        self.padding = -network.input_channels % multiple
        folding = Folding(self.dtype, network.time0 is not None, network.input_channels, self.channels, multiple)
        folding.fold_children(self.network)
        self.register_buffer("time_weight", torch.cat(folding.weights) if folding.weights else None)
        self.register_buffer("time_bias", torch.cat(folding.biases) if folding.biases else None)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W), (B,) float32 -> (B, K, H, W) float32 and contiguous."""
        shifts, scale = self.time_values(labels)
        return self.evaluate(x, shifts, scale[:, None, None, None])

    @torch.no_grad()
    def time_values(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """At labels (n,) the shifts of all blocks' channels (n, width), and the factors (n,) of the output."""
        temb, sigma = self.network.embed(labels), self.network.noise_level(labels)
        shifts = labels.new_zeros(len(labels), 0)
        if self.time_weight is not None and temb is not None:
            shifts = F.linear(temb, self.time_weight, self.time_bias)
        return shifts, torch.ones_like(labels) if sigma is None else 1 / sigma

    def evaluate(self, x: Tensor, shifts: Tensor, scale: Tensor) -> Tensor:
        """(B, C, H, W) float32, (width,) or (B, width), a factor that broadcasts -> (B, K, H, W) float32 contiguous."""
        x = x if self.centered else 2 * x - 1
        if self.padding:
            x = F.pad(x, (0, 0, 0, 0, 0, self.padding))
        h: Tensor = self.network.body(x.contiguous(memory_format=torch.channels_last), shifts)
        return (h[:, : self.channels] * scale).contiguous()

    def stale(self) -> bool:
        """Whether the plain network's weights have changed since; writes through ``Tensor.data`` are not noticed."""
        return _fingerprint(self._source[0]) != self._folded_from


class FoldedNetwork(TimedFoldedNetwork):
    """The inference network of a run, with tables of everything that depends on time alone.

    Args:
        network, precision: as in `TimedFoldedNetwork`.
        labels: (rows,) float32, the time label of every row of the run's step table.

    Raises:
        ValueError: as in `TimedFoldedNetwork`.
    """

    row_of: Tensor
    table: Tensor
    scale: Tensor

    def __init__(self, network: ScoreNetwork, labels: Tensor, precision: Precision = "auto") -> None:
        super().__init__(network, precision)
        device = next(network.parameters()).device
        # PC samplers evaluate twice at each time.
        times, row_of = (tensor.to(device) for tensor in labels.cpu().unique(return_inverse=True))
        table, scale = self.time_values(times)
        self.time_weight = self.time_bias = None  # the table has all times
        self.register_buffer("row_of", row_of)
        self.register_buffer("table", table)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """The output (B, K, H, W) for x (B, C, H, W), float32 and contiguous, at a row (1,) int64 of the step table."""
        row = self.row_of.index_select(0, row)
        return self.evaluate(x, self.table.index_select(0, row)[0], self.scale.index_select(0, row))


def _shared_memory(network: nn.Module) -> dict[int, Tensor]:
    """The memo of a deep copy that shares all tensors; weights become constants, so only images have gradients."""
    constants = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in network.parameters()}
    return {id(buffer): buffer for buffer in network.buffers()} | constants


def _fingerprint(network: nn.Module) -> list[tuple[int, int]]:
    return [(weight.data_ptr(), version(weight)) for weight in network.parameters()]


class TimeColumns(nn.Module):
    """Selects a block's channels from the shifts of all blocks, in the place of the block's projection."""

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
        # See `FoldedConvolution`.
        self.compute = torch.float32 if block.query.W.device.type == "cpu" else dtype
        merged = merge_attention(
            block.query.W, block.query.b, block.key.W, block.value.W, block.value.b, block.out.W, block.out.b, dtype
        )
        for name, tensor in vars(merged).items():
            wide = tensor.to(self.compute) if tensor.ndim == 2 else tensor
            self.register_buffer(name, wide)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        weights = MergedAttention(*(self.get_buffer(name) for name in MergedAttention.__dataclass_fields__))
        norm = self.norm
        y = group_norm_attention(
            x.to(self.compute), norm.weight, norm.bias, norm.num_groups, norm.eps, weights, self.scale
        )
        return y.to(self.dtype)


class Folding:
    """Replaces modules by their folded forms, and collects their projections of the time embedding."""

    def __init__(self, dtype: torch.dtype, timed: bool, inputs: int, outputs: int, multiple: int) -> None:
        self.dtype, self.timed = dtype, timed
        self.inputs, self.outputs, self.multiple = inputs, outputs, multiple
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []
        self.width = 0

    def fold_children(self, module: nn.Module) -> None:
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
            # Their sum has one bias, as on a GPU a pass over memory adds the bias of cuDNN's convolution.
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
        """factor * (layer + more_bias), with the channels of images padded with zeros."""
        stride, padding = 1, 0
        if isinstance(layer, nn.Conv2d):
            assert isinstance(layer.padding, tuple) and layer.bias is not None
            weight, bias = layer.weight * factor, (layer.bias + more_bias) * factor
            stride, padding = layer.stride[0], layer.padding[0]
        else:
            weight, bias = layer.W.t()[:, :, None, None] * factor, (layer.b + more_bias) * factor
        reads, writes = weight.shape[1] == self.inputs, weight.shape[0] == self.outputs
        if reads:
            weight = F.pad(weight, (0, 0, 0, 0, 0, -self.inputs % self.multiple))
        if writes:
            extra = -self.outputs % self.multiple
            weight, bias = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, extra)), F.pad(bias, (0, extra))
        return FoldedConvolution(
            weight, bias, self.dtype, stride=stride, padding=padding, residual_scale=residual_scale,
            reads_images=reads, writes_images=writes,
        )  # fmt: skip
