# SPDX-License-Identifier: Apache-2.0
"""EDM's ``dataset.json``: the labels of the images of a folder or .zip, by their names."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Iterable
from typing import Any

LABELS = "dataset.json"


def find_labels(names: Iterable[str], source: str, read: Callable[[str], bytes]) -> dict[str, int] | None:
    """Return name -> label by the ``dataset.json`` of a set; {} if it is without labels.

    Return None if there is no such file, or if it is of another program and does not mention labels.

    Args:
        names: all files of the set. Of several ``dataset.json``, the one with the shortest path counts, and the names
            in it are relative to its folder.
        source: name of the set for messages.
        read: returns the content of a file whose size is limited.

    Raises:
        ValueError: the labels are no list of names and integers.
    """
    files = [name for name in names if posixpath.basename(name) == LABELS]
    if not files:
        return None
    file = min(files, key=len)
    fault = f'{file} of {source} has no valid labels; it needs {{"labels": [[NAME, INTEGER], ...]}}, or remove it'
    try:
        content = json.loads(read(file))
        if not isinstance(content, dict) or "labels" not in content:
            return None
        pairs = [(name, label) for name, label in content["labels"] or ()]
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(fault) from error
    folder = posixpath.dirname(file)
    if not all(isinstance(name, str) and _is_class(label) for name, label in pairs):
        raise ValueError(fault)
    return {posixpath.join(folder, name.replace("\\", "/")): label for name, label in pairs}


def _is_class(label: Any) -> bool:
    return isinstance(label, int) and not isinstance(label, bool) and 0 <= label < 1 << 31
