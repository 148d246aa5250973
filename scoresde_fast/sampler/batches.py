# SPDX-License-Identifier: Apache-2.0
"""A batch of seeds on a device: padded to a size that is ready, split over the cores of a CPU, or in strict chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from scoresde_fast.adaptive.engine import AdaptiveEngine
from scoresde_fast.loop.engine import Engine
from scoresde_fast.loop.fallback import out_of_memory
from scoresde_fast.loop.lanes import in_lane, lane_count, run_in_lanes
from scoresde_fast.loop.watch import OnStep
from scoresde_fast.sampler.batch_fit import SPARE, largest_batch
from scoresde_fast.sampler.strict import chunk_size, chunks


class BatchTooLargeError(ValueError):
    """The device's memory is too small for a batch; says what fits."""


@dataclass(frozen=True)
class Batches:
    """Runs batches of seeds.

    Attributes:
        engine: what ``run`` runs.
        run: states of seeds, run as one batch: (seeds, on_step) -> (len(seeds), ...).
        image_shape: (C, H, W).
        device: where.
        strict: every evaluation has one size, and each seed its place in it.
        whole: a batch must stay together, because an image depends on the others.
    """

    engine: Engine | AdaptiveEngine
    run: Callable[[Sequence[int], OnStep | None], Tensor]
    image_shape: tuple[int, ...]
    device: torch.device
    strict: bool
    whole: bool

    def sample(self, seeds: list[int], full: int, on_step: OnStep | None) -> Tensor:
        """States of one batch, where batches of ``full`` seeds are usual.

        Raises:
            BatchTooLargeError: it does not fit in memory; says what does.
        """
        self.engine.refresh()  # here, and not in several lanes at once
        try:
            return self._chunks(seeds, on_step) if self.strict else self._padded(seeds, full, on_step)
        except Exception as error:
            if not out_of_memory(error):
                raise
        # Here, where the error and with it the memory of the failed run are gone, there is room to try what fits.
        raise BatchTooLargeError(self._what_fits(len(seeds)))

    def _padded(self, seeds: list[int], full: int, on_step: OnStep | None) -> Tensor:
        if self.whole:
            return self.run(seeds, on_step)
        lanes = lane_count(len(seeds), self.device)
        size = self.engine.size_for(-(-len(seeds) // lanes), -(-full // lanes))
        if lanes == 1:
            return self._run_as(size, seeds, on_step)
        if size:
            in_lane(partial(self.engine.prepare, size))
        return run_in_lanes(partial(self._run_as, size), seeds, lanes, on_step)

    def _run_as(self, size: int, seeds: Sequence[int], on_step: OnStep | None) -> Tensor:
        """States of the seeds, run as a batch of at least ``size``: the first seed fills it up."""
        return self.run([*seeds, *[seeds[0]] * (size - len(seeds))], on_step)[: len(seeds)]

    def _chunks(self, seeds: list[int], on_step: OnStep | None) -> Tensor:
        """Every chunk has one size and every seed one place in it; on a CPU each runs on one core."""
        size = chunk_size(self.image_shape, self.device)
        parts = chunks(seeds, size)

        def work(part: Sequence[list[int]], on_step: OnStep | None) -> Tensor:
            def step(done: int, total: int, before: int) -> None:
                if on_step is not None:
                    on_step(before * total + done, total * len(part))

            return torch.cat([self.run(chunk, partial(step, before=index)) for index, chunk in enumerate(part)])

        if self.device.type == "cpu":
            in_lane(partial(self.engine.prepare, size))
            images = run_in_lanes(work, parts, min(len(parts), torch.get_num_threads()), on_step)
        else:
            images = work(parts, on_step)
        place = {seed: index for index, seed in enumerate(seed for chunk in parts for seed in chunk)}
        return images[[place[seed] for seed in seeds]]

    def _what_fits(self, asked: int) -> str:
        if self.strict:
            asked = chunk_size(self.image_shape, self.device)
        most = largest_batch(self.engine.fits, asked - 1)
        sentence = f"a batch of {asked} does not fit in the memory of {self.device}"
        if most == 0:
            return f"{sentence}, nor does a single image"
        if self.strict:
            return f"{sentence}, and strict=True computes so many together; about {most} images fit without it"
        return f"{sentence}; about {most} images do: choose batch_size={max(1, most - most // SPARE)} or less"
