# SPDX-License-Identifier: Apache-2.0
"""What follows when a network cannot be compiled or captured: a warning, and an error only where memory is short."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

PACKAGES = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(torch.__file__).parent))
"""Where this package and PyTorch are: a warning is shown at the first line outside."""


def warn_user(message: str) -> None:
    """Warn at the line, outside this package and PyTorch, that asked for what is running."""
    callers = enumerate(traceback.walk_stack(sys._getframe()), 1)
    level = next(level for level, (frame, _) in callers if not frame.f_code.co_filename.startswith(PACKAGES))
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def warn_slower(network: nn.Module, done: str, option: str, error: Exception) -> None:
    """Warn that a network runs slower than asked.

    Args:
        network: the warning names its class.
        done: what cannot be done to it: "compiled".
        option: the option that asks for this, and that silences the warning when it is False.
        error: the reason; the warning quotes it and the line of the network that raised it.
    """
    said = " ".join(list(filter(str.strip, str(error).splitlines()))[:2]) or type(error).__name__
    warn_user(
        f"{type(network).__name__} cannot be {done}: {said}{_raised_at(error)}; "
        f"it runs slower, without; {option}=False says that this is meant"
    )


def _raised_at(error: Exception) -> str:
    """The line of the innermost module that was computing when the error was raised, in words."""
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and not type(module).__module__.startswith("torch"):
            where = f" (at {frame.f_code.co_filename}:{line})"
    return where


def fits_in_memory(evaluate: Callable[[], object], release: Callable[[], None]) -> bool:
    """Whether ``evaluate`` runs in the memory there is; ``release`` frees what is held before it, and what it took."""
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
    """Whether an error says that memory is short: a GPU's, or the host's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
