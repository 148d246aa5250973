# SPDX-License-Identifier: Apache-2.0
"""Reuse of a U-Net's deep features between steps (DeepCache, Ma et al. 2024).

Deep features change slowly from step to step.  So only every n-th evaluation is whole and keeps its deep features; the
others compute the layers near the image alone, with the features of the last whole one.  In a `ScoreNetwork` these
are the layers of the first skip connections; in a network of another kind, all but the modules that are named.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from scoresde_fast.errors import require_integer
from scoresde_fast.loop.condition import Data
from scoresde_fast.loop.evaluator import Evaluator, PlainNetwork
from scoresde_fast.model import network_name
from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.networks.adapter import Adapter
from scoresde_fast.networks.folding import FoldedNetwork


@dataclass(frozen=True)
class FeatureCaching:
    """Every ``interval``-th evaluation is whole; the others compute ``branches`` skip connections.

    Raises:
        ValueError: a number is not a positive integer.
    """

    interval: int = 1
    branches: int = 1

    def __post_init__(self) -> None:
        require_integer("cache_interval", self.interval, 1)
        require_integer("cache_branches", self.branches, 1)

    def require_network(self, network: nn.Module) -> None:
        """Raise ``ValueError`` unless the features of a network can be reused."""
        if self.interval == 1:
            return
        problem = f"cache_interval is {self.interval}, but {network_name(network)}"
        if isinstance(network, ScoreNetwork):
            if not network.branches:
                raise ValueError(f"{problem} has no deep features that can be reused: leave it out")
            if self.branches >= network.branches:
                raise ValueError(
                    f"cache_branches is {self.branches}; {network_name(network)} has {network.branches} skip "
                    f"connections, of which at most {network.branches - 1} can be computed without the deep features"
                )
        elif not (isinstance(network, Adapter) and network.deep_modules):
            raise ValueError(f"{problem} names no deep modules: name them, as in wrap(..., deep_modules=['mid_block'])")


NO_CACHING = FeatureCaching()


class CachingNetwork(nn.Module):
    """A folded network that keeps its deep features, or with ``reuses`` one that computes the output from them."""

    def __init__(self, folded: FoldedNetwork, branches: int, *, reuses: bool) -> None:
        super().__init__()
        self.folded, self.branches, self.reuses = folded, branches, reuses

    def forward(self, x: Tensor, row: Tensor, *features: Tensor) -> Tensor:
        """Return the output as `FoldedNetwork` does; ``features`` are written, or with ``reuses`` read."""
        shifts, scale = self.folded.at(row)
        x, network = self.folded.prepared(x), self.folded.network
        if self.reuses:
            skips = network.descend(x, shifts, self.branches)
        else:
            deep, skips = network.deep(x, shifts, self.branches)
            for kept, feature in zip(features, deep, strict=True):
                kept.copy_(feature)
            features = deep
        return self.folded.scaled(network.shallow(features, skips, shifts), scale)

    def empty_features(self, x: Tensor, row: Tensor) -> Data:
        """Return tensors in the shapes of the features for states like ``x`` (B, ...)."""
        shifts, _ = self.folded.at(row)
        deep, _ = self.folded.network.deep(self.folded.prepared(x), shifts, self.branches)
        return tuple(torch.empty_like(feature) for feature in deep)

    def stale(self) -> bool:
        """Return whether the folded network is outdated."""
        return self.folded.stale()


class Store(threading.local):
    """The kept outputs of the evaluation that runs in this thread.

    Attributes:
        reuses: whether outputs are read rather than written.
        features: the outputs of all deep modules, in the order in which the network calls them; None to collect them.
    """

    reuses = False
    features: Sequence[Tensor] | None = None
    _next = 0

    def begin(self, features: Sequence[Tensor] | None, *, reuses: bool) -> None:
        """Begin an evaluation."""
        self.features, self.reuses, self._next, self.collected = features, reuses, 0, list[Tensor]()

    def take(self, count: int) -> list[Tensor]:
        """Return the next kept tensors."""
        assert self.features is not None
        start, self._next = self._next, self._next + count
        return list(self.features[start : self._next])

    def keep(self, tensors: Sequence[Tensor]) -> None:
        """Write the next tensors."""
        if self.features is None:
            self.collected += tensors
            return
        for kept, tensor in zip(self.take(len(tensors)), tensors, strict=True):
            kept.copy_(tensor)


class KeptModule(nn.Module):
    """A module whose output is kept in a whole evaluation and returned by the others; attributes are the module's."""

    def __init__(self, module: nn.Module, store: Store) -> None:
        super().__init__()
        self.module = module
        self._kept = (store,)  # a tuple, because threads share the module but not what the store holds
        self.structure: TreeSpec | None = None

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)

    def forward(self, *values: Any, **named: Any) -> Any:
        """Return what the module returns, or what it returned in the last whole evaluation."""
        (store,) = self._kept
        if store.reuses:
            assert self.structure is not None  # set by the first evaluation
            return tree_unflatten(store.take(self.structure.num_leaves), self.structure)
        output = self.module(*values, **named)
        tensors, self.structure = tree_flatten(output)
        if not all(isinstance(tensor, Tensor) for tensor in tensors):
            raise ValueError(
                f"the deep module {type(self.module).__name__} returns more than tensors: name another one"
            )
        store.keep(tensors)
        return output


