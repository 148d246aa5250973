# SPDX-License-Identifier: Apache-2.0
"""The presets that a set of official weights fits."""

from __future__ import annotations

import pytest

from scoresde_fast.checkpoints import fitting_presets
from tests.support.official_checkpoints import preset_weights

pytestmark = pytest.mark.same_everywhere


class TestFittingPresets:
    """`fitting_presets`."""

    @pytest.mark.parametrize(
        ("preset", "fitting"),
        [
            pytest.param("ve/cifar10_ncsnpp_deep_continuous", {"ve/cifar10_ncsnpp_deep_continuous"}, id="only one"),
            pytest.param(
                "ve/ffhq_256_ncsnpp_continuous",
                {"ve/ffhq_256_ncsnpp_continuous", "ve/celebahq_256_ncsnpp_continuous"},
                id="sigma_max tells 256 px models apart",
            ),
            pytest.param(
                "vp/cifar10_ddpmpp_continuous",
                {"vp/cifar10_ddpmpp", "vp/cifar10_ddpmpp_continuous", "subvp/cifar10_ddpmpp_continuous"},
                id="one network, three objectives",
            ),
            *[
                pytest.param(name, {name}, id=name)
                for name in ("cld_cifar10", "cld_celebahq_256", "cld_celebahq_256_later", "cld_toy")
            ],
        ],
    )
    def test_fitting(self, preset: str, fitting: set[str]) -> None:
        """The preset itself is among those that fit, and no other network is."""
        assert set(fitting_presets(preset_weights(preset))) == fitting
