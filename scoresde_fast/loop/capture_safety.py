# SPDX-License-Identifier: Apache-2.0
"""Whether a step can be captured as a CUDA graph and replayed: every operation of it, looked at as it is dispatched.

It needs no GPU: the tensors may be fake ones, with a device and no data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
"""Operations whose shape may depend on data, and mostly does not."""
FROM_VALUES = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}


class CaptureUnsafeError(RuntimeError):
    """An operation that no graph can replay; names it and says why."""


@dataclass
class _Storages:
    """A name for each storage: outside ones keep it over recordings, those made inside are numbered in order."""

    kept: list[Tensor] = field(default_factory=list)
    inside: dict[int, int] = field(default_factory=dict)
    outside: set[int] = field(default_factory=set)

    def name(self, tensor: Tensor, *, made: bool) -> str:
        key = tensor.untyped_storage()._cdata
        self.kept.append(tensor)  # a storage that is freed would lend its name to another
        if made and key not in self.outside:
            self.inside.setdefault(key, len(self.inside))
        if key in self.inside:
            return f"made {self.inside[key]}"
        self.outside.add(key)
        return f"given {key}"


class CaptureSafety(TorchDispatchMode):
    """Inside it every operation is recorded, and one that cannot be captured raises `CaptureUnsafeError`.

    That is: a host read of a device tensor, a shape that depends on data, a copy between host and device, an operation
    on tensors of both, and torch's random generator.

    Args:
        device: the device of the run; tensors of other devices are the host's.
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
        with self:  # inference mode hands over composite operations whole: what they are made of decides
            made_of = func.decompose(*args, **kwargs)
        if made_of is not NotImplemented:
            return made_of
        if why := self._unsafe(func, args, kwargs):
            raise CaptureUnsafeError(f"{func} {why}")
        described = [self._describe(value, made=False) for value in tree_leaves((args, kwargs))]
        result = func(*args, **kwargs)
        outputs = [self._describe(value, made=True) for value in tree_leaves(result)]
        self.record.append(f"{func}({', '.join(described)}) -> {outputs}")
        return result

    def begin(self) -> None:
        """Forget the record; tensors made until now count as given."""
        self.record = []
        self.storages.inside.clear()

    def _on_device(self, value: object) -> bool:
        return isinstance(value, Tensor) and value.device.type == self.device_type

    def _unsafe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        device = [tensor for tensor in tensors if self._on_device(tensor)]
        host = [tensor for tensor in tensors if not self._on_device(tensor)]
        # Attention counts as random for the sake of a dropout that it may not have.
        if torch.Tag.nondeterministic_seeded in func.tags and _argument(func, "dropout_p", args, kwargs) != 0:
            return "draws from torch's random generator"
        if device and torch.Tag.data_dependent_output in func.tags:
            return "reads a tensor on the host"
        # An index of integers has the shape that it has; one that is a mask has as many entries as it is true.
        indices = [index for index in tree_leaves(args[1]) if isinstance(index, Tensor)] if func in INDEXING else []
        masked = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if device and (masked if func in INDEXING else torch.Tag.dynamic_output_shape in func.tags):
            return "has a shape that depends on data"
        target = kwargs.get("device")
        if target is not None and tensors:
            goes_to_device = torch.device(target).type == self.device_type
            if device and not goes_to_device:
                return "copies a tensor to the host"
            if host and goes_to_device:
                return "copies a tensor from the host"
        if device and host:
            return "mixes tensors of the host and of the device"
        return None

    def _describe(self, value: object, *, made: bool) -> str:
        if not isinstance(value, Tensor):
            return repr(value)
        name = self.storages.name(value, made=made)
        return f"{name}+{value.storage_offset()} {tuple(value.shape)} {value.stride()} {value.dtype} {value.device}"


class _HostValues(TorchFunctionMode):
    """Catches what PyTorch makes of values on the host without dispatching an operation."""

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
    """Run a step twice and yield the operations that differ: (first time, second time); none, where it is captureable.

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
    """Raises `CaptureUnsafeError` unless the step can be captured once and replayed."""
    for first, second in record_twice(step, device):
        raise CaptureUnsafeError(
            f"{(first or second).partition('(')[0]} is not the same in two steps: {first or 'nothing'}, "
            f"then {second or 'nothing'}"
        )


def _argument(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation is given for the argument ``name``; None where it has no such argument."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[index] if index < len(args) else kwargs.get(name, argument.default_value)
    return None
