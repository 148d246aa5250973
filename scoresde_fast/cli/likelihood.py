# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast likelihood``: bits per dimension of every image of a set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional

from scoresde_fast.cli.flow import FlowCommand
from scoresde_fast.cli.groups import NO_DEFAULT


@dataclass(frozen=True, kw_only=True)
class Likelihood(FlowCommand):
    """Write one line of JSON for each image: bits per dimension and log density by the probability flow.

    Stopped at any moment, the same command goes on behind the last line. On CLD the log density is a lower bound, and
    bits per dimension an upper one. Points (cld-toy) have a log density alone.
    """

    data: Positional[str]
    """A data set (digits:test, cifar10:test), a folder of images, or a .zip, .tar, .npz or .npy of them."""
    out: Path = Path("results.jsonl")
    """The file of results; its settings go to STEM.settings.json beside it."""
    probes: int = 1
    """Random fields an image that estimate the divergence; several also give the estimate's standard error."""
    probe: Literal["rademacher", "normal", "exact"] = "rademacher"
    """What the fields are of: +1 and -1, or normals; exact: the divergence itself, for small images."""
    seeds_from: int = 0
    """The seed of the first image's random numbers; each one after it has the next."""
    limit: Annotated[int | None, NO_DEFAULT] = None
    """Only so many images, the first ones; more may be asked for later."""

    def run(self) -> None:
        from scoresde_fast.data.images import read_data
        from scoresde_fast.flow.likelihood import LikelihoodEstimator
        from scoresde_fast.generate.likelihoods import write_likelihoods

        model = self.loading.load(self.model)
        data, names = read_data(self.data, model.image_shape, is_image=model.is_image)
        estimator = LikelihoodEstimator(model, probes=self.probes, probe=self.probe, **self.options())
        print(write_likelihoods(estimator, data, names, self.out, first_seed=self.seeds_from, limit=self.limit))
