# SPDX-License-Identifier: Apache-2.0
"""Sets that ``scoresde-fast sample`` wrote, as data: they must be complete, and only their own images count."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

MANIFEST = "samples.json"
SET_FILES = (MANIFEST, "samples.sha256")
"""Files of a folder of samples beside its images."""
MAX_MANIFEST_BYTES = 64 * 2**20
"""Limit of the size of a manifest; that of a set of any size in few ranges of seeds has a few thousand bytes."""
_NAME = re.compile(r"(\d{3,})/(\d{6,})\.png", re.ASCII)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)


def set_seeds(manifest: Path) -> list[range] | None:
    """Return the seeds of the set with a manifest, or None if there is no such file, or it is of something else."""
    try:
        if manifest.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        content = json.loads(manifest.read_bytes())
        texts = ",".join(content["seeds"]).split(",")
        if "configuration" not in content:
            return None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None
    matches = [_RANGE.fullmatch(text) for text in texts]
    return [range(int(match[1]), int(match[2] or match[1]) + 1) for match in matches if match]


def require_complete(source: str, count: int, seeds: list[range]) -> None:
    """Raise ValueError unless ``count`` is the number of ``seeds``."""
    if count != (total := sum(last.stop - last.start for last in seeds)):
        raise ValueError(
            f"{source} has {count} of the {total} images that its manifest lists; finish the set, or copy the images "
            "to another place to use them as they are"
        )


def require_own(source: str, names: Sequence[str], seeds: list[range]) -> None:
    """Raise ValueError if one of the image files ``names`` in a set's folder is not that of one of the ``seeds``."""
    for name in names:
        match = _NAME.fullmatch(name)
        if not match or int(match[1]) != int(match[2]) // 1000 or not any(int(match[2]) in each for each in seeds):
            raise ValueError(
                f"{name} is not an image of the set {source}, so it must not count; move it (scoresde-fast verify "
                f"{source} lists all such files)"
            )
