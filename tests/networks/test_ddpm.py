# SPDX-License-Identifier: Apache-2.0
"""The DDPM network with options that no golden network has."""

from __future__ import annotations

import pytest
import torch

from scoresde_fast.networks import DDPM
from tests.support.networks import SIZES, check


@pytest.mark.parametrize("with_conv", [True, False])
def test_ddpm(with_conv: bool) -> None:
    """The network runs and learns, with and without convolutions in resampling layers."""
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "init_scale"}
    check(DDPM(**{**sizes, "nf": 32}, resamp_with_conv=with_conv))
