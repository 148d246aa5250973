# SPDX-License-Identifier: Apache-2.0
"""A batch of seeds on a device: padded to a size that is ready, split over the cores of a CPU, or in strict chunks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scoresde_fast.loop.batch_fit import SPARE, BatchTooLargeError, largest_batch
from scoresde_fast.loop.fallback import out_of_memory
from scoresde_fast.loop.lanes import in_lane, lane_count, run_parts, split
from scoresde_fast.loop.runner import Runner
from scoresde_fast.loop.strict import chunk_size, chunks
from scoresde_fast.loop.watch import OnStep


@dataclass(frozen=True)
class Batches:
    """Runs batches of seeds.

    Attributes:
        runner: from seeds to states.
        image_shape: (C, H, W).
        strict: every evaluation has one size, and each seed its place in it.
    """

    runner: Runner
    image_shape: tuple[int, ...]
    strict: bool

    def run(self, seeds: list[int], full: int, on_step: OnStep | None) -> Tensor:
        """States of one batch, where batches of ``full`` seeds are usual.

        Raises:
            BatchTooLargeError: it does not fit in memory; says what does.
        """
        runner, device = self.runner, self.runner.device
        runner.refresh()  # here, and not in several lanes at once
        lanes: int | None
        if self.strict:
            size = chunk_size(self.image_shape, device)
            parts = chunks(seeds, size)
            lanes = min(len(parts), torch.get_num_threads())
        else:
            # One whose images depend on each other stays together, as it is.
            lanes = 1 if runner.batch_dependent else lane_count(len(seeds), device)
            size = 0 if runner.batch_dependent else runner.size_for(-(-len(seeds) // lanes), -(-full // lanes))
            parts = [[*part, *[seeds[0]] * (size - len(part))] for part in split(seeds, lanes)]
        if device.type != "cpu" or not (self.strict or lanes > 1):
            lanes = None
        try:
            if lanes is not None and size:
                in_lane(partial(runner.prepare, size))
            states = torch.cat(run_parts(runner.run, parts, lanes, on_step))
        except Exception as error:
            if not out_of_memory(error):
                raise
        else:
            if len(states) == len(seeds) and not self.strict:
                return states
            place: dict[int, int] = {}
            for index, seed in enumerate(seed for part in parts for seed in part):
                place.setdefault(seed, index)
            return states[[place[seed] for seed in seeds]]
        # Here, where the error and with it the memory of the failed run are gone, there is room to try what fits.
        raise BatchTooLargeError(self._what_fits(len(seeds)))

    def _what_fits(self, asked: int) -> str:
        if self.strict:
            asked = chunk_size(self.image_shape, self.runner.device)
        most = largest_batch(self.runner.fits, asked - 1)
        sentence = f"a batch of {asked} does not fit in the memory of {self.runner.device}"
        if most == 0:
            return f"{sentence}, nor does a single image"
        if self.strict:
            return f"{sentence}, and strict=True computes so many together; about {most} images fit without it"
        return f"{sentence}; about {most} images do: choose batch_size={max(1, most - most // SPARE)} or less"
