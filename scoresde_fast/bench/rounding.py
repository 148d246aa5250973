# SPDX-License-Identifier: Apache-2.0
"""How results are rounded before they are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scoresde_fast.files import make_folder, replacing


def rounded(value: Any, digits: int = 5) -> Any:
    """Round floats, also inside dictionaries and lists, to ``digits`` significant digits."""
    if isinstance(value, dict):
        return {key: rounded(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item, digits) for item in value]
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write the result, figures rounded to five digits."""
    make_folder(path.parent)
    with replacing(path) as file:
        file.write((json.dumps(rounded(result), indent=1) + "\n").encode())
