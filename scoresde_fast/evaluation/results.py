# SPDX-License-Identifier: Apache-2.0
"""An evaluation's numbers as text and as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from scoresde_fast.files import make_folder, replacing

NAMES = {
    "fid": "FID",
    "kid": "KID",
    "inception_score": "Inception score",
    "precision": "precision",
    "recall": "recall",
}


def as_text(result: dict[str, Any]) -> str:
    """One line for what was compared, one for each metric with its spread."""
    images, reference = result["images"], result["reference"]
    against = "" if reference is None else f" against {reference['source']}"
    lines = [f"{images['count']} images of {result['title']}{against}, by {result['extractor']['extractor']}"]
    for name, metric in result["metrics"].items():
        spread = "" if metric["spread"] is None else f" ± {metric['spread']:.2g}"
        lines.append(f"{NAMES[name]:<16} {metric['value']:.6g}{spread}")
    return "\n".join(lines)


def write_json(result: dict[str, Any], path: Path) -> None:
    """Write an evaluation's result."""
    make_folder(path.parent)
    with replacing(path) as file:
        file.write((json.dumps(result, indent=1) + "\n").encode())
