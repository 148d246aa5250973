# SPDX-License-Identifier: Apache-2.0
"""A stand-in for CUDA graphs on a CPU: records operations with their arguments and replays them in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Recording(TorchDispatchMode):
    """Records each operation that runs; Python numbers in its arguments become constants."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:
            decomposed = func.decompose(*args, **kwargs)
        if decomposed is not NotImplemented:
            return decomposed
        result = func(*args, **kwargs)
        self.operations.append((func, args, kwargs, result))
        return result

    def replay(self) -> None:
        """Repeat all operations, also those of tangents, and copy each result into the recorded tensor."""
        for func, args, kwargs, recorded in self.operations:
            with forward_ad._set_fwd_grad_enabled(False):
                result = func(*args, **kwargs)
            for old, new in zip(tree_leaves(recorded), tree_leaves(result), strict=True):
                if not isinstance(old, Tensor) or old._is_zerotensor():  # zero tangents without storage
                    continue
                if old.untyped_storage()._cdata != new.untyped_storage()._cdata:
                    old.copy_(new)


class RecordedGraphs:
    """Replaces `scoresde_fast.loop.capture.CudaGraphs`; counts the captured graphs and their replays."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def warm_up(self, step: Callable[[], None]) -> None:
        step()

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        self.captured += 1
        with Recording() as recording:
            step()

        def replay() -> None:
            self.replayed += 1
            recording.replay()

        return replay
