# SPDX-License-Identifier: Apache-2.0
"""Folding: the network that a run evaluates, made from the plain one's own modules.

All samples of a run share t, so that everything that depends on time alone becomes a table with one row a time: the
time embedding through every block's projection, the bias of the convolution that it is added to, and the noise level.
Where every sample has a time of its own (adaptive solvers) the same is made for each as it is evaluated.
1/sqrt(2) of the residual joins goes into weights and epilogues, the projections of attention are merged, and images
are channels_last, in the precision of the run, between the stem and the head.
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
from scoresde_fast.networks.convolution import FoldedConvolution
from scoresde_fast.networks.layers import NIN
from scoresde_fast.ops.derivatives import version
from scoresde_fast.ops.group_norm_attention import MergedAttention, group_norm_attention, merge_attention

TENSOR_CORE_CHANNELS = 8
"""Images have their channels padded to a multiple of this on a GPU."""


class FoldedNetwork(nn.Module):
    """The inference network of a run; it carries gradients of the image, and its weights are constants.

    Args:
        network: the plain network, on its device, in evaluation mode; it stays as it is, and whole.
        labels: (rows,) float32, the time label of every row of the run's step table.
        precision: of weights and images inside, see `choose_precision`.  State, tables and the output are float32.

    Raises:
        ValueError: there is no such precision, or the device lacks it.
    """

    row_of: Tensor
    table: Tensor
    scale: Tensor

    def __init__(self, network: ScoreNetwork, labels: Tensor, precision: Precision = "auto") -> None:
        super().__init__()
        self.core = FoldedCore(network, precision)
        device = next(network.parameters()).device
        # PC samplers evaluate twice at each time.
        times, row_of = (tensor.to(device) for tensor in labels.cpu().unique(return_inverse=True))
        table, scale = self.core.at(times)
        self.core.time_weight = self.core.time_bias = None  # all their times are in the table
        self.register_buffer("row_of", row_of)
        self.register_buffer("table", table)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        """The output (B, K, H, W) for x (B, C, H, W), float32 and contiguous, at a row (1,) int64 of the step table."""
        row = self.row_of.index_select(0, row)
        output: Tensor = self.core(x, self.table.index_select(0, row)[0], self.scale.index_select(0, row))
        return output

    def stale(self) -> bool:
        """Whether the plain network's weights were written since (through ``Tensor.data`` it goes unnoticed)."""
        return self.core.stale()


class TimedFoldedNetwork(nn.Module):
    """The inference network of samples that each have a time of their own; it carries tangents and gradients of
    the image, and its weights are constants.

    The arguments and errors are those of `FoldedNetwork`, without the labels.
    """

    def __init__(self, network: ScoreNetwork, precision: Precision = "auto") -> None:
        super().__init__()
        self.core = FoldedCore(network, precision)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """(B, C, H, W), (B,) float32 -> (B, K, H, W) float32 and contiguous."""
        shifts, scale = self.core.at(labels)
        output: Tensor = self.core(x, shifts, scale[:, None, None, None])
        return output

    def stale(self) -> bool:
        """As `FoldedNetwork.stale`."""
        return self.core.stale()


class FoldedCore(nn.Module):
    """What both have: the body with its modules folded, and the projections of time that the blocks add.

    Args:
        network, precision: as in `FoldedNetwork`.
    """

    time_weight: Tensor | None
    time_bias: Tensor | None

    @torch.no_grad()
    def __init__(self, network: ScoreNetwork, precision: Precision) -> None:
        super().__init__()
        device = next(network.parameters()).device
        self.precision = choose_precision(precision, device)
        self.dtype, self.centered = DTYPES[self.precision], network.centered
        self._source = (network,)  # in a tuple: not a module of this one
        self._folded_from = _fingerprint(network)
        self.network = copy.deepcopy(network, _shared(network)).eval()
        self.channels = network.image_channels
        multiple = 1 if device.type == "cpu" else TENSOR_CORE_CHANNELS
        self.padding = -network.input_channels % multiple
        folding = _Folding(self.dtype, network.time0 is not None, network.input_channels, self.channels, multiple)
        folding.fold_children(self.network)
        self.register_buffer("time_weight", torch.cat(folding.weights) if folding.weights else None)
        self.register_buffer("time_bias", torch.cat(folding.biases) if folding.biases else None)

    @torch.no_grad()
    def at(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """At labels (n,) the shifts of all blocks' channels (n, width), and the factors (n,) of the output."""
        temb, level = self.network.embed(labels), self.network.noise_level(labels)
        shifts = labels.new_zeros(len(labels), 0)
        if self.time_weight is not None and temb is not None:
            shifts = F.linear(temb, self.time_weight, self.time_bias)
        return shifts, torch.ones_like(labels) if level is None else 1 / level

    def forward(self, x: Tensor, shifts: Tensor, scale: Tensor) -> Tensor:
        """(B, C, H, W) float32, (width,) or (B, width), a factor that broadcasts -> (B, K, H, W) float32 contiguous."""
        h = self.network.body(self._enter(x), shifts)
        return (h[:, : self.channels] * scale).contiguous()

    def _enter(self, x: Tensor) -> Tensor:
        x = x if self.centered else 2 * x - 1
        if self.padding:
            x = F.pad(x, (0, 0, 0, 0, 0, self.padding))
        return x.contiguous(memory_format=torch.channels_last)

    def stale(self) -> bool:
        """See `FoldedNetwork.stale`."""
        return _fingerprint(self._source[0]) != self._folded_from


def _shared(network: nn.Module) -> dict[int, Tensor]:
    """What a copy takes for each tensor: the same memory.  Weights are constants: gradients are those of images."""
    constants = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in network.parameters()}
    return {id(buffer): buffer for buffer in network.buffers()} | constants


def _fingerprint(network: nn.Module) -> list[tuple[int, int]]:
    return [(weight.data_ptr(), version(weight)) for weight in network.parameters()]


class TimeColumns(nn.Module):
    """Takes a block's channels from the shifts of all blocks; stands where the block's projection was."""

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


class _Folding:
    """Replaces modules by their folded forms, and gathers the projections of time that were theirs."""

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
            # Their sum has one bias: on a GPU cuDNN's convolution is followed by a pass over memory that adds it.
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
        """factor * (layer + more_bias); images' channels are padded with zeros."""
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