class CachingPlainNetwork(nn.Module):
    """A network as it is written that keeps the outputs of its deep modules, or with ``reuses`` takes them from there.

    Args:
        plain: the network with its table of labels, in which deep modules have been replaced by `KeptModule`.
        source: the network of the model, on whose weights it works.
        store: that of the deep modules.
        reuses: whether the outputs of deep modules are reused.
    """

    def __init__(self, plain: PlainNetwork, source: Evaluator, store: Store, *, reuses: bool) -> None:
        super().__init__()
        self.plain, self.reuses = plain, reuses
        self._shared = (source, store)

    def forward(self, x: Tensor, row: Tensor, *values: Tensor) -> Tensor:
        """Return the output (B, ...) at a row; ``values`` are the inputs of the network, then the features."""
        count = len(self.plain.names)
        self._shared[1].begin(values[count:], reuses=self.reuses)
        output: Tensor = self.plain(x, row, *values[:count])
        return output

    def empty_features(self, x: Tensor, row: Tensor, *inputs: Tensor) -> Data:
        """Return tensors in the shapes of the features for states like ``x`` (B, ...)."""
        store = self._shared[1]
        store.begin(None, reuses=False)
        self.plain(x, row, *inputs)
        return tuple(torch.empty_like(tensor) for tensor in store.collected)

    def stale(self) -> bool:
        """Return whether a weight was replaced."""
        return self._shared[0].stale()


def caching_evaluators(
    evaluator: Evaluator, caching: FeatureCaching
) -> tuple[CachingNetwork, CachingNetwork] | tuple[CachingPlainNetwork, CachingPlainNetwork]:
    """Return the evaluators of whole evaluations and of those that reuse their features, from that of the network."""
    if isinstance(evaluator, FoldedNetwork):
        whole, shallow = (CachingNetwork(evaluator, caching.branches, reuses=reuses) for reuses in (False, True))
        return whole, shallow
    assert isinstance(evaluator, PlainNetwork)
    store = Store()
    shared = {id(tensor): tensor for tensor in (*evaluator.parameters(), *evaluator.buffers())}
    plain = copy.deepcopy(evaluator, shared)
    adapter = plain.network
    assert isinstance(adapter, Adapter)
    network = adapter.innermost
    assert isinstance(network, nn.Module)  # it has modules with names
    for name in adapter.deep_modules:
        parent, _, child = name.rpartition(".")
        owner = network.get_submodule(parent)
        setattr(owner, child, KeptModule(owner.get_submodule(child), store))
    first, second = (CachingPlainNetwork(plain, evaluator, store, reuses=reuses) for reuses in (False, True))
    return first, second
