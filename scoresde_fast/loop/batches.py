# SPDX-License-Identifier: Apache-2.0
"""Batches on a device: padded to a size that is ready, split over CPU workers, or cut into strict chunks.

With ``strict`` every network evaluation has one batch size and every seed a fixed slot in its chunk.  A library chooses
its algorithm and its order of addition by the shape of a batch, and may choose by the position of an image; both are
then constant.  The other images of a chunk never enter an image.
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
"""Pixels of a strict chunk: enough to keep a GPU, or one core of a CPU, busy.  A quarter costs 1.5 times the time."""
MAX_CHUNK = 128
"""Images of a strict chunk, however small they are."""


@dataclass(frozen=True)
class Batches(Generic[Item]):
    """Runs batches of items that each have a seed.

    Attributes:
        runner: the runner behind ``work``.
        work: ``work(items, on_step)`` -> results (n, ...) of n items, run as one batch.
        image_shape: (C, H, W).
        strict: gives every evaluation one batch size, and every seed a fixed slot.
    """

    runner: Runner
    work: Callable[[Sequence[Item], OnStep | None], Tensor]
    image_shape: tuple[int, ...]
    strict: bool

    def run(self, items: Sequence[Item], seeds: Sequence[int], full: int, on_step: OnStep | None) -> Tensor:
        """Return the results (len(items), ...) of one batch, where batches of ``full`` are usual.

        Raises:
            BatchTooLargeError: the batch does not fit in memory; the message says what does.
        """
        runner, device = self.runner, self.runner.device
        runner.refresh()  # once, rather than in several workers at the same time
        workers: int | None
        if self.strict:
            size = chunk_size(self.image_shape, device)
            slots = chunks(seeds, size)
            workers = min(len(slots), torch.get_num_threads())
        else:
            # Samples that depend on each other stay in one batch, of their own size.
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
        # Outside the handler the error is gone, and with it the memory of the failed run: there is room for trials.
        raise BatchTooLargeError(self._what_fits(len(items)))

    def _order(self, slots: list[list[int]], seeds: Sequence[int]) -> list[int]:
        """Return the index of each item's result among the results of all parts; strict: one result for equal seeds."""
        keys: Sequence[int] = seeds if self.strict else range(len(seeds))
        found: dict[int, int] = {}
        for number, part in enumerate(slots):
            for slot, position in enumerate(part):
                # A seed that only fills an empty slot of a strict chunk is not in its own slot.
                if not self.strict or seeds[position] % len(part) == slot:
                    found.setdefault(keys[position], number * len(part) + slot)
        return [found[key] for key in keys]

    def _what_fits(self, asked: int) -> str:
        if self.strict:
            asked = chunk_size(self.image_shape, self.runner.device)
        most = largest_batch(self.runner.fits, asked - 1)
        sentence = f"a batch of {asked} does not fit in the memory of {self.runner.device}"
        if most == 0:
            return f"{sentence}, nor does a single image"
        if self.strict:
            return f"{sentence}, which strict=True always computes together; leave it out, and about {most} images fit"
        return f"{sentence}; about {most} images do: choose batch_size={max(1, most - most // SPARE)} or less"


def chunk_size(image_shape: Sequence[int], device: torch.device) -> int:
    """Return the images of a strict chunk, which depend on the image's size and the device's type alone."""
    pixels = math.prod(image_shape[1:])
    return min(MAX_CHUNK, max(1, CHUNK_PIXELS.get(device.type, CHUNK_PIXELS["cuda"]) // pixels))


def chunks(seeds: Sequence[int], size: int) -> list[list[int]]:
    """Arrange positions in ``seeds`` into chunks of ``size`` that hold every seed once, seed s in slot s mod ``size``.

    Empty slots take the first position again; those results are discarded.
    """
    first: dict[int, int] = {}
    for position, seed in enumerate(seeds):
        first.setdefault(seed, position)
    by_slot: list[list[int]] = [[] for _ in range(size)]
    for seed, position in first.items():
        by_slot[seed % size].append(position)
    count = max(map(len, by_slot))
    return [[column[index] if index < len(column) else 0 for column in by_slot] for index in range(count)]
