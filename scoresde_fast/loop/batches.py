# SPDX-License-Identifier: Apache-2.0
"""Batches on a device: their sizes, padding, distribution over CPU workers, and division into strict chunks.

With ``strict`` all network evaluations have the same batch size, and each seed has a fixed slot in its chunk.
Libraries choose algorithms and the order of addition by the batch shape, and possibly by the position of an image, so
both are kept constant.  An image never depends on the other images of its chunk.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, Generic, Protocol

import torch
from torch import Tensor, nn

from scoresde_fast import __version__
from scoresde_fast.devices import Precision, out_of_memory
from scoresde_fast.files import cache_folder, replacing
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.workers import MIN_IMAGES, Item, in_worker, run_parts, split
from scoresde_fast.model import ScoreFunction, evaluation_mode

CHUNK_PIXELS = {"cpu": 2**13, "cuda": 2**17}
"""Pixels in a strict chunk: enough to keep a GPU or one CPU core busy; with a quarter, runs take 1.5 times as long."""
MAX_CHUNK = 128
"""Maximum number of images in a strict chunk."""
CPU_BATCH = 64
"""Batch size on a CPU, which gains nothing from larger batches."""
MAX_BATCH = 4096
"""Largest batch size tried; no device is faster with more."""
SPARE = 8
"""1/8 of the largest batch is kept in reserve, because a compiled network may need a little more memory."""


class BatchTooLargeError(ValueError):
    """A batch does not fit in the device's memory; the message gives a size that does."""


class Runner(Protocol):
    """Runs batches of a model on a device.

    Attributes:
        model: the model, on ``device``.
        strict: whether results are bit-identical in every batch.
        chunk_share: the number by which the pixels of a strict chunk, `CHUNK_PIXELS`, are divided.
        precision: precision of the network.
        batch_dependent: whether a result depends on the other results of its batch.
        evaluation: what a step evaluates, such as "output" or "gradient", which determines memory use.
    """

    model: ScoreFunction
    strict: bool
    chunk_share: int
    device: torch.device
    precision: Precision
    batch_dependent: bool
    evaluation: str

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The networks that a run evaluates."""

    def refresh(self) -> None:
        """Rebuild everything that depends on the network if the network has changed; called before a run."""

    def size_for(self, batch: int, full: int) -> int:
        """Return the size to which to pad ``batch`` samples, given the size of a full batch; 0 for no padding."""

    def prepare(self, batch: int) -> object:
        """Prepare batches of this size."""

    def evaluate_once(self, batch: int) -> None:
        """Evaluate as an uncompiled step of this many samples does."""

    def release(self) -> None:
        """Free the memory of everything prepared."""


@dataclass(frozen=True)
class Batches(Generic[Item]):
    """Runs batches of items with one seed each.

    Attributes:
        runner: the runner that ``work`` uses.
        work: ``work(items, on_step)`` runs n items as one batch and returns their results (n, ...).
        sequential: whether to run a batch undivided and unpadded; with ``strict``, its chunks one after another.
    """

    runner: Runner
    work: Callable[[Sequence[Item], OnStep | None], Tensor]
    sequential: bool = False

    def run(self, items: Sequence[Item], seeds: Sequence[int], full: int, on_step: OnStep | None) -> Tensor:
        """Return the results (len(items), ...) of one batch; ``full`` is the size of a full batch.

        Raises:
            BatchTooLargeError: the batch does not fit in memory; the message gives a size that does.
        """
        with evaluation_mode(*self.runner.networks):
            return self._run(items, seeds, full, on_step)

    def _run(self, items: Sequence[Item], seeds: Sequence[int], full: int, on_step: OnStep | None) -> Tensor:
        runner, strict = self.runner, self.runner.strict
        runner.refresh()  # once, before the workers start
        on_cpu = runner.device.type == "cpu"
        threads = torch.get_num_threads() if on_cpu else 1
        if strict:
            size = chunk_size(runner.model.image_shape, runner.device, runner.chunk_share)
            slots = chunks(seeds, size)
            count = 1 if self.sequential else min(len(slots), threads)
        elif runner.batch_dependent or self.sequential:
            size, slots, count = 0, [list(range(len(items)))], 1
        else:
            count = max(1, min(threads, len(items) // MIN_IMAGES))
            size = runner.size_for(-(-len(items) // count), -(-full // count))
            slots = [list(part) for part in split(range(len(items)), count)]
        workers = count if on_cpu and (strict or count > 1) else None
        parts = [[items[position] for position in part + [0] * (size - len(part))] for part in slots]
        try:
            if workers is not None and size:
                in_worker(partial(runner.prepare, size))
            results = run_parts(self.work, parts, workers, on_step)
        except Exception as error:
            if not out_of_memory(error):
                raise
        else:
            if strict:
                return torch.cat(results)[_strict_order(slots, seeds)]
            return torch.cat([result[: len(part)] for result, part in zip(results, slots, strict=True)])
        # The trials need the memory of the failed run, which is freed only after the error has been handled.
        raise BatchTooLargeError(_too_large_message(runner, size if strict else len(items)))


def chunk_size(image_shape: Sequence[int], device: torch.device, share: int = 1) -> int:
    """Return the number of images in a strict chunk, which depends on the image size, the device type and ``share``."""
    pixels = math.prod(image_shape[1:])
    return min(MAX_CHUNK // share, max(1, CHUNK_PIXELS.get(device.type, CHUNK_PIXELS["cuda"]) // (share * pixels)))


def chunks(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Return chunks of ``size`` positions in ``seeds``: that of seed s in slot s mod ``size``.

    Empty slots repeat position 0; those results are discarded.
    """
    by_slot: list[list[int]] = [[] for _ in range(size)]
    for position, seed in enumerate(seeds):
        by_slot[seed % size].append(position)
    return [list(chunk) for chunk in zip_longest(*by_slot, fillvalue=0)]


