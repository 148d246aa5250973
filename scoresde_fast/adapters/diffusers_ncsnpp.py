# SPDX-License-Identifier: Apache-2.0
"""The NCSN++ of diffusers as the NCSN++ of this package, which is folded for inference."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from scoresde_fast.networks import NCSNpp
from scoresde_fast.networks.blocks import NIN, AttentionBlock, ResnetBlock

SKIP_BLOCKS = {"SkipDownBlock2D": False, "AttnSkipDownBlock2D": True, "SkipUpBlock2D": False, "AttnSkipUpBlock2D": True}
"""Blocks with a pyramid, and whether they have attention."""
REQUIRED: dict[str, tuple[Any, ...]] = {
    "in_channels": (3,),
    "out_channels": (3,),
    "time_embedding_type": ("fourier",),
    "mid_block_type": ("UNetMidBlock2D",),
    "act_fn": ("silu", "swish"),
    "resnet_time_scale_shift": ("default",),
    "add_attention": (True,),
    "class_embed_type": (None,),
    "num_class_embeds": (None,),
}
"""Options of a `UNet2DModel`, with the values for which it can be an NCSN++."""
RESNET = {"norm0": "norm1", "conv0": "conv1", "time": "time_emb_proj", "norm1": "norm2", "conv1": "conv2"}
ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
"""Parts of blocks, and their names in diffusers."""
Pair = tuple[nn.Module, nn.Module]


def as_ncsnpp(unet: Any) -> NCSNpp | None:
    """Return the NCSN++ with the weights of a `UNet2DModel`, or None if the U-Net computes something else."""
    network = _untrained(unet.config)
    if network is None or not all(_same(ours, theirs) for ours, theirs in _layers(network, unet)):
        return None
    with torch.no_grad():
        for ours, theirs in _layers(network, unet):
            _copy(ours, theirs)
    return network.to(next(unet.parameters()).device).eval()


def _untrained(config: Mapping[str, Any]) -> NCSNpp | None:
    """Return the NCSN++ of a configuration of `UNet2DModel`, with fresh weights, or None if it is another network."""
    widths, size = config["block_out_channels"], config["sample_size"]
    down, up = ([SKIP_BLOCKS.get(name) for name in config[f"{way}_block_types"]] for way in ("down", "up"))
    if (
        any(config[name] not in values for name, values in REQUIRED.items())
        or None in down
        or down != up[::-1]
        or not isinstance(size, int)
        or any(width % widths[0] for width in widths)
        or size % 2 ** (len(widths) - 1)
    ):
        return None
    return NCSNpp(
        image_size=size,
        centered=not config["center_input_sample"],
        nf=widths[0],
        ch_mult=[width // widths[0] for width in widths],
        num_res_blocks=config["layers_per_block"],
        attn_resolutions=[size // 2**i for i, attention in enumerate(down) if attention],
        dropout=config["dropout"],
        progressive="output_skip",
        progressive_input="input_skip",
        num_scales=0,
    )


def _layers(network: Any, unet: Any) -> Iterator[Pair]:
    """Yield each layer with weights, and the layer of the U-Net that corresponds to it."""
    yield from _pairs(network, unet, {"fourier": "time_proj", "stem": "conv_in"})
    yield from _pairs(network, unet, {"time0": "time_embedding.linear_1", "time1": "time_embedding.linear_2"})
    for down, block in zip(network.down, unet.down_blocks, strict=True):
        attentions = getattr(block, "attentions", [None] * len(block.resnets))
        for stage, resnet, attention in zip(down.stages, block.resnets, attentions, strict=True):
            yield from _resnet(stage.block, resnet)
            yield from _attention(stage.attention, attention)
        if down.shrink is not None:
            yield from _resnet(down.shrink, block.resnet_down)
            yield from _pairs(down, block, {"pyramid.conv": "skip_conv"})
    for ours, resnet in zip((network.middle0, network.middle1), unet.mid_block.resnets, strict=True):
        yield from _resnet(ours, resnet)
    yield from _attention(network.middle_attention, unet.mid_block.attentions[0])
    for up, block in zip(network.up, unet.up_blocks, strict=True):
        for ours, resnet in zip(up.blocks, block.resnets, strict=True):
            yield from _resnet(ours, resnet)
        yield from _attention(up.attention, getattr(block, "attentions", [None])[0])
        if up.grow is not None:
            yield from _resnet(up.grow, block.resnet_up)
            yield from _pairs(up, block, {"pyramid.norm": "skip_norm", "pyramid.conv": "skip_conv"})
        else:
            yield from _pairs(up, unet, {"pyramid.norm": "conv_norm_out", "pyramid.conv": "conv_out"})


def _resnet(ours: ResnetBlock, theirs: nn.Module) -> Iterator[Pair]:
    yield ours, theirs
    yield from _pairs(ours, theirs, RESNET)
    if ours.shortcut_conv is not None:
        yield from _pairs(ours, theirs, {"shortcut_conv": "conv_shortcut"})


def _attention(ours: AttentionBlock | None, theirs: nn.Module | None) -> Iterator[Pair]:
    if ours is not None and theirs is not None:
        yield ours, theirs
        yield from _pairs(ours, theirs, ATTENTION)


def _pairs(ours: nn.Module, theirs: nn.Module, names: Mapping[str, str]) -> Iterator[Pair]:
    for name, their_name in names.items():
        yield ours.get_submodule(name), theirs.get_submodule(their_name)


def _same(ours: nn.Module, theirs: Any) -> bool:
    """Return whether two layers, or two blocks without their layers, compute the same with equal weights."""
    if isinstance(ours, ResnetBlock):
        return math.isclose(theirs.output_scale_factor, math.sqrt(2), rel_tol=1e-6)
    if isinstance(ours, AttentionBlock):
        return theirs.heads == 1 and math.isclose(theirs.rescale_output_factor, math.sqrt(2), rel_tol=1e-6)
    if isinstance(ours, nn.GroupNorm):
        return (ours.num_groups, ours.eps) == (theirs.num_groups, theirs.eps)
    return True


def _copy(ours: Any, theirs: Any) -> None:
    """Copy the weights of a layer; blocks have none of their own."""
    if isinstance(ours, ResnetBlock | AttentionBlock):
        return
    if isinstance(ours, NIN):
        ours.W.copy_(theirs.weight.T)
        ours.b.copy_(theirs.bias)
        return
    for weight, value in zip(ours.parameters(), theirs.parameters(), strict=True):
        weight.copy_(value)
