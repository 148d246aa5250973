# SPDX-License-Identifier: Apache-2.0
"""A batch on a device: padded to a size that is ready, split over the cores of a CPU, or in strict chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic

import torch
from torch import Tensor

from scoresde_fast.loop.batch_fit import SPARE, BatchTooLargeError, largest_batch
from scoresde_fast.loop.fallback import out_of_memory
from scoresde_fast.loop.lanes import Item, in_lane, lane_count, run_parts, split
from scoresde_fast.loop.runner import Runner
from scoresde_fast.loop.strict import chunk_size, chunks
from scoresde_fast.loop.watch import OnStep


@dataclass(frozen=True)
class Batches(Generic[Item]):
    """Runs batches of items that each have a seed, as samples are their own seeds, or codes belong to one.

    Attributes:
        runner: says what sizes are ready, and what fits.
        work: the results (n, ...) of n items, run as one batch.
        image_shape: (C, H, W).
        strict: every evaluation has one size, and each seed its place in it.
    """

    runner: Runner
    work: Callable[[Sequence[Item], OnStep | None], Tensor]
    image_shape: tuple[int, ...]
    strict: bool

    def run(self, items: Sequence[Item], seeds: Sequence[int], full: int, on_step: OnStep | None) -> Tensor:
        """Results (len(items), ...) of one batch, where batches of ``full`` are usual.

        Raises:
            BatchTooLargeError: it does not fit in memory; says what does.
        """
        runner, device = self.runner, self.runner.device
        runner.refresh()  # here, and not in several lanes at once
        lanes: int | None
        if self.strict:
            size = chunk_size(self.image_shape, device)
            places = chunks(seeds, size)
            lanes = min(len(places), torch.get_num_threads())
        else:
            # A batch whose samples depend on each other stays together, as it is.
            lanes = 1 if runner.batch_dependent else lane_count(len(items), device)
            size = 0 if runner.batch_dependent else runner.size_for(-(-len(items) // lanes), -(-full // lanes))
            places = [[*part, *[0] * (size - len(part))] for part in split(range(len(items)), lanes)]
        if device.type != "cpu" or not (self.strict or lanes > 1):
            lanes = None
        parts = [[items[place] for place in part] for part in places]
        try:
            if lanes is not None and size:
                in_lane(partial(runner.prepare, size))
            results = torch.cat(run_parts(self.work, parts, lanes, on_step))
        except Exception as error:
            if not out_of_memory(error):
                raise
        else:
            return results[self._order(places, seeds)] if self.strict or len(results) > len(items) else results
        # Here, where the error and with it the memory of the failed run are gone, there is room to try what fits.
        raise BatchTooLargeError(self._what_fits(len(items)))

    def _order(self, places: list[list[int]], seeds: Sequence[int]) -> list[int]:
        """Where in the results of all parts each item's is; where ``strict``, equal seeds have one result."""
        keys: Sequence[int] = seeds if self.strict else range(len(seeds))
        found: dict[int, int] = {}
        for number, part in enumerate(places):
            for slot, place in enumerate(part):
                # What fills an empty slot of a strict chunk is in no place of its own.
                if not self.strict or seeds[place] % len(part) == slot:
                    found.setdefault(keys[place], number * len(part) + slot)
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
