# SPDX-License-Identifier: Apache-2.0
"""A driver with which Triton compiles for a GPU, and goes through its launches, on a machine that has none."""

from __future__ import annotations

from typing import Any

CAPABILITY = 90


class Launcher:
    """What would launch a kernel, and does nothing."""

    def __init__(self, source: Any, metadata: Any) -> None:
        pass

    def __call__(self, *arguments: Any) -> None:
        pass


class Utilities:
    """What would load a kernel."""

    def load_binary(self, *arguments: Any) -> tuple[int, int, int, int, int]:
        """Handles of the module and the function; registers, spills, and the most threads."""
        return 1, 1, 0, 0, 1024

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 227 * 1024, "multiprocessor_count": 132}

    def unload_module(self, module: int) -> None:
        pass


class Driver:
    """In place of Triton's own."""

    launcher_cls = Launcher
    utils = Utilities()

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", CAPABILITY, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0
