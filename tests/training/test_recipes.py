# SPDX-License-Identifier: Apache-2.0
"""Recipes: the packaged ones, the noise range of the guided models, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.data import load_dataset
from scoresde_fast.sdes import ScalarSDE
from scoresde_fast.training import load_classifier_recipe, load_recipe, recipe_names
from scoresde_fast.training.recipes import NoiseRange
from tests.support.tiny_recipes import TINY_RECIPE

pytest.importorskip("sklearn")

NAME = "digits-classifier"


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_are_configurations(name: str) -> None:
    """Every recipe is valid, and its data set is in the package and has the configured shape."""
    data = load_recipe(name).data
    examples = load_dataset(data.dataset)[0]
    assert examples.shape[1:] == (data.num_channels, data.image_size, data.image_size)
    assert (examples.dtype == torch.uint8) == data.is_image


def test_unknown_recipe() -> None:
    """The message for a misspelt recipe suggests the nearest name."""
    with pytest.raises(ValueError, match="did you mean 'digits-ve'"):
        load_recipe("digit-ve")


def test_noise_ranges_of_the_models() -> None:
    """Noise is relative to images in [-1, 1], so for VE, whose data are in [0, 1], it is twice sigma."""
    trained = load_classifier_recipe(NAME)
    assert set(trained.models) == {"digits-ve", "digits-vp", "digits-subvp", "digits-cld"} <= set(recipe_names())
    ve, vp = load_recipe("digits-ve").model, NoiseRange.of_model("digits-vp")
    ends = np.array([0.0, 1.0])
    assert NoiseRange.of_model("digits-ve").std(ends)[1] == pytest.approx(2 * ve.sigma_max)
    assert isinstance(vp.sde, ScalarSDE)
    scale, std = vp.sde.marginal(np.array([vp.eps, 1.0]))
    np.testing.assert_allclose(vp.std(ends), std / scale)
    ranges = [NoiseRange.of_model(name).std(ends) for name in trained.models]
    assert trained.classifier.low == np.min(ranges) < 1e-3
    assert trained.classifier.high == np.max(ranges) > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "unknown section of a classifier's recipe 'model'"),
        ({"models": []}, r"models is \[\]; it must list"),
        ({"models": ["digits-vx"]}, "unknown recipe 'digits-vx' - did you mean 'digits-v"),
        ({"models": ["cld-toy"]}, "a model of points; classifiers are for images"),
        ({"models": [NAME]}, "is the recipe of a classifier; choose one of a score model"),
        ({"classifier": {"classes": ["a", "b"]}}, r"must contain classifier\.image_shape"),
        ({"classifier": 3}, "section 'classifier' of a configuration is 3; it must be a mapping of options"),
        ({"classifier": {**TINY_RECIPE["classifier"], "width": 3}}, "did you mean 'widths'"),
        (
            {"classifier": {**TINY_RECIPE["classifier"], "classes": ["a", "a"]}},
            "at least two different names are needed",
        ),
        ({"classifier": {**TINY_RECIPE["classifier"], "widths": [8, 8, 8, 8, 8, 8]}}, "multiples of 32"),
        ({"classifier": {**TINY_RECIPE["classifier"], "widths": [11]}}, "widths has 11, which cannot be normalised"),
        (
            {"data": {"dataset": "digits", "shuffle_channels": 2.0}},
            r"shuffle_channels is 2\.0; it must be from 0 to 1",
        ),
        ({"training": {"n_iters": 0}}, r"training\.n_iters is 0; it must be from 1 to 1000000000"),
        ({"optim": {"lr": -1.0}}, r"optim\.lr is -1\.0; it must be greater than 0"),
    ],
)
def test_invalid_recipes(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """The message for each mistake names the file, and the option or what is allowed."""
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({**TINY_RECIPE, **change}))
    with pytest.raises(ValueError, match=rf"mine\.json'?: .*{message}"):
        load_classifier_recipe(str(file))
