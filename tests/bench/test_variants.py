# SPDX-License-Identifier: Apache-2.0
"""Tests of the variants: they give the same images."""

from __future__ import annotations

import pytest

from scoresde_fast.bench.sampling import image_error
from scoresde_fast.bench.variants import run_plain
from scoresde_fast.bench.workload import Workload
from tests.support.bench_models import FAST_VARIANTS, small_model


@pytest.mark.parametrize("name", ["NCSN++", "DDPM++", "CLD"])
def test_every_variant_gives_the_same_images(name: str) -> None:
    """Each fast CPU variant reaches its stated PSNR against the plain loop."""
    workload = Workload.of(small_model(name), batch=3, nfe=6, device="cpu")
    assert workload.nfe == 6
    truth = run_plain(workload.model.network, workload, "fp32")
    assert ((truth > 0) & (truth < 1)).float().mean() > 0.2, "most pixels are clipped, which would hide errors"
    for variant in FAST_VARIANTS:
        psnr, _ = image_error(variant.build(workload)(), truth)
        assert psnr is None or psnr >= variant.stated_db, variant.name
    assert {"eager float32", "ours: fused operations"} <= {variant.name for variant in FAST_VARIANTS}
