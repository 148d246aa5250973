# SPDX-License-Identifier: Apache-2.0
"""Messages for unknown names and for optional packages that are not installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher
from importlib.util import find_spec

MODULES = {"scikit-learn": "sklearn", "torch-fidelity": "torch_fidelity"}
"""The import names of packages whose two names differ."""


RENAMED = {"flow": "probability_flow", "parity": "original"}
"""Options by their former names, which are refused with a message that gives the new name."""


class MissingPackageError(ModuleNotFoundError, ValueError):
    """An optional package is not installed."""


def unknown(kind: str, value: object, allowed: Iterable[str]) -> str:
    """Return the message for a name not among ``allowed``: the value, a similar name if there is one, and all names."""
    names = sorted(allowed)
    near = _nearest(str(value), names)
    hint = f" - did you mean {near!r}?" if near else ";"
    return f"unknown {kind} {value!r}{hint} choose from: {', '.join(names)}"


def require_packages(purpose: str, *packages: str) -> None:
    """Check that optional packages are installed.

    Raises:
        MissingPackageError: a package is missing; the message says how to install it.
    """
    missing = [package for package in packages if find_spec(MODULES.get(package, package)) is None]
    if missing:
        raise MissingPackageError(
            f"{purpose} needs {' and '.join(missing)}, which is not installed: pip install {' '.join(missing)}"
        )


def _nearest(value: str, names: list[str]) -> str | None:
    """Return the name that ``value`` resembles most, whole or by its beginning; None for numbers and unlike names."""

    def likeness(name: str) -> float:
        return max(SequenceMatcher(None, value, part).ratio() for part in (name, name[: len(value) + 1]))

    def shared_letters(name: str) -> int:
        return (Counter(value) & Counter(name)).total()  # transposed letters count as shared

    best = max(names, key=lambda name: (likeness(name), shared_letters(name)), default=None)
    return None if best is None or value.isdigit() or likeness(best) < 0.5 else best
