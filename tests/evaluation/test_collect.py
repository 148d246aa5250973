# SPDX-License-Identifier: Apache-2.0
"""Features in one pass: from files and samplers, by any number of processes."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, ClassVar

import pytest
import torch

pytest.importorskip("sklearn")

import scoresde_fast as sf
from scoresde_fast.data import digits
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import Extractor, SampledImages
from scoresde_fast.evaluation.collect import FeatureSet, Processes, collect
from scoresde_fast.evaluation.frechet import FeatureMoments, gaussian_distance
from tests.support.evaluations import replayed

pytestmark = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")

SHAPE = (3, 16, 16)


class SimulatedProcesses(Processes):
    """Processes that run one after the other; rank 0 is last."""

    parts: ClassVar[list[Any]]  # of all processes so far

    def gather(self, part: Any) -> Any:
        self.parts.append(part)
        return self.parts if self.rank == 0 else None


def collected_by(count: int, source: Any, extractor: Extractor) -> FeatureSet:
    SimulatedProcesses.parts = []
    for rank in reversed(range(count)):
        processes = SimulatedProcesses(rank, count)
        result = collect(source, extractor, keep=["64"], batch_size=16, processes=processes, progress=False)
        assert (result is None) == (rank > 0)
    assert result is not None
    return result


@pytest.mark.parametrize("kind", ["images", "sampler"])
def test_any_number_of_processes(kind: str, extractor: Extractor) -> None:
    """Any number of processes gives the same features bit for bit, and FID to 1e-9."""
    sampler = sf.Sampler(sf.load("digits-vp"), solver="ddim", steps=2, batch_size=16)
    source = open_images("digits:test") if kind == "images" else SampledImages(sampler, SHAPE, range(100))
    target = FeatureMoments.of(extractor(digits("train")[0][:300])["64"])

    def fid(of: FeatureSet) -> float:
        return gaussian_distance(target.mean, target.covariance, of.moments.mean, of.moments.covariance)

    one = collected_by(1, source, extractor)
    assert one.moments.count == len(one.features["64"]) == source.count
    for count in (2, 3, 40):  # 40: more processes than batches
        several = collected_by(count, source, extractor)
        assert torch.equal(several.features["64"], one.features["64"])
        assert torch.equal(several.first, one.first)
        assert fid(several) == pytest.approx(fid(one), rel=1e-9)


def test_replayed_pixels_are_unchanged() -> None:
    """A pixel that is sampled as k / 255 becomes k."""
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16)
    batch = next(SampledImages(replayed(images), SHAPE, [0], "round").batches(4))
    assert torch.equal(batch.images, images) and batch.names == ["0"]
