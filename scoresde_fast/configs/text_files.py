# SPDX-License-Identifier: Apache-2.0
"""Reading of small text files that anybody may have written: limits on their size and on the nesting of JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
        raise FileNotFoundError(f"the configuration file {str(path)!r} does not exist")
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES / 1e6:g} MB, so it is no configuration; check the path")
    return content.decode("utf-8")


def parse_json(text: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, or nests more than `MAX_DEPTH` levels.
    """
    too_deep = f"it nests lists and objects more than {MAX_DEPTH} deep, so it is no configuration"
    try:
        value = json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= MAX_DIGITS else float(digits))
    except RecursionError:
        raise ValueError(too_deep) from None
    except ValueError as error:
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
