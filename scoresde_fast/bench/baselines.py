# SPDX-License-Identifier: Apache-2.0
"""Baseline networks: the same weights and classes, computed by PyTorch's own operations.

`original` computes as the official code does, `tuned` as a competent user would with PyTorch alone. Both keep the code
of the architecture and replace only its operations.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.networks.blocks import NIN, Activation, AttentionBlock, Operations, OperationsModule, Taps, join
from scoresde_fast.ops.fir_resample import fir_kernel


def original(network: nn.Module) -> nn.Module:
    """Return a copy that computes as the official code does, in NCHW float32.

    GroupNorm and SiLU are separate, attention uses einsum, FIR filters are grouped convolutions, and the time
    embedding is computed at every call. Unlike in the official code, filters and scales stay on the device.
    """
    return _recomposed(network, _einsum_attention, _einsum_linear)


def tuned(
    network: nn.Module,
    dtype: torch.dtype = torch.float32,
    *,
    compile: dict[str, Any] | None = None,
    sliced_fir: bool = False,
) -> nn.Module:
    """Return a copy as a competent user would run it: channels_last, scaled_dot_product_attention, autocast.

    Args:
        network: the network; it is not modified.
        dtype: dtype of autocast and of the stored convolution weights, which saves their conversion at each call;
            embeddings and the state stay float32.
        compile: options of `torch.compile`; None for eager mode.
        sliced_fir: compute FIR filters as sums of slices, which a compiler can fuse, instead of convolutions.
    """
    recomposed: nn.Module = _recomposed(network, _sdpa_attention, None, sliced_fir=sliced_fir)
    recomposed.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if dtype != torch.float32:
        for module in recomposed.modules():
            if isinstance(module, nn.Conv2d | NIN):
                module.to(dtype)
    wrapped = _ChannelsLast(recomposed, dtype)
    if compile is not None:
        wrapped.compile(fullgraph=True, dynamic=False, **compile)
    return wrapped


class _ChannelsLast(nn.Module):
    """Calls a network under autocast with channels_last input."""

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return self.network(x, labels)


def _recomposed(
    network: nn.Module,
    attention: Callable[..., Tensor],
    linear: Callable[..., Tensor] | None,
    *,
    sliced_fir: bool = False,
) -> nn.Module:
    """Return a copy of the network, in evaluation mode, with PyTorch's operations and these layer functions."""
    copied = copy.deepcopy(network).eval().requires_grad_(False)
    operations = _operations(copied)
    if sliced_fir:
        operations = replace(operations, upsample=_sliced_upsample, downsample=_sliced_downsample)
    for module in copied.modules():
        if isinstance(module, OperationsModule):
            module.operations = operations
        if isinstance(module, AttentionBlock):
            module.forward = MethodType(attention, module)  # type: ignore[method-assign]
        elif isinstance(module, NIN) and linear is not None:
            module.forward = MethodType(linear, module)  # type: ignore[method-assign]
    return copied


def _operations(network: nn.Module) -> Operations:
    """Return PyTorch implementations of the network's operations, with FIR filters on its device."""
    device = next(network.parameters()).device
    all_taps: set[Any] = {module.taps for module in network.modules() if getattr(module, "taps", None) is not None}
    filters = {taps: fir_kernel(taps).float().to(device) for taps in all_taps}

    def norm_act(norm: nn.GroupNorm, act: Activation, x: Tensor, shift: Tensor | None = None) -> Tensor:
        return act(_group_norm(norm, x if shift is None else x + shift[:, :, None, None]))

    def kernel(x: Tensor, taps: Sequence[float], gain: float) -> Tensor:
        return (gain * filters[tuple(taps)]).to(x).expand(x.shape[1], 1, -1, -1)

    def upsample(x: Tensor, taps: Taps) -> Tensor:
        if taps is None:
            return F.interpolate(x, scale_factor=2.0, mode="nearest")
        front = len(taps) - 2 - (len(taps) - 1) // 2
        back = len(taps) - 2 - front
        weight, common = kernel(x, taps, 4.0), min(front, back)
        y = F.conv_transpose2d(x, weight, stride=2, padding=common, groups=x.shape[1])
        return y if front == back else F.pad(y, (common - front, common - back) * 2)  # crops the longer side

    def downsample(x: Tensor, taps: Taps) -> Tensor:
        if taps is None:
            return F.avg_pool2d(x, 2)
        if len(taps) % 2:
            x = F.pad(x, (1, 0, 1, 0))
        weight = kernel(x, taps, 1.0).flip(2, 3)
        return F.conv2d(x, weight, stride=2, padding=len(taps) // 2 - 1, groups=x.shape[1])

    return Operations(norm_act, upsample, downsample)


def _sliced_upsample(x: Tensor, taps: Taps) -> Tensor:
    """Upsample: output 2 i + k of each axis is the sum over s of x[i + s] weights[k + offset - 2 s]."""
    if taps is None:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")
    offset, weights = len(taps) - 2 - (len(taps) - 1) // 2, [2 * tap / sum(taps) for tap in taps]
    for dim in (2, 3):
        phases = []
        for k in (0, 1):
            shifts = range(-((len(taps) - 1 - offset - k) // 2), (k + offset) // 2 + 1)
            terms = [weights[k + offset - 2 * s] * _shifted(x, s, dim) for s in shifts]
            phases.append(sum(terms[1:], terms[0]))
        x = torch.stack(phases, dim + 1).flatten(dim, dim + 1)
    return x.contiguous(memory_format=torch.channels_last)


def _sliced_downsample(x: Tensor, taps: Taps) -> Tensor:
    """Downsample: output i of each axis is the sum over s of x[2 i + s] weights[offset - s]."""
    if taps is None:
        return F.avg_pool2d(x, 2)
    offset, weights = len(taps) // 2, [tap / sum(taps) for tap in taps]
    for dim in (2, 3):
        even = [slice(None)] * dim + [slice(None, None, 2)]
        terms = [
            weights[offset - s] * _shifted(x, s, dim)[tuple(even)] for s in range(offset - len(taps) + 1, offset + 1)
        ]
        x = sum(terms[1:], terms[0])
    return x.contiguous(memory_format=torch.channels_last)


def _shifted(x: Tensor, by: int, dim: int) -> Tensor:
    """Return x[i + by] along an axis, with zeros outside."""
    before, after = max(-by, 0), max(by, 0)
    padded = F.pad(x, (0, 0) * (3 - dim) + (before, after))
    return padded.narrow(dim, after, x.shape[dim])


def _group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    return F.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)


def _einsum_attention(block: AttentionBlock, x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    h = _group_norm(block.norm, x)
    q, k, v = block.query(h), block.key(h), block.value(h)
    weights = torch.einsum("bchw,bcij->bhwij", q, k) * channels**-0.5
    weights = weights.reshape(batch, height, width, height * width).softmax(-1)
    h = torch.einsum("bhwij,bcij->bchw", weights.reshape(batch, height, width, height, width), v)
    return join(x, block.out(h), block.skip_rescale)


def _sdpa_attention(block: AttentionBlock, x: Tensor) -> Tensor:
    h = _group_norm(block.norm, x)
    q, k, v = (layer(h).flatten(2).mT[:, None] for layer in (block.query, block.key, block.value))
    h = F.scaled_dot_product_attention(q, k, v)[:, 0].mT.reshape(x.shape)
    return join(x, block.out(h), block.skip_rescale)


def _einsum_linear(layer: NIN, x: Tensor) -> Tensor:
    return torch.einsum("bchw,cd->bdhw", x, layer.W) + layer.b[:, None, None]
