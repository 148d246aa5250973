# SPDX-License-Identifier: Apache-2.0
"""Warnings for networks that cannot be compiled or captured, and detection of out-of-memory errors."""

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
"""Folders of this package and of PyTorch; warnings point at the first line outside them."""


def warn_user(message: str) -> None:
    """Warn at the caller's line outside this package and PyTorch."""
    callers = enumerate(traceback.walk_stack(sys._getframe()), 1)
    level = next(level for level, (frame, _) in callers if not frame.f_code.co_filename.startswith(INTERNAL_PATHS))
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def warn_slower(network: nn.Module, done: str, option: str, error: Exception) -> None:
    """Warn that a network runs slower than requested.

    Args:
        network: the network; the warning names its class.
        done: the failed action as a participle, e.g. "compiled".
        option: the option that requests the action; setting it to False silences the warning.
        error: the reason; the warning quotes it and the line of the network that raised it.
    """
    reason = " ".join(list(filter(str.strip, str(error).splitlines()))[:2]) or type(error).__name__
    warn_user(
        f"{type(network).__name__} cannot be {done}: {reason}{_raised_at(error)}; "
        f"it runs anyway, but more slowly; {option}=False silences this warning"
    )


def _raised_at(error: Exception) -> str:
    """Return " (at FILE:LINE)" for the innermost module in the traceback, or ""."""
    location = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and not type(module).__module__.startswith("torch"):
            location = f" (at {frame.f_code.co_filename}:{line})"
    return location


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
    """Return whether an error means that a GPU or the host is out of memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
