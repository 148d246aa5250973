# SPDX-License-Identifier: Apache-2.0
"""What an evaluation of a network consists of: floating-point operations and bytes, by kind and resolution.

Counted on the meta device, so that nothing is computed.  A multiply-add is two operations; an operation reads its
inputs and writes its output once, as unfused kernels do.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from scoresde_fast.bench.baseline import original

aten = torch.ops.aten


@dataclass
class Share:
    """All operations of one kind at one resolution in one evaluation of a batch.

    Attributes:
        kind: "convolution", "resampling", "matrix product", "norm" or "pointwise".
        resolution: height of the output; 0 for matrix products, which attention and the time embedding have.
        gflop, gbyte: 10^9 operations and bytes.
    """

    kind: str
    resolution: int
    gflop: float = 0.0
    gbyte: float = 0.0


class _Counter(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.shares: dict[tuple[str, int], Share] = {}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and isinstance(first := tree_leaves(out)[0], Tensor):
            key = _kind(func.overloadpacket, args), first.shape[-1] if first.ndim == 4 else 0
            share = self.shares.setdefault(key, Share(*key))
            count = flop_registry.get(func.overloadpacket)
            share.gflop += count(*args, **(kwargs or {}), out_val=out) / 1e9 if count else 0.0
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            share.gbyte += sum(tensor.nbytes for tensor in tensors) / 1e9
        return out


def _kind(packet: Any, args: tuple[Any, ...]) -> str:
    if packet is aten.convolution:
        return "resampling" if args[8] > 1 else "convolution"
    if packet in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm):
        return "matrix product"
    return "norm" if packet is aten.native_group_norm else "pointwise"


def operations(
    network: nn.Module, state_shape: tuple[int, ...], batch: int = 1, dtype: torch.dtype = torch.float32
) -> list[Share]:
    """The shares of one evaluation of a batch by the plain network in ``dtype``, those with most operations first."""
    shadow = original(network).to("meta", dtype)
    x, labels = torch.empty(batch, *state_shape, dtype=dtype, device="meta"), torch.ones(batch, device="meta")
    with torch.no_grad(), _Counter() as counter:
        shadow(x, labels.to(dtype))
    return sorted(counter.shares.values(), key=lambda share: (-share.gflop, -share.gbyte))


def total_gflop(shares: Iterable[Share]) -> float:
    """10^9 floating-point operations of all shares."""
    return sum(share.gflop for share in shares)


def as_dicts(shares: Iterable[Share]) -> list[dict[str, Any]]:
    """For JSON."""
    return [asdict(share) for share in shares]
