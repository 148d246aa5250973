# SPDX-License-Identifier: Apache-2.0
"""Repeated launches of a compiled kernel without Triton's search for the form that fits the arguments.

Triton inspects every argument at every call, which takes the host longer than the launch itself. Only this decides the
form: the constants, which a launcher has chosen, and each tensor's dtype and whether its address is a multiple of 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter, methodcaller
from typing import Any

DTYPE, ADDRESS = attrgetter("dtype"), methodcaller("data_ptr")


class Form:
    """A kernel with its constants, created once and launched often.

    Args:
        kernel: a ``triton.jit`` function, whose tensors come before its constants.
        constants: all its ``constexpr`` arguments.
        options: of the compiler and the launch, such as ``num_warps``.
    """

    def __init__(self, kernel: Any, constants: Mapping[str, Any], **options: Any) -> None:
        self.kernel, self.constants, self.options = kernel, constants, options
        self._values = [constants[name] for name in kernel.arg_names if name in constants]
        self._compiled: dict[tuple[Any, ...], Any] = {}

    def launch(self, programs: int, *tensors: Any) -> None:
        """Launch the kernel with this number of programs.  The tensors are on the current device."""
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
        """Compile and launch; returns the compiled kernel, or None in Triton's interpreter."""
        return self.kernel[(programs,)](*tensors, **self.constants, **self.options)
