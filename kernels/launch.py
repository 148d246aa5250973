# SPDX-License-Identifier: Apache-2.0
"""Launching a compiled kernel again without asking Triton which of its forms the arguments want.

Triton describes every argument anew at every call, which takes the host longer than the launch itself. Little decides
the form: the constants, which a launcher has chosen, and of each tensor the dtype and whether its address is a multiple
of 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter, methodcaller
from typing import Any

DTYPE, ADDRESS = attrgetter("dtype"), methodcaller("data_ptr")


class Form:
    """A kernel with its constants, to be made once and launched often.

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
        """Launch the kernel with this number of programs.  The tensors lie on the current device."""
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
        """Also compiles; returns what was launched, or None where Triton interprets its kernels."""
        return self.kernel[(programs,)](*tensors, **self.constants, **self.options)
