# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits on a device, found by trial once and remembered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from scoresde_fast import __version__
from scoresde_fast.files import cache_folder, replacing
from scoresde_fast.fingerprint import shape_sha256
from scoresde_fast.loop.runner import Runner
from scoresde_fast.model import ScoreFunction

CPU_BATCH = 64
"""A CPU gains nothing from larger batches."""
MAX_BATCH = 4096
"""The largest batch that is tried; no device gets faster beyond it."""
SPARE = 8
"""One part in eight of what fits is left free, because a compiled network may take a little more than a plain one."""


class BatchTooLargeError(ValueError):
    """A batch does not fit in the memory of the device; the message says what does."""


def fitting_batch(model: ScoreFunction, runner: Runner) -> int:
    """Return the batch size that "auto" stands for: on a GPU the largest that fits, less a spare part.

    Raises:
        BatchTooLargeError: not even one image fits.
    """
    if runner.device.type != "cuda":
        return CPU_BATCH
    gpu = torch.cuda.get_device_properties(runner.device)
    key = {
        "device": gpu.name,
        "memory": gpu.total_memory,
        "network": shape_sha256(model),
        "image_shape": model.image_shape,
        "precision": runner.precision,
        "evaluation": runner.evaluation,
        "versions": [__version__, torch.__version__],
    }
    most = remembered_batch(key, lambda: largest_batch(runner.fits))
    if most == 0:
        raise BatchTooLargeError(f"not even one image of this model fits in the memory of {runner.device}")
    return max(1, most - most // SPARE)


def largest_batch(fits: Callable[[int], bool], most: int = MAX_BATCH) -> int:
    """Return the largest batch up to ``most`` that ``fits``, to one part in eight; 0 where not even one image does."""
    good, bad = 0, most + 1
    while good < most and (trial := min(most, max(1, 2 * good))) < bad:
        if fits(trial):
            good = trial
        else:
            bad = trial
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def remembered_batch(key: Mapping[str, Any], find: Callable[[], int]) -> int:
    """Return what ``find`` found for the key, in this process or an earlier one."""
    path = cache_folder() / "batch_sizes.json"
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    known = _read(path)
    if name in known:
        return int(known[name]["batch_size"])
    found = find()
    with suppress(OSError):  # where the home cannot be written to, the next process searches again
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps({**_read(path), name: {**key, "batch_size": found}}, indent=1).encode())
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}
