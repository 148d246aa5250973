# SPDX-License-Identifier: Apache-2.0
"""A check that a step can be captured as a CUDA graph and replayed, made on every operation that it dispatches.

The check needs no GPU: the tensors may be fake ones, which have a device and no data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
"""Operations whose shape depends on data only for a mask."""
FROM_VALUES = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}


class CaptureUnsafeError(RuntimeError):
    """A graph cannot replay an operation; the message names it and says why."""


@dataclass
class _Storages:
    """Names of storages: those given from outside keep theirs in every recording, those made inside are numbered."""

    # A new storage may take the address of a freed one, and then gets a new name.  Only given storages are kept alive,
    # so that the check needs no more memory than the step.
    given: dict[int, Tensor] = field(default_factory=dict)
    made: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def begin(self) -> None:
        """Count every storage made so far as given."""
        self.made.clear()
        self.count = 0

    def read(self, tensor: Tensor) -> str:
        """Return the name of an argument's storage."""
        key = _key(tensor)
        if key in self.made:
            return f"made {self.made[key]}"
        self.given.setdefault(key, tensor)
        return f"given {key}"

    def written(self, tensor: Tensor, known: set[int]) -> str:
        """Return the name of a result's storage, a new one unless its key is known; add the key."""
        key = _key(tensor)
        if key not in known and key not in self.given:
            known.add(key)
            self.made[key] = self.count
            self.count += 1
        return self.read(tensor)


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


class CaptureSafety(TorchDispatchMode):
    """A mode that records every operation, and raises `CaptureUnsafeError` for one that cannot be captured.

    These cannot: a read of a device tensor on the host, a shape that depends on data, a copy between host and device,
    an operation on tensors of both, and a draw from torch's random generator.

    Args:
        device: the device of the run; tensors of other devices count as the host's.
    """

    def __init__(self, device: torch.device | str) -> None:
        super().__init__()
        self.device_type = torch.device(device).type
        self.record: list[str] = []
        self.storages = _Storages()

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # inference mode dispatches composite operations whole; their parts decide
            made_of = func.decompose(*args, **kwargs)
        if made_of is not NotImplemented:
            return made_of
        if why := self._unsafe(func, args, kwargs):
            raise CaptureUnsafeError(f"{func} {why}")
        described = [_describe(value, self.storages.read) for value in tree_leaves((args, kwargs))]
        known = {_key(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **kwargs)
        outputs = [_describe(value, partial(self.storages.written, known=known)) for value in tree_leaves(result)]
        self.record.append(f"{func}({', '.join(described)}) -> {outputs}")
        return result

    def begin(self) -> None:
        """Start a new record; tensors made so far count as given."""
        self.record = []
        self.storages.begin()

    def _on_device(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.device.type == self.device_type

    def _unsafe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        device = [tensor for tensor in tensors if self._on_device(tensor)]
        host = [tensor for tensor in tensors if not self._on_device(tensor)]
        # PyTorch tags attention as random because of its dropout, which may be 0.
        if torch.Tag.nondeterministic_seeded in func.tags and _argument(func, "dropout_p", args, kwargs) != 0:
            return "draws from torch's random generator"
        if device and torch.Tag.data_dependent_output in func.tags:
            return "reads a tensor on the host"
        # A mask selects a number of entries that depends on its data; an integer index does not.
        indices = [index for index in tree_leaves(args[1]) if isinstance(index, Tensor)] if func in INDEXING else []
        masked = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if device and (masked if func in INDEXING else torch.Tag.dynamic_output_shape in func.tags):
            return "has a shape that depends on data"
        target = kwargs.get("device")
        if target is not None and tensors:
            to = torch.device(target).type
            # Forward mode computes shapes on the device "meta", which holds no data.
            if device and to not in (self.device_type, "meta"):
                return "copies a tensor to the host"
            if host and to == self.device_type:
                return "copies a tensor from the host"
        if device and host:
            return "mixes tensors of the host and of the device"
        return None


def _describe(value: object, name: Callable[[Tensor], str]) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    layout = f"{tuple(value.shape)} {value.stride()} {value.dtype} {value.device}"
    return f"{name(value)}+{value.storage_offset()} {layout}"


class _HostValues(TorchFunctionMode):
    """Catches tensors that PyTorch makes from host values without dispatching an operation."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in FROM_VALUES and isinstance(result, Tensor) and result.device.type == self.device_type:
            source = args[1] if func is torch.Tensor.new_tensor and len(args) > 1 else args[0] if args else None
            if not isinstance(source, Tensor):
                raise CaptureUnsafeError(f"{func.__name__} makes a tensor from values on the host")
        return result


def record_twice(step: Callable[[], object], device: torch.device | str) -> Iterator[tuple[str, str]]:
    """Run a step twice and yield the operations that differ, as (first time, second time).

    A step that can be captured yields nothing.

    Raises:
        CaptureUnsafeError: an operation cannot be captured.
    """
    records = []
    with _HostValues(torch.device(device).type), CaptureSafety(device) as mode:
        for _ in range(2):
            mode.begin()
            step()
            records.append(mode.record)
    first, second = records
    padding = [""] * abs(len(first) - len(second))
    longer = (first + padding, second) if len(first) < len(second) else (first, second + padding)
    for one, other in zip(*longer, strict=True):
        if one != other:
            yield one, other


def require_capturable(step: Callable[[], object], device: torch.device | str) -> None:
    """Raise `CaptureUnsafeError` unless the step can be captured once and replayed."""
    for first, second in record_twice(step, device):
        raise CaptureUnsafeError(
            f"{(first or second).partition('(')[0]} is not the same in two steps: {first or 'nothing'}, "
            f"then {second or 'nothing'}"
        )


def _argument(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the value of an operation's argument ``name``; None where it has no such argument."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[index] if index < len(args) else kwargs.get(name, argument.default_value)
    return None
