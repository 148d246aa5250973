# SPDX-License-Identifier: Apache-2.0
"""Mistakes in configurations: each message names the option and what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from scoresde_fast.configs import load_config
from scoresde_fast.model import ScoreModel

pytestmark = pytest.mark.same_everywhere

MINIMAL: dict[str, Any] = {"model": {"name": "ncsnpp"}, "training": {"sde": "vesde"}}
CLD: dict[str, Any] = {"model": {"name": "ncsnpp", "num_scales": 0}, "training": {"sde": "cld"}}
POINTS: dict[str, Any] = {**CLD, "model": {"name": "mlp"}, "data": {"is_image": False, "image_size": 1}}
FLAT: dict[str, Any] = {"name": "ncsnpp", "sde": "cld"}


def changed(section: str, base: dict[str, Any] = MINIMAL, /, **options: Any) -> dict[str, Any]:
    return {**base, section: {**base.get(section, {}), **options}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({**MINIMAL, "modle": {}}, "unknown section.*did you mean 'model'", id="unknown section"),
        pytest.param(changed("model", nff=1), "unknown option .* 'nff' - did you mean 'nf'", id="option"),
        pytest.param(changed("training", sde="vpsd"), r"unknown training\.sde 'vpsd' - did you mean 'vpsde'", id="sde"),
        pytest.param({"model": {"name": "ddpm"}}, r"must contain training\.sde: one of 'vesde'", id="sde missing"),
        pytest.param(changed("model", nf="64"), r"model\.nf is '64'; it must be an integer", id="string as number"),
        pytest.param(changed("model", nf=True), r"model\.nf is True; it must be an integer", id="bool as number"),
        pytest.param(changed("model", nf=0), r"model\.nf is 0; it must be from 1 to 8192", id="zero width"),
        pytest.param(changed("model", nf=18), "cannot be normalised in 4 groups", id="width of no groups"),
        pytest.param(changed("model", ch_mult=2), r"model\.ch_mult is 2; it must be a list", id="number as list"),
        pytest.param(
            changed("model", ch_mult=[]), r"model\.ch_mult has 0 values; it must have from 1 to 13", id="empty list"
        ),
        pytest.param(changed("model", sigma_max=float("nan")), "must be a finite number", id="NaN"),
        pytest.param(changed("model", sigma_max=0.001), "sigma_min must be smaller", id="sigmas swapped"),
        pytest.param(
            changed("model", dropout=1.0), r"dropout is 1\.0; it must be at least 0 and below 1", id="drop everything"
        ),
        pytest.param(changed("data", image_size=36), "must be a multiple of 8", id="indivisible image"),
        pytest.param(changed("data", centered=1), r"centered is 1; it must be true or false", id="number as bool"),
        pytest.param(changed("training", continuous=False), "must be 'positional'", id="Fourier and discrete"),
        pytest.param(
            changed("optim", beta1=1.0), r"optim\.beta1 is 1\.0; it must be at least 0 and below 1", id="beta1"
        ),
        pytest.param({**MINIMAL, "model": "ncsnpp"}, "must be a mapping of options", id="section of no options"),
        pytest.param(
            changed("model", num_scales=-1), r"num_scales is -1; it must be from 0 to 1000000", id="negative count"
        ),
        pytest.param(
            changed("model", num_scales=0), "num_scales is 0.* VE and discrete models need", id="VE, no levels"
        ),
        pytest.param(
            changed("model", mixed_score=True), "mixed_score is for .* training.sde is 'vesde'", id="mixed VE"
        ),
        pytest.param(changed("model", CLD, scale_by_sigma=True), "set scale_by_sigma to false", id="no sigma"),
        pytest.param(
            changed("model", label_scale=0), r"label_scale is 0; it must be from 1e-06 to 1000000", id="no label"
        ),
        pytest.param(
            changed("training", loss_eps=1), r"loss_eps is 1; it must be at least 1e-10 and below 1", id="no time"
        ),
        pytest.param(
            changed("training", weighting="v1"), "unknown training.weighting 'v1'.* reweightedv1", id="weighting"
        ),
        pytest.param(
            {**changed("training", CLD, continuous=False), "model": {"name": "ddpm"}},
            "CLD models are continuous in time: set it to true",
            id="discrete CLD",
        ),
        pytest.param(changed("data", is_image=False), "'ncsnpp' and 'ddpm' are for images", id="points to a U-Net"),
        pytest.param({**MINIMAL, "model": {"name": "mlp"}}, "'mlp' and 'resnet' for points", id="images to an MLP"),
        pytest.param(changed("data", POINTS, image_size=32), "image_size is 32; .* it must be 1", id="size of a point"),
        pytest.param(
            changed("optim", weight_decay=-1), r"weight_decay is -1; it must be from 0 to 1000", id="negative decay"
        ),
        pytest.param(
            changed("optim", optimizer="AdamX"), "unknown optim.optimizer 'AdamX' - did you mean", id="optimiser"
        ),
        pytest.param(
            changed("cld", CLD, objective="hsmm"), "unknown cld.objective 'hsmm' - did you mean", id="objective"
        ),
        pytest.param(changed("cld", CLD, m_inf=4), "option of section 'cld' 'm_inf' - did you mean 'm_inv'", id="mass"),
        pytest.param({**FLAT, "m_inw": 4}, "option of a flat .* 'm_inw' - did you mean 'm_inv'", id="flat option"),
        pytest.param({**FLAT, "sde": "vesde"}, "sde of a flat .* 'vesde' - did you mean 'vpsde'", id="flat SDE"),
        pytest.param({**FLAT, "ch_mult": "1,b"}, "ch_mult is '1,b'; it must be comma-separated", id="flat list"),
        pytest.param({**FLAT, "sde": "vpsde", "beta0": "4"}, "beta0 is '4'; it must be a number", id="flat rate"),
        pytest.param({**FLAT, "m_inv": "4"}, r"cld\.m_inv is '4'; it must be a finite number", id="flat number"),
        pytest.param({"sde": "cld"}, r"must contain model\.name: one of 'ncsnpp'", id="flat without a network"),
    ],
)
def test_mistakes_are_refused(options: dict[str, Any], message: str) -> None:
    """Each mistake is refused with a message that names the option, its value and what is allowed."""
    with pytest.raises(ValueError, match=message):
        load_config(options)


@pytest.mark.parametrize(("name", "value"), [("m_inv", -1.0), ("gamma", 0.0), ("beta0", -1.0), ("numerical_eps", -0.5)])
def test_impossible_diffusion(name: str, value: float) -> None:
    """Impossible numbers for CLD are refused by name and value when the model is built."""
    with pytest.raises(ValueError, match=f"{name}(=| is ){value}"):
        ScoreModel({**POINTS, "cld": {name: value}})
