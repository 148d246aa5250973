# SPDX-License-Identifier: Apache-2.0
"""Messages for unknown names and missing packages, checks of numbers, and the renamed options."""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher
from importlib.util import find_spec
from typing import SupportsFloat, SupportsIndex

IMPORT_NAMES = {"scikit-learn": "sklearn", "torch-fidelity": "torch_fidelity"}
"""Import names of packages whose name on PyPI differs."""
INTERRUPTED = 130
"""Exit code after Ctrl-C."""
INTERRUPTED_MESSAGE = "scoresde-fast: interrupted; run the same command again to continue"
RENAMED = {"flow": "probability_flow", "parity": "original"}
"""Former option names and the new ones; using a former name raises an error that gives the new one."""

SYNONYMS = {
    "num_steps": "steps", "n_steps": "steps", "num_inference_steps": "steps", "nfe": "steps",
    "sampler": "solver", "scheduler": "solver", "method": "solver", "timesteps": "grid", "sigmas": "grid",
    "seed": "run_seed", "num_images": "seeds", "num_samples": "seeds", "n": "seeds", "generator": "seeds",
    "latents": "noise", "x_T": "noise", "class_labels": "inputs", "labels": "inputs", "y": "inputs",
    "guidance_scale": "guidance", "cfg": "guidance", "cfg_scale": "guidance", "dtype": "precision",
}  # fmt: skip
"""Names that options have in other libraries, for suggestions."""


class MissingPackageError(ModuleNotFoundError, ValueError):
    """An optional package is not installed."""


def unknown_message(kind: str, value: object, allowed: Iterable[str]) -> str:
    """Return the error message for a name not in ``allowed``, with the closest name and all allowed names."""
    names = sorted(allowed)
    synonym = SYNONYMS.get(str(value))
    closest = synonym if synonym in names else _closest(str(value), names)
    problem = f"unknown {kind} {shortened(value)}" + (f" - did you mean {closest!r}?" if closest else ";")
    return f"{problem} choose from: {', '.join(names)}"


def shortened(value: object) -> str:
    """Return the ``repr`` of a value in one line of at most 80 characters, for a message."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer with more digits than Python prints
        text = f"of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def require_packages(purpose: str, *packages: str) -> None:
    """Raise MissingPackageError, with the command that installs them, if optional packages are missing."""
    missing = [package for package in packages if find_spec(IMPORT_NAMES.get(package, package)) is None]
    if missing:
        raise MissingPackageError(
            f"{purpose} needs {' and '.join(missing)} to be installed: pip install {' '.join(missing)}"
        )


def require_positive(name: str, value: object) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number greater than 0."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat) or not 0 < float(value) < math.inf:
        raise ValueError(f"{name} is {shortened(value)}; it must be a finite number greater than 0")


def require_integer(name: str, value: object, least: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or operator.index(value) < least:
        raise ValueError(f"{name} is {shortened(value)}; it must be an integer of at least {least}")


def _closest(value: str, names: list[str]) -> str | None:
    """Return the name closest to ``value``, as a whole or by its start; None for a number or if no name is close.

    Capital letters count as small ones, and "+" as the letter p of the solvers' names.
    """
    if value not in names:
        value = value.casefold().replace("+", "p")

    def similarity(name: str) -> float:
        return max(SequenceMatcher(None, value, part.casefold()).ratio() for part in (name, name[: len(value) + 1]))

    def shared_letters(name: str) -> int:
        return (Counter(value) & Counter(name)).total()  # transposed letters count as shared

    best = max(names, key=lambda name: (similarity(name), shared_letters(name)), default=None)
    return None if best is None or value.isdigit() or similarity(best) < 0.5 else best
