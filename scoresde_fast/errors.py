# SPDX-License-Identifier: Apache-2.0
"""One way to say that a name is unknown, used wherever a user may misspell one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def unknown(kind: str, value: object, allowed: Iterable[str]) -> str:
    """The sentence for a name not among ``allowed``: the value, the nearest name if one is near, and the choice."""
    names = sorted(allowed)
    near = get_close_matches(str(value), names, n=1, cutoff=0.5)
    hint = f" - did you mean {near[0]!r}?" if near else ";"
    return f"unknown {kind} {value!r}{hint} choose from: {', '.join(names)}"