def _strict_order(slots: list[list[int]], seeds: Sequence[int]) -> list[int]:
    """Return the index of each position's result in the joined results of strict chunks."""
    size = len(slots[0])
    result_of: dict[int, int] = {}
    for index, position in enumerate(chain(*slots)):
        if seeds[position] % size == index % size:  # in other slots the position only fills a gap
            result_of.setdefault(position, index)
    return [result_of[position] for position in range(len(seeds))]


def _too_large_message(runner: Runner, size: int) -> str:
    largest = largest_batch(partial(_fits, runner), size - 1)
    sentence = f"a batch of {size} does not fit in the memory of {runner.device}"
    if largest == 0:
        return f"{sentence}, nor does a single image"
    if runner.strict:
        return f"{sentence}, and strict runs always use this size: with strict=False about {largest} images fit"
    return f"{sentence}; about {largest} images do: choose batch_size={max(1, largest - largest // SPARE)} or less"


def fitting_batch(runner: Runner) -> int:
    """Return the size for "auto": `CPU_BATCH`, or on a GPU the largest that fits (cached on disk) minus a reserve.

    Raises:
        BatchTooLargeError: not even one image fits.
    """
    if runner.device.type != "cuda":
        return CPU_BATCH
    gpu = torch.cuda.get_device_properties(runner.device)
    key = {
        "device": gpu.name,
        "memory": gpu.total_memory,
        "network": _shape_sha256(runner.model),
        "image_shape": runner.model.image_shape,
        "precision": runner.precision,
        "evaluation": runner.evaluation,
        "versions": [__version__, torch.__version__],
    }
    largest = cached_batch(key, lambda: largest_batch(partial(_fits, runner)))
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


def _fits(runner: Runner, batch: int) -> bool:
    """Return whether one evaluation of ``batch`` samples fits in memory; releases what the runner has prepared."""
    runner.release()
    try:
        with evaluation_mode(*runner.networks):
            runner.evaluate_once(batch)
        if runner.device.type == "cuda":
            torch.cuda.synchronize(runner.device)
    except Exception as error:
        if not out_of_memory(error):
            raise
        return False
    finally:
        runner.release()
    return True


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
