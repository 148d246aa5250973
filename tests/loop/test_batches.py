# SPDX-License-Identifier: Apache-2.0
"""Batches that are padded, split over workers, or strict; each result belongs to its seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.loop.batches import CHUNK_PIXELS, Batches, BatchTooLargeError, chunk_size, chunks
from scoresde_fast.mixture import ExactScore
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import VPSDE


@pytest.mark.parametrize("seeds", [range(1), range(3), range(8), [11, 4, 300, 4, 19]], ids=["1", "3", "8", "mixed"])
def test_strict_images_are_bit_identical(
    tiny: sf.ScoreModel, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, seeds: list[int]
) -> None:
    """Strict images do not depend on the batch size, the other seeds, their order or the number of workers."""
    monkeypatch.setitem(CHUNK_PIXELS, "cpu", 6 * 64)
    sampler = sf.Sampler(tiny, "pc", 4, strict=True)
    alone = {seed: sampler.sample([seed]) for seed in seeds}
    for workers in (1, 2):
        threads(workers)
        for batch_size in (1, 3, 8):
            images = torch.cat([images for _, images in sampler.stream(seeds, batch_size=batch_size)])
            assert torch.equal(images, torch.cat([alone[seed] for seed in seeds]))
    # Without strict the last bits of eight evaluations differ; images of two seeds differ by more than 0.1.
    torch.testing.assert_close(images, sf.sample(tiny, seeds, solver="pc", steps=4), rtol=0, atol=1e-4)


def test_chunks() -> None:
    """Each seed has a fixed slot, consecutive seeds fill chunks, and no seed is lost."""
    assert chunks(range(6, 14), 8) == [[2, 3, 4, 5, 6, 7, 0, 1]]
    assert chunks([5, 13, 13, 0], 4) == [[3, 0, 0, 0], [0, 1, 0, 0], [0, 2, 0, 0]]
    assert [chunk_size((3, n, n), torch.device(d)) for d in ("cpu", "cuda") for n in (8, 32, 1024)] == [
        128, 8, 1, 128, 128, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seeds", [[5], [37, 5, 1], [0, 5], [4, 4, 68], list(range(70))], ids=str)
def test_results_come_from_the_slots_of_their_seeds(
    monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None], seeds: list[int], strict: bool
) -> None:
    """In strict chunks seed s is in slot s mod the chunk size; results are in the order of the seeds."""
    monkeypatch.setitem(CHUNK_PIXELS, "cpu", 32 * 4)
    runner = SimpleNamespace(
        device=torch.device("cpu"), refresh=lambda: None, prepare=lambda size: None, size_for=lambda batch, full: 48,
        batch_dependent=False, strict=strict, chunk_share=1, model=SimpleNamespace(image_shape=(1, 2, 2)),
        networks=(),
    )  # fmt: skip

    def work(items: Sequence[int], on_step: object) -> Tensor:
        return torch.stack([torch.tensor(items), torch.arange(len(items))], dim=1)

    for workers in (1, 2):
        threads(workers)
        results = Batches(runner, work).run(seeds, seeds, len(seeds), None)
        assert results[:, 0].tolist() == seeds
        if strict:
            assert results[:, 1].tolist() == [seed % 32 for seed in seeds]


@pytest.mark.parametrize("options", [{"solver": "dpmpp_2m", "steps": 5}, {"solver": "rk45", "rtol": 0.3, "atol": 0.3}])
def test_strict_samplers_are_bit_identical(threads: Callable[[int], None], options: dict[str, Any]) -> None:
    """Samplers made with one and two threads give the same bits, because folding always uses one thread."""
    model, images = sf.load("digits-vp"), []
    for count in (1, 2):
        threads(count)
        images.append(sf.Sampler(model, **options, strict=True).sample([0, 1, 130]))
    assert torch.equal(*images)


def test_strict_progress(tiny: sf.ScoreModel) -> None:
    """Progress over the chunks of a batch runs once from 0 to the total."""
    calls: list[tuple[int, int]] = []
    sf.Sampler(tiny, "em", 3, strict=True).sample([0, 128], on_step=lambda *call: calls.append(call))
    assert calls == [(n, 6) for n in range(1, 7)]


class MemoryLimited(nn.Module):
    """A network that runs out of memory above a number of images."""

    limit = 21

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return -x


def test_error_of_a_too_large_batch() -> None:
    """The message recommends a batch size, and that size works."""
    network = MemoryLimited()
    model = ScoreFunction(network, ExactScore(VPSDE()), (1, 2, 2))
    sampler = sf.Sampler(model, "em", 2)
    with pytest.raises(BatchTooLargeError, match=r"a batch of 60 does not fit.*about 2[01] images do.*batch_size=18"):
        next(iter(sampler.stream(range(60), batch_size=60)))
    assert [len(images) for _, images in sampler.stream(range(30), batch_size=18)] == [18, 12]
    network.limit = 0
    with pytest.raises(BatchTooLargeError, match="nor does a single image"):
        sampler.sample([1])
