# SPDX-License-Identifier: Apache-2.0
"""Fallbacks where a network cannot be compiled or captured, and the test for errors that mean short memory."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

INTERNAL_PATHS = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(torch.__file__).parent))
"""Folders of this package and of PyTorch; a warning points at the first line outside them."""


def warn_user(message: str) -> None:
    """Warn at the caller's line outside this package and PyTorch."""
    callers = enumerate(traceback.walk_stack(sys._getframe()), 1)
    level = next(level for level, (frame, _) in callers if not frame.f_code.co_filename.startswith(INTERNAL_PATHS))
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def warn_slower(network: nn.Module, done: str, option: str, error: Exception) -> None:
    """Warn that a network runs more slowly than the user asked.

    Args:
        network: the warning names its class.
        done: what failed, as a participle: "compiled".
        option: the option that asks for it; False silences the warning.
        error: the reason; the warning quotes it and the line of the network that raised it.
    """
    said = " ".join(list(filter(str.strip, str(error).splitlines()))[:2]) or type(error).__name__
    warn_user(
        f"{type(network).__name__} cannot be {done}: {said}{_raised_at(error)}; "
        f"it runs more slowly without; {option}=False silences this warning"
    )


def _raised_at(error: Exception) -> str:
    """Describe the line of the innermost module that was computing when the error was raised."""
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and not type(module).__module__.startswith("torch"):
            where = f" (at {frame.f_code.co_filename}:{line})"
    return where


def fits_in_memory(evaluate: Callable[[], object], release: Callable[[], None]) -> bool:
    """Return whether ``evaluate`` runs in the free memory; ``release`` frees memory before and after it."""
    release()
    try:
        evaluate()
    except Exception as error:
        if not out_of_memory(error):
            raise
        return False
    finally:
        release()
    return True


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that the memory of a GPU or of the host is short."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
