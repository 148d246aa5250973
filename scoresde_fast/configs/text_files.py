# SPDX-License-Identifier: Apache-2.0
"""Reading of small text files that anybody may have written: limits on their size and on the nesting of JSON."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from scoresde_fast.errors import shown

MAX_BYTES = 1_000_000
"""Largest configuration file; the official ones have 5 kB."""
MAX_DEPTH = 20
"""Deepest nesting of JSON; configurations have four levels."""
MAX_DIGITS = 400
"""Longest integer; longer ones are read as floating-point numbers, which are infinite."""


def read_text(path: Path) -> str:
    """Return the text of a configuration file.

    Raises:
        ValueError: the file is larger than `MAX_BYTES` or is not UTF-8.
        FileNotFoundError: the file does not exist.
    """
    if not path.is_file():
        fault = "is not a file" if path.exists() else "does not exist"
        raise FileNotFoundError(f"the configuration file {str(path)!r} {fault}")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES / 1e6:g} MB, so it is no configuration; check the path")
    try:
        return content.decode("utf-8-sig")  # some editors of Windows begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"it is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; raise ValueError if it has a key twice, of which JSON would take the last value."""
    value = dict(pairs)
    if len(value) < len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"it has the key {shown(twice)} twice; keep one of them")
    return value


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, nests more than `MAX_DEPTH` levels, or has an object with a key twice.
    """
    too_deep = f"it nests lists and objects more than {MAX_DEPTH} deep, so it is no configuration"
    try:
        value = json.loads(
            text,
            parse_int=lambda digits: int(digits) if len(digits) <= MAX_DIGITS else float(digits),
            object_pairs_hook=_once,
        )
    except RecursionError:
        raise ValueError(too_deep) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not a JSON file: {error}") from error
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for each in level
            if isinstance(each, dict | list)
            for item in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        raise ValueError(too_deep)
    return value
