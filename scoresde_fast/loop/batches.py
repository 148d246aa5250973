# SPDX-License-Identifier: Apache-2.0
"""Batches on a device: padded to a prepared size, split over CPU workers, or divided into strict chunks.

With ``strict`` all network evaluations have the same batch size, and each seed has a fixed slot in its chunk.
Libraries choose algorithms and the order of addition by the batch shape, and possibly by the position of an image, so
both are kept constant.  An image never depends on the other images of its chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

import torch
from torch import Tensor

from scoresde_fast.loop.batch_size import SPARE, BatchTooLargeError, largest_batch
from scoresde_fast.loop.fallback import out_of_memory
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.runner import Runner
from scoresde_fast.loop.workers import Item, in_worker, run_parts, split, worker_count

CHUNK_PIXELS = {"cpu": 2**13, "cuda": 2**17}
"""Pixels in a strict chunk: enough to keep a GPU or one CPU core busy; a quarter of it takes 1.5 times as long."""
MAX_CHUNK = 128
"""Maximum number of images in a strict chunk."""


@dataclass(frozen=True)
class Batches(Generic[Item]):
    """Runs batches of items with one seed each.

    Attributes:
        runner: the runner that ``work`` uses.
        work: ``work(items, on_step)`` runs n items as one batch and returns their results (n, ...).
        image_shape: (C, H, W).
        strict: whether to use one batch size for all evaluations and a fixed slot for each seed.
    """

    runner: Runner
    work: Callable[[Sequence[Item], OnStep | None], Tensor]
    image_shape: tuple[int, ...]
    strict: bool

    def run(self, items: Sequence[Item], seeds: Sequence[int], full: int, on_step: OnStep | None) -> Tensor:
        """Return the results (len(items), ...) of one batch; ``full`` is the size of a full batch.

        Raises:
            BatchTooLargeError: the batch does not fit in memory; the message gives a size that does.
        """
        runner, device = self.runner, self.runner.device
        runner.refresh()  # here, so that workers do not do it concurrently
        workers: int | None
        if self.strict:
            size = chunk_size(self.image_shape, device)
            slots = chunks(seeds, size)
            workers = min(len(slots), torch.get_num_threads())
        else:
            # Samples that depend on each other stay in one unpadded batch.
            workers = 1 if runner.batch_dependent else worker_count(len(items), device)
            size = 0 if runner.batch_dependent else runner.size_for(-(-len(items) // workers), -(-full // workers))
            slots = [[*part, *[0] * (size - len(part))] for part in split(range(len(items)), workers)]
        if device.type != "cpu" or not (self.strict or workers > 1):
            workers = None
        parts = [[items[position] for position in part] for part in slots]
        try:
            if workers is not None and size:
                in_worker(partial(runner.prepare, size))
            results = torch.cat(run_parts(self.work, parts, workers, on_step))
        except Exception as error:
            if not out_of_memory(error):
                raise
        else:
            return results[self._order(slots, seeds)] if self.strict or len(results) > len(items) else results
        # Outside the handler the error no longer keeps the memory of the failed run, which the trials need.
        raise BatchTooLargeError(self._too_large_message(len(items)))

    def _order(self, slots: list[list[int]], seeds: Sequence[int]) -> list[int]:
        """Return the index of each item's result in the joined results; in strict chunks equal seeds share a result."""
        keys: Sequence[int] = seeds if self.strict else range(len(seeds))
        result_of: dict[int, int] = {}
        for number, part in enumerate(slots):
            for slot, position in enumerate(part):
                # In a strict chunk, a seed outside its own slot only fills an empty one.
                if not self.strict or seeds[position] % len(part) == slot:
                    result_of.setdefault(keys[position], number * len(part) + slot)
        return [result_of[key] for key in keys]

    def _too_large_message(self, size: int) -> str:
        if self.strict:
            size = chunk_size(self.image_shape, self.runner.device)
        largest = largest_batch(self.runner.fits, size - 1)
        sentence = f"a batch of {size} does not fit in the memory of {self.runner.device}"
        if largest == 0:
            return f"{sentence}, nor does a single image"
        if self.strict:
            return f"{sentence}; strict=True always uses this size, but without it about {largest} images fit"
        return f"{sentence}; about {largest} images do: choose batch_size={max(1, largest - largest // SPARE)} or less"


def chunk_size(image_shape: Sequence[int], device: torch.device) -> int:
    """Return the number of images in a strict chunk; it depends only on the image size and the device type."""
    pixels = math.prod(image_shape[1:])
    return min(MAX_CHUNK, max(1, CHUNK_PIXELS.get(device.type, CHUNK_PIXELS["cuda"]) // pixels))


def chunks(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Return chunks of ``size`` positions in ``seeds``, with each seed once: seed s in slot s mod ``size``.

    Empty slots repeat position 0; those results are discarded.
    """
    first: dict[int, int] = {}
    for position, seed in enumerate(seeds):
        first.setdefault(seed, position)
    by_slot: list[list[int]] = [[] for _ in range(size)]
    for seed, position in first.items():
        by_slot[seed % size].append(position)
    count = max(map(len, by_slot))
    return [[column[index] if index < len(column) else 0 for column in by_slot] for index in range(count)]
