# SPDX-License-Identifier: Apache-2.0
"""What follows when a network cannot be compiled or captured: a warning, and an error only where memory is short."""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from pathlib import Path

import torch
from torch import nn

PACKAGES = tuple(f"{folder}{os.sep}" for folder in (Path(__file__).parents[1], Path(torch.__file__).parent))
"""Where this package and PyTorch are: a warning is shown at the first line outside."""
INSIDE = (f"{os.sep}torch{os.sep}", *(f"{os.sep}{name}.py" for name in ("engine", "capture", "capture_safety")))
"""Source files that pass an error on: it came from the line before."""


def warn_slower(network: nn.Module, done: str, option: str, error: Exception) -> None:
    """Warn that a network runs slower than asked, at the caller's line.

    Args:
        network: the warning names its class.
        done: what cannot be done to it: "compiled".
        option: the option that asks for this, and that silences the warning when it is False.
        error: the reason; the warning quotes it and the line of the network that raised it.
    """
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not any(i in f.filename for i in INSIDE)]
    where = f" (at {frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    said = " ".join(list(filter(str.strip, str(error).splitlines()))[:2]) or type(error).__name__
    callers = enumerate(traceback.walk_stack(sys._getframe()), 1)
    level = next(level for level, (frame, _) in callers if not frame.f_code.co_filename.startswith(PACKAGES))
    warnings.warn(
        f"{type(network).__name__} cannot be {done}: {said}{where}; "
        f"it runs slower, without; {option}=False says that this is meant",
        RuntimeWarning,
        stacklevel=level,
    )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short: a GPU's, or the host's."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )
