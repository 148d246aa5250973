# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits on a device, found by trial and cached."""

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
from scoresde_fast.loop.runner import Runner
from scoresde_fast.model import ScoreFunction

CPU_BATCH = 64
"""Batch size on a CPU, which gains nothing from larger batches."""
MAX_BATCH = 4096
"""Largest batch size tried; no device is faster with more."""
SPARE = 8
"""1/8 of the largest batch is left as reserve, because a compiled network may need a little more memory."""


class BatchTooLargeError(ValueError):
    """A batch does not fit in the device's memory; the message gives a size that does."""


def fitting_batch(model: ScoreFunction, runner: Runner) -> int:
    """Return the batch size for "auto": on a GPU the largest that fits, minus a reserve.

    Raises:
        BatchTooLargeError: not even one image fits.
    """
    if runner.device.type != "cuda":
        return CPU_BATCH
    gpu = torch.cuda.get_device_properties(runner.device)
    key = {
        "device": gpu.name,
        "memory": gpu.total_memory,
        "network": _shape_sha256(model),
        "image_shape": model.image_shape,
        "precision": runner.precision,
        "evaluation": runner.evaluation,
        "versions": [__version__, torch.__version__],
    }
    largest = cached_batch(key, lambda: largest_batch(runner.fits))
    if largest == 0:
        raise BatchTooLargeError(f"not even one image of this model fits in the memory of {runner.device}")
    return max(1, largest - largest // SPARE)


def largest_batch(fits: Callable[[int], bool], limit: int = MAX_BATCH) -> int:
    """Return the largest batch size up to ``limit`` that ``fits``, to within 1/8; 0 if not even one image fits."""
    good, bad = 0, limit + 1
    while good < limit and (trial := min(limit, max(1, 2 * good))) < bad:
        if fits(trial):
            good = trial
        else:
            bad = trial
    while bad - good > max(1, good // 8):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def cached_batch(key: Mapping[str, Any], find: Callable[[], int]) -> int:
    """Return the batch size cached on disk for the key; without one, call ``find`` and cache its result."""
    path = cache_folder() / "batch_sizes.json"
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    entries = _read(path)
    if digest in entries:
        return int(entries[digest]["batch_size"])
    batch_size = find()
    with suppress(OSError):  # if the home folder is read-only, the next process searches again
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps({**_read(path), digest: {**key, "batch_size": batch_size}}, indent=1).encode())
    return batch_size


def _shape_sha256(model: ScoreFunction) -> str:
    """Return the SHA-256 of a model's class and of its weights' and buffers' names, dtypes and shapes."""
    weights = [(name, str(weight.dtype), list(weight.shape)) for name, weight in model.state_dict().items()]
    return hashlib.sha256(json.dumps([type(model).__name__, weights]).encode()).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}
