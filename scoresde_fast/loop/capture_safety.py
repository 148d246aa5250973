# SPDX-License-Identifier: Apache-2.0
"""A check that every operation of a step can be captured in a CUDA graph and replayed.

The check needs no GPU: it accepts fake tensors, which have a device but no data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._unsafe_index.Tensor}
"""Operations whose output shape depends on data only if the index is a mask."""
FROM_VALUES = {torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor}
"""Functions that make a tensor from host values."""


class CaptureUnsafeError(RuntimeError):
    """A CUDA graph cannot replay an operation; the message gives the operation and the reason."""


@dataclass
class _Storages:
    """Names of storages, the same in every recording: addresses of external storages, numbers of new ones."""

    # A new storage at the address of a freed one gets a new name.  Only external storages, which come from outside the
    # step, are kept alive, so that the check needs no more memory than the step.
    external: dict[int, Tensor]
    internal: dict[int, int] = field(default_factory=dict)
    count: int = 0

    def read(self, tensor: Tensor) -> str:
        """Return the name of an argument's storage."""
        key = _key(tensor)
        if key in self.internal:
            return f"internal {self.internal[key]}"
        self.external.setdefault(key, tensor)
        return f"external {key}"

    def written(self, tensor: Tensor, argument_keys: set[int]) -> str:
        """Return the name of a result's storage, which is new unless an argument has the same storage.

        A new key is added to ``argument_keys``, because several results may share a new storage.
        """
        key = _key(tensor)
        if key not in argument_keys and key not in self.external:
            argument_keys.add(key)
            self.internal[key] = self.count
            self.count += 1
        return self.read(tensor)


def _key(tensor: Tensor) -> int:
    key: int = tensor.untyped_storage()._cdata
    return key


class CaptureSafety(TorchDispatchMode):
    """A mode that records every operation and raises `CaptureUnsafeError` for one that cannot be captured.

    It rejects reads of a device tensor on the host, output shapes that depend on data, copies between host and device,
    operations that mix their tensors, and draws from torch's random generator.

    Args:
        device_type: the type of the run's device; tensors on other devices are treated as host tensors.
        external: the external storages in earlier recordings of the step, by address.
    """

    def __init__(self, device_type: str, external: dict[int, Tensor]) -> None:
        super().__init__()
        self.device_type = device_type
        self.record: list[str] = []
        self.storages = _Storages(external)

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # inference mode dispatches composite operations as a whole, but their parts must be checked
            decomposed = func.decompose(*args, **kwargs)
        if decomposed is not NotImplemented:
            return decomposed
        if reason := self._unsafe(func, args, kwargs):
            raise CaptureUnsafeError(f"{func} {reason}")
        inputs = [_describe(value, self.storages.read) for value in tree_leaves((args, kwargs))]
        keys = {_key(value) for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        result = func(*args, **kwargs)
        name_output = partial(self.storages.written, argument_keys=keys)
        outputs = [_describe(value, name_output) for value in tree_leaves(result)]
        self.record.append(f"{func}({', '.join(inputs)}) -> {outputs}")
        return result

    def _unsafe(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        device = [tensor for tensor in tensors if tensor.device.type == self.device_type]
        host = [tensor for tensor in tensors if tensor.device.type != self.device_type]
        # PyTorch tags attention as random because of its dropout, whose probability may be 0.
        if torch.Tag.nondeterministic_seeded in func.tags and _argument(func, "dropout_p", args, kwargs) != 0:
            return "draws from torch's random generator"
        if device and torch.Tag.data_dependent_output in func.tags:
            return "reads a tensor on the host"
        dynamic = torch.Tag.dynamic_output_shape in func.tags
        if func in INDEXING:  # only the number of entries that a mask selects depends on data
            indices = [index for index in tree_leaves(args[1]) if isinstance(index, Tensor)]
            dynamic = any(index.dtype in (torch.bool, torch.uint8) for index in indices)
        if device and dynamic:
            return "has a shape that depends on data"
        target = kwargs.get("device")
        if target is not None and tensors:
            to = torch.device(target).type
            # Forward mode computes shapes on the device "meta", which has no data.
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
    """A mode that rejects device tensors made from host values, for which PyTorch dispatches no operation."""

    def __init__(self, device_type: str) -> None:
        super().__init__()
        self.device_type = device_type

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in FROM_VALUES and isinstance(result, Tensor) and result.device.type == self.device_type:
            values = args[1:] if func is torch.Tensor.new_tensor else args
            if not (values and isinstance(values[0], Tensor)):
                raise CaptureUnsafeError(f"{func.__name__} makes a tensor from values on the host")
        return result


def require_capturable(step: Callable[[], object], device: torch.device | str) -> None:
    """Raise `CaptureUnsafeError` unless the step can be captured once and replayed; the step runs twice."""
    device_type = torch.device(device).type
    external: dict[int, Tensor] = {}
    records = []
    for _ in range(2):
        with _HostValues(device_type), CaptureSafety(device_type, external) as mode:
            step()
        records.append(mode.record)
    for first, second in zip_longest(*records, fillvalue=""):
        if first != second:
            raise CaptureUnsafeError(
                f"{(first or second).partition('(')[0]} differs between two runs of the step: {first or 'nothing'}, "
                f"then {second or 'nothing'}"
            )


def _argument(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return the value of an operation's argument ``name``; None if it has no such argument."""
    for index, argument in enumerate(func._schema.arguments):
        if argument.name == name:
            return args[index] if index < len(args) else kwargs.get(name, argument.default_value)
    return None
