# SPDX-License-Identifier: Apache-2.0
"""Fast repeated launches of a compiled kernel without Triton's inspection of the arguments, and memory for results.

Triton inspects all arguments of each call, which takes longer than the launch itself.  The compiled form depends only
on the constants, which a `Form` fixes, and on each tensor's dtype and 16-byte alignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter, methodcaller
from typing import Any

DTYPE, ADDRESS = attrgetter("dtype"), methodcaller("data_ptr")


class Form:
    """A kernel with fixed constants, created once and launched many times.

    Args:
        kernel: a ``triton.jit`` function with its tensor arguments before its constants.
        constants: values of all ``constexpr`` arguments.
        options: compiler and launch options, such as ``num_warps``.
    """

    def __init__(self, kernel: Any, constants: Mapping[str, Any], **options: Any) -> None:
        self.kernel, self.constants, self.options = kernel, constants, options
        self._values = [constants[name] for name in kernel.arg_names if name in constants]
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def launch(self, programs: int, *tensors: Any) -> None:
        """Launch the kernel with this number of programs.  The tensors must be on the current device."""
        if any(address % 16 for address in map(ADDRESS, tensors)):
            self._launch_by_triton(programs, tensors)
            return
        key = tensors[0].get_device(), *map(DTYPE, tensors)
        compiled = self._compiled.get(key)
        if compiled is None:
            self._compiled[key] = self._launch_by_triton(programs, tensors)
        else:
            compiled[programs, 1, 1](*tensors, *self._values)

    def _launch_by_triton(self, programs: int, tensors: tuple[Any, ...]) -> Any:
        """Compile and launch the kernel; return the compiled kernel, or None in Triton's interpreter."""
        return self.kernel[(programs,)](*tensors, **self.constants, **self.options)


_float32_of: dict[type, Any] = {}
"""The float32 dtype of each tensor type; kernels do not import torch."""


def empty_float32(like: Any, shape: tuple[int, ...]) -> Any:
    """Return uninitialised float32 memory on the device of ``like``."""
    dtype = _float32_of.get(type(like)) or _float32_of.setdefault(type(like), like.new_empty(0).float().dtype)
    return like.new_empty(shape, dtype=dtype)
