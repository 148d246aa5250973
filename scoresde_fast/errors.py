# SPDX-License-Identifier: Apache-2.0
"""Sentences that many places need: a name that is unknown, and a package that is not installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from difflib import SequenceMatcher
from importlib.util import find_spec

MODULES = {"scikit-learn": "sklearn", "torch-fidelity": "torch_fidelity"}
"""Packages that are imported by another name."""
RENAMED = {"flow": "probability_flow", "parity": "original"}
"""New names of options; their former names are refused with a sentence that says the new one."""


class MissingPackageError(ModuleNotFoundError, ValueError):
    """An optional package is not installed."""


def unknown(kind: str, value: object, allowed: Iterable[str]) -> str:
    """The sentence for a name not among ``allowed``: the value, the nearest name if one is near, and the choice."""
    names = sorted(allowed)
    near = _nearest(str(value), names)
    hint = f" - did you mean {near!r}?" if near else ";"
    return f"unknown {kind} {value!r}{hint} choose from: {', '.join(names)}"


def require_packages(purpose: str, *packages: str) -> None:
    """Check that optional packages are installed.

    Raises:
        MissingPackageError: names what is missing, and the command that installs it.
    """
    missing = [package for package in packages if find_spec(MODULES.get(package, package)) is None]
    if missing:
        raise MissingPackageError(
            f"{purpose} needs {' and '.join(missing)}, and that is not installed: pip install {' '.join(missing)}"
        )


def _nearest(value: str, names: list[str]) -> str | None:
    """The name that ``value`` resembles most, whole or by its beginning; of a number, which resembles none, None."""

    def likeness(name: str) -> float:
        return max(SequenceMatcher(None, value, part).ratio() for part in (name, name[: len(value) + 1]))

    def shared_letters(name: str) -> int:
        return (Counter(value) & Counter(name)).total()  # of letters that have changed places, all

    best = max(names, key=lambda name: (likeness(name), shared_letters(name)), default=None)
    return None if best is None or value.isdigit() or likeness(best) < 0.5 else best
