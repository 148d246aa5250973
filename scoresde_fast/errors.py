# SPDX-License-Identifier: Apache-2.0
"""Messages for unknown names and missing packages, checks of numbers, and the renamed options."""

from __future__ import annotations

import math
import operator
import reprlib
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


LISTED, MANY = 5, 20
"""A message gives `LISTED` names of a long list, and of names to choose from if they are more than `MANY`."""
_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 3, 100, 100


class MissingPackageError(ModuleNotFoundError, ValueError):
    """An optional package is not installed."""


class UnavailableBackendError(RuntimeError, ValueError):
    """A backend was chosen that cannot run here."""


class DataWarning(UserWarning):
    """Something in a user's data is not used."""


def unknown_message(kind: str, value: object, allowed: Iterable[str]) -> str:
    """Return the error message for a name not in ``allowed``, with the closest name and the allowed names.

    Of more than `MANY` names, the `LISTED` closest are given and the others are counted.
    """
    names = sorted(allowed)
    text = value[:100] if isinstance(value, str) else shown(value)
    synonym = SYNONYMS.get(text)
    closest = synonym if synonym in names else _closest(text, names)
    problem = f"unknown {kind} {shown(value)}" + (f" - did you mean {closest!r}?" if closest else ";")
    choices = ", ".join(names) if len(names) <= MANY else listed(_by_closeness(text, names))
    return f"{problem} choose from: {choices}"


def shown(value: object) -> str:
    """Return the repr of a value of any size in one line of about a hundred characters."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"about {'-' * (value < 0)}10**{math.floor(value.bit_length() * math.log10(2))}"
    try:
        return " ".join(_BRIEF.repr(value).split())
    except Exception:  # a repr of somebody else's class may fail in any way
        return f"of type {type(value).__name__}"


def listed(names: Iterable[object]) -> str:
    """Return names separated by commas, of which the sixth and later ones are only counted."""
    texts = [
        name if isinstance(name, str) and len(name) <= 100 and name.isprintable() else shown(name) for name in names
    ]
    more = len(texts) - LISTED
    return ", ".join(texts[:LISTED]) + (f" and {more} more" if more > 0 else "")


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
        raise ValueError(f"{name} is {shown(value)}; it must be a finite number greater than 0")


def require_integer(name: str, value: object, least: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or operator.index(value) < least:
        raise ValueError(f"{name} is {shown(value)}; it must be an integer of at least {least}")


def _closest(value: str, names: list[str]) -> str | None:
    """Return the name closest to ``value``, as a whole or by its start; None for a number or if no name is close."""
    best = next(iter(_by_closeness(value, names)), None)
    return None if best is None or value.isdigit() or _similarity(value, best) < 0.5 else best


def _by_closeness(value: str, names: list[str]) -> list[str]:
    """Return the names, those closest to ``value`` first.

    Capital letters count as small ones, and "+" as the letter p of the solvers' names.
    """
    if value not in names:
        value = value.casefold().replace("+", "p")

    def shared_letters(name: str) -> int:
        return (Counter(value) & Counter(name)).total()  # transposed letters count as shared

    return sorted(names, key=lambda name: (_similarity(value, name), shared_letters(name)), reverse=True)


def _similarity(value: str, name: str) -> float:
    return max(
        SequenceMatcher(None, value.casefold(), part.casefold()).ratio() for part in (name, name[: len(value) + 1])
    )
