# SPDX-License-Identifier: Apache-2.0
"""``group_norm_attention``: GroupNorm, single-head self-attention over pixels and the residual sum, as one operation.

The four projections of the block (q = n Wq + bq, k = n Wk + bk, v = n Wv + bv, out = o Wo + bo, matrices (in, out)) are
merged into two.  With the normalised pixels n_i, the logits are q_i . k_j / sqrt(C) = (n_i S + u) . n_j + c_i, where
S = Wq Wk^T / sqrt(C) and u = Wk bq / sqrt(C).  The softmax over j cancels c_i, and with it bk.  Its weights p_ij sum to
one, so sum_j p_ij v_j Wo + bo = (sum_j p_ij n_j) V + b, where V = Wv Wo and b = bv Wo + bo.  Queries are n S + u; keys
and values are n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from scoresde_fast.ops import checks
from scoresde_fast.ops.derivatives import needs_derivatives
from scoresde_fast.ops.group_norm_silu import group_norm_silu
from scoresde_fast.ops.registration import define

FASTER_FUSED = frozenset({(256, 256), (64, 256), (16, 256)})
"""(pixels, channels) for which 16-bit inputs use the fused kernels by default; other shapes use the reference.

Estimated from operation counts, until benchmarks/results/DEVICE-DATE.json has measurements of both.
"""


class MergedAttention(NamedTuple):
    """The projections of an attention block, merged.

    Attributes:
        score: S, (C, C), in the network's dtype; includes 1 / sqrt(C).
        key_bias: u, (C,), float32; the contribution of the query bias to the logits.
        value: V, (C, C), in the network's dtype.
        bias: b, (C,), float32.
    """

    score: Tensor
    key_bias: Tensor
    value: Tensor
    bias: Tensor


def group_norm_attention(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float,
    weights: MergedAttention,
    scale: float = 1.0,
    implementation: Callable[..., Tensor] | None = None,
) -> Tensor:
    """Return (x + attention(GroupNorm(x))) * scale, with the shape, dtype and strides of ``x``.

    Calls that need gradients or tangents run the PyTorch reference.

    Args:
        x: (B, C, H, W), contiguous or channels_last; float32, bfloat16, float16 or (reference only) float64.
        norm_weight, norm_bias: (C,), any floating dtype.
        groups: number of groups of the norm, a divisor of C.
        eps: added to the variance in the norm.
        weights: from `merge_attention`, in the dtype of ``x``.
        scale: 1 / sqrt(2) in a variance-preserving block, else 1.
        implementation: a result of ``operation.choose``; None selects the faster form for the shape.

    Raises:
        TypeError, ValueError: an argument is not as described, or ``implementation`` does not support the shape.
    """
    _require(x, norm_weight, norm_bias, groups, weights)
    fused_by_default = x.dtype.itemsize == 2 and (x.shape[2] * x.shape[3], x.shape[1]) in FASTER_FUSED
    fuse = implementation is not None or fused_by_default
    if not fuse or needs_derivatives(x, norm_weight, norm_bias, *weights):
        return _reference(x, norm_weight, norm_bias, groups, eps, *weights, scale)
    fused = implementation or torch.ops.scoresde_fast.group_norm_attention.default
    return fused(x, norm_weight, norm_bias, groups, eps, *weights, scale)


def merge_attention(
    query_weight: Tensor,
    query_bias: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    value_bias: Tensor,
    out_weight: Tensor,
    out_bias: Tensor,
    dtype: torch.dtype = torch.float32,
) -> MergedAttention:
    """Merge the projections in float64 and round once.

    Args:
        query_weight, key_weight, value_weight, out_weight: (C, C), (in, out).
        query_bias, value_bias, out_bias: (C,); the bias of the keys has no effect.
        dtype: the network's dtype; the biases stay in float32, or in float64 if ``dtype`` is float64.
    """
    wq, wk, wv, wo = (weight.double() for weight in (query_weight, key_weight, value_weight, out_weight))
    bq, bv, bo = (bias.double() for bias in (query_bias, value_bias, out_bias))
    root = math.sqrt(len(wq))
    bias_dtype = torch.promote_types(dtype, torch.float32)
    return MergedAttention(
        score=(wq @ wk.mT / root).to(dtype),
        key_bias=(wk @ bq / root).to(bias_dtype),
        value=(wv @ wo).to(dtype),
        bias=(bv @ wo + bo).to(bias_dtype),
    )


def _require(x: Tensor, norm_weight: Tensor, norm_bias: Tensor, groups: int, weights: MergedAttention) -> None:
    checks.require_image("x", x)
    checks.require_groups(groups, x)
    channels = x.shape[1]
    for name, matrix in (("score", weights.score), ("value", weights.value)):
        checks.require_parameter(name, matrix, [x.dtype], [(channels, channels)], "x", x)
    vectors = {"norm_weight": norm_weight, "norm_bias": norm_bias, "key_bias": weights.key_bias, "bias": weights.bias}
    for name, vector in vectors.items():
        checks.require_parameter(name, vector, checks.FLOAT_DTYPES, [(channels,)], "x", x)


def _reference(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float,
    score: Tensor,
    key_bias: Tensor,
    value: Tensor,
    bias: Tensor,
    scale: float,
) -> Tensor:
    normalised = _normalise(x, norm_weight.to(x.dtype), norm_bias.to(x.dtype), groups, eps)
    keys = normalised.flatten(2).mT  # (B, H W, C)
    queries = _project(keys, score, key_bias)
    out = _project(_attend(queries, keys), value, bias).mT.unflatten(2, x.shape[2:])
    return (x + out).mul_(scale)


def _normalise(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    if not needs_derivatives(x):
        return F.group_norm(x, groups, weight, bias, eps)
    # Torch's forward-mode rule of group_norm neither compiles nor supports channels_last; its gradient is slower.
    return group_norm_silu(x, weight, bias, groups, eps=eps, silu=False)[0]


def _project(rows: Tensor, matrix: Tensor, bias: Tensor) -> Tensor:
    # On a CPU without 16-bit instructions, a 16-bit product with a transposed matrix is five times slower.
    weight = matrix.mT.contiguous() if rows.device.type == "cpu" else matrix.mT
    return F.linear(rows, weight, bias.to(rows.dtype))


def _attend(queries: Tensor, keys: Tensor) -> Tensor:
    if forward_ad.unpack_dual(queries).tangent is None:
        return F.scaled_dot_product_attention(queries[:, None], keys[:, None], keys[:, None], scale=1.0)[:, 0]
    # Torch's fused attention has no forward-mode rule, and its softmax has a slow one.  Logits need float32.
    wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
    logits = queries.to(wide.dtype) @ wide.mT
    weights = (logits - logits.detach().amax(-1, keepdim=True)).exp()
    return (weights @ wide / weights.sum(-1, keepdim=True)).to(keys.dtype)


def _fake(x: Tensor, *_arguments: Any) -> Tensor:
    return torch.empty_like(x)


operation = define(
    "group_norm_attention(Tensor x, Tensor norm_weight, Tensor norm_bias, int groups, float eps, Tensor score, "
    "Tensor key_bias, Tensor value, Tensor bias, float scale) -> Tensor",
    _reference,
    _fake,
    order=("triton",),
)
