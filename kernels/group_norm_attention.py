# SPDX-License-Identifier: Apache-2.0
"""``group_norm_attention``: GroupNorm, single-head attention over pixels and the residual sum, in two kernels.

The first writes the normalised pixels n, (B, T, C).  The second computes queries n S + u for a tile of pixels, attends
over the pixels of the same image with n as keys and values, projects by V and adds the residual.  Images smaller than
a tile share one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import triton
import triton.language as tl
from scoresde_fast.kernels.convolution import matmul
from scoresde_fast.kernels.group_norm_tiles import LOG2_E, narrow

MAX_CHANNELS, MAX_TOKENS, MAX_SLAB = 512, 1024, 32768
# Finite, so that the weights stay finite if a block masks all keys of a row; the next block's maximum makes them 0.
MASKED = tl.constexpr(-1e30)


@triton.jit
def group_total(values, SLAB: tl.constexpr, GROUP_CHANNELS: tl.constexpr):
    """Return for each channel of a slab the sum of ``values`` over its group."""
    group = tl.arange(0, SLAB) // GROUP_CHANNELS
    same = group[:, None] == group[None, :]  # [SLAB, SLAB]
    return tl.sum(tl.where(same, values[None, :], 0.0), 1)


@triton.jit
def normalise_tokens_kernel(
    p_n,
    p_x,
    p_weight,
    p_bias,
    EPS: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    GROUP_CHANNELS: tl.constexpr,
    SLAB_CHANNELS: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    BLOCK_T: tl.constexpr,
    SLAB: tl.constexpr,
):
    """Store n of one slab of whole groups of one image; the statistics take two passes over registers."""
    SLABS: tl.constexpr = (CHANNELS + SLAB_CHANNELS - 1) // SLAB_CHANNELS
    i_program = tl.program_id(0).to(tl.int64)
    image = (i_program // SLABS) * (TOKENS * CHANNELS)
    in_slab = tl.arange(0, SLAB)
    channel = (i_program % SLABS).to(tl.int32) * SLAB_CHANNELS + in_slab
    channel_mask = (in_slab < SLAB_CHANNELS) & (channel < CHANNELS)
    token = tl.arange(0, BLOCK_T)
    mask = (token < TOKENS)[:, None] & channel_mask[None, :]
    offset = token[:, None] * TOKEN_STRIDE + channel[None, :] * CHANNEL_STRIDE
    b_x = tl.load(p_x + image + offset, mask=mask, other=0.0).to(tl.float32)  # [BLOCK_T, SLAB]
    b_weight = tl.load(p_weight + channel, mask=channel_mask, other=0.0).to(tl.float32)
    b_bias = tl.load(p_bias + channel, mask=channel_mask, other=0.0).to(tl.float32)
    share: tl.constexpr = 1.0 / (TOKENS * GROUP_CHANNELS)
    mean = group_total(tl.sum(b_x, 0), SLAB, GROUP_CHANNELS) * share
    centred = tl.where(mask, b_x - mean[None, :], 0.0)
    variance = group_total(tl.sum(centred * centred, 0), SLAB, GROUP_CHANNELS) * share
    b_n = centred * (tl.rsqrt(variance + EPS) * b_weight)[None, :] + b_bias[None, :]
    # Store 0 for NaN: other images of a tile have weight 0, but 0 * NaN is NaN.  The result is still NaN, through x.
    b_n = tl.where((variance < float("inf"))[None, :], b_n, 0.0)
    p_rows = p_n + image + token[:, None] * CHANNELS + channel[None, :]
    tl.store(p_rows, narrow(b_n, p_n.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["batch"])
def group_norm_attention_kernel(
    p_out,
    p_x,
    p_n,
    p_score,
    p_key_bias,
    p_value,
    p_bias,
    batch,
    SCALE: tl.constexpr,
    TOKENS: tl.constexpr,
    CHANNELS: tl.constexpr,
    TOKEN_STRIDE: tl.constexpr,
    CHANNEL_STRIDE: tl.constexpr,
    PACKED: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Compute (x + attention) * SCALE for BLOCK_M pixels of one image, or of BLOCK_M / TOKENS images if PACKED."""
    dtype: tl.constexpr = p_n.dtype.element_ty
    TILES: tl.constexpr = (TOKENS + BLOCK_M - 1) // BLOCK_M
    i_tile = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, BLOCK_M)
    if PACKED:
        first_image = i_tile * (BLOCK_M // TOKENS)
        token = row
        row_mask = row < (batch - first_image) * TOKENS
    else:
        first_image = i_tile // TILES
        token = (i_tile % TILES).to(tl.int32) * BLOCK_M + row
        row_mask = token < TOKENS if TOKENS % BLOCK_M else tl.full([BLOCK_M], True, tl.int1)
    p_keys = p_n + first_image * (TOKENS * CHANNELS)
    channel = tl.arange(0, BLOCK_C)
    channel_mask = channel < CHANNELS if CHANNELS != BLOCK_C else tl.full([BLOCK_C], True, tl.int1)

    queries = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for k in range(0, CHANNELS, BLOCK_K):
        inner = k + tl.arange(0, BLOCK_K)
        inner_mask = inner < CHANNELS if CHANNELS % BLOCK_K else tl.full([BLOCK_K], True, tl.int1)
        p_rows = p_keys + token[:, None] * CHANNELS + inner[None, :]
        b_n = tl.load(p_rows, mask=row_mask[:, None] & inner_mask[None, :], other=0.0)  # [BLOCK_M, BLOCK_K]
        p_matrix = p_score + inner[:, None] * CHANNELS + channel[None, :]
        b_score = tl.load(p_matrix, mask=inner_mask[:, None] & channel_mask[None, :], other=0.0)  # [BLOCK_K, BLOCK_C]
        queries = matmul(b_n, b_score, queries, "ieee")
    key_bias = tl.load(p_key_bias + channel, mask=channel_mask, other=0.0).to(tl.float32)
    # The softmax uses base 2; the queries are multiplied by log2(e) before they are rounded.
    b_queries = narrow((queries + key_bias[None, :]) * LOG2_E, dtype)  # [BLOCK_M, BLOCK_C]

    SPAN: tl.constexpr = BLOCK_M if PACKED else TOKENS
    maximum = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    attended = tl.zeros([BLOCK_M, BLOCK_C], tl.float32)
    for j in range(0, SPAN, BLOCK_N):
        key = j + tl.arange(0, BLOCK_N)
        if PACKED:
            key_mask = key < (batch - first_image) * TOKENS
        else:
            key_mask = key < TOKENS if TOKENS % BLOCK_N else tl.full([BLOCK_N], True, tl.int1)
        p_rows = p_keys + key[:, None] * CHANNELS + channel[None, :]
        b_keys = tl.load(p_rows, mask=key_mask[:, None] & channel_mask[None, :], other=0.0)  # [BLOCK_N, BLOCK_C]
        logits = matmul(b_queries, tl.trans(b_keys), tl.zeros([BLOCK_M, BLOCK_N], tl.float32), "ieee")
        if PACKED:
            logits = tl.where((row // TOKENS)[:, None] == (key // TOKENS)[None, :], logits, MASKED)
        elif TOKENS % BLOCK_N:
            logits = tl.where(key_mask[None, :], logits, MASKED)
        new_maximum = tl.maximum(maximum, tl.max(logits, 1))
        weights = tl.exp2(logits - new_maximum[:, None])
        shrink = tl.exp2(maximum - new_maximum)
        total = total * shrink + tl.sum(weights, 1)
        attended = matmul(narrow(weights, dtype), b_keys, attended * shrink[:, None], "ieee")
        maximum = new_maximum
    b_attended = narrow(attended * (1.0 / total)[:, None], dtype)  # [BLOCK_M, BLOCK_C]

    image_of_row = token // TOKENS if PACKED else tl.zeros_like(token)
    local = image_of_row * (TOKENS * CHANNELS) + (token - image_of_row * TOKENS) * TOKEN_STRIDE
    p_from = p_x + first_image * (TOKENS * CHANNELS)
    p_to = p_out + first_image * (TOKENS * CHANNELS)
    for c in range(0, CHANNELS, BLOCK_K):
        outer = c + tl.arange(0, BLOCK_K)
        outer_mask = outer < CHANNELS if CHANNELS % BLOCK_K else tl.full([BLOCK_K], True, tl.int1)
        p_matrix = p_value + channel[:, None] * CHANNELS + outer[None, :]
        b_value = tl.load(p_matrix, mask=channel_mask[:, None] & outer_mask[None, :], other=0.0)  # [BLOCK_C, BLOCK_K]
        projected = matmul(b_attended, b_value, tl.zeros([BLOCK_M, BLOCK_K], tl.float32), "ieee")
        b_bias = tl.load(p_bias + outer, mask=outer_mask, other=0.0).to(tl.float32)
        offset = local[:, None] + outer[None, :] * CHANNEL_STRIDE
        mask = row_mask[:, None] & outer_mask[None, :]
        b_x = tl.load(p_from + offset, mask=mask, other=0.0).to(tl.float32)
        b_out = (b_x + projected + b_bias[None, :]) * SCALE
        tl.store(p_to + offset, narrow(b_out, dtype), mask=mask)


@dataclass(frozen=True)
class Tiles:
    """Block sizes (m queries, n keys, k channels) and launch options of the attention kernel."""

    m: int
    n: int
    k: int
    warps: int
    stages: int


def tiles(tokens: int, channels: int, itemsize: int) -> Tiles:
    """Return tiles whose accumulators fit the registers and whose operands fit the shared memory of sm_80."""
    if itemsize == 4:
        return Tiles(16, 16, 16, 4, 1)
    if channels > 256:
        return Tiles(64, 32, 32, 8, 2)
    if tokens <= 64:
        return Tiles(64, 32, 32, 4, 3)
    # With 64 keys of 256 channels, sm_90 lacks the registers to overlap its matrix instructions.
    return Tiles(128, 64 if channels <= 128 else 32, 64, 8, 3)


def slab_channels(channels: int, groups: int) -> int:
    """Return the channels per program: whole groups, if possible at least 32 channels and a multiple of 16."""
    group_channels = channels // groups
    slab = group_channels
    while slab < channels and (slab < 32 or slab % 16):
        slab += group_channels
    return min(slab, channels)


@dataclass(frozen=True)
class Plan:
    """Constants and launch options of both kernels for one shape."""

    tokens: int
    channels: int
    groups: int
    itemsize: int
    channels_last: bool
    eps: float
    scale: float

    def __post_init__(self) -> None:
        norm = self.norm_constants
        tile = norm["BLOCK_T"] * norm["SLAB"]
        if self.channels % 16 or self.channels > MAX_CHANNELS or self.tokens > MAX_TOKENS or tile > MAX_SLAB:
            raise ValueError(
                f"the fused attention kernel does not support {self.channels} channels in {self.groups} groups and "
                f"{self.tokens} pixels: it takes multiples of 16 up to {MAX_CHANNELS} channels, up to {MAX_TOKENS} "
                f"pixels and slabs of whole groups up to {MAX_SLAB} elements; use the reference"
            )

    @cached_property
    def tile(self) -> Tiles:
        """Tiles of the attention kernel."""
        return tiles(self.tokens, self.channels, self.itemsize)

    @cached_property
    def packed(self) -> bool:
        """Whether a tile of the attention kernel contains several whole images."""
        return self.tokens < self.tile.m and self.tile.m % self.tokens == 0

    def shape_constants(self) -> dict[str, Any]:
        """Constants of both kernels."""
        token_stride, channel_stride = (self.channels, 1) if self.channels_last else (1, self.tokens)
        return {
            "TOKENS": self.tokens,
            "CHANNELS": self.channels,
            "TOKEN_STRIDE": token_stride,
            "CHANNEL_STRIDE": channel_stride,
        }

    @cached_property
    def norm_constants(self) -> dict[str, Any]:
        """Constants of `normalise_tokens_kernel`."""
        slab = slab_channels(self.channels, self.groups)
        return self.shape_constants() | {
            "EPS": self.eps,
            "GROUP_CHANNELS": self.channels // self.groups,
            "SLAB_CHANNELS": slab,
            "BLOCK_T": triton.next_power_of_2(self.tokens),
            "SLAB": triton.next_power_of_2(slab),
        }

    @cached_property
    def norm_warps(self) -> int:
        """Warps of `normalise_tokens_kernel`: about 32 elements a thread."""
        norm = self.norm_constants
        return min(8, max(1, norm["BLOCK_T"] * norm["SLAB"] // 1024))

    @cached_property
    def attention_constants(self) -> dict[str, Any]:
        """Constants of `group_norm_attention_kernel`."""
        tile = self.tile
        return self.shape_constants() | {
            "SCALE": self.scale,
            "PACKED": self.packed,
            "BLOCK_M": tile.m,
            "BLOCK_N": tile.n,
            "BLOCK_K": tile.k,
            "BLOCK_C": triton.next_power_of_2(self.channels),
        }


plan_of = cache(Plan)
"""`Plan`, cached because computing it takes longer than a launch."""


def group_norm_attention(x, norm_weight, norm_bias, groups, eps, score, key_bias, value, bias, scale):
    """Launch both kernels; arguments and result as in the schema of ``scoresde_fast.ops.group_norm_attention``.

    Raises:
        ValueError: the kernels do not support the shape.
    """
    batch, channels, height, width = x.shape
    out = x.new_empty_strided(x.shape, x.stride())
    if not x.numel():
        return out
    plan = plan_of(height * width, channels, groups, x.element_size(), x.stride(1) == 1, eps, scale)
    n = x.new_empty((batch, plan.tokens, channels))
    norm = plan.norm_constants
    slabs = triton.cdiv(channels, norm["SLAB_CHANNELS"])
    normalise_tokens_kernel[(batch * slabs,)](
        n, x, norm_weight, norm_bias, **norm, num_warps=plan.norm_warps, enable_fp_fusion=True
    )
    tile = plan.tile
    programs = triton.cdiv(batch * plan.tokens, tile.m) if plan.packed else batch * triton.cdiv(plan.tokens, tile.m)
    group_norm_attention_kernel[(programs,)](
        out,
        x,
        n,
        score,
        key_bias,
        value,
        bias,
        batch,
        **plan.attention_constants,
        num_warps=tile.warps,
        num_stages=tile.stages,
        enable_fp_fusion=True,
    )
    return out
