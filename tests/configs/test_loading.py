# SPDX-License-Identifier: Apache-2.0
"""Configurations from presets, mappings, files and the flat form; agreement of presets with official files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scoresde_fast.configs import Config, load_config, preset_names
from scoresde_fast.configs.schema import IGNORED
from scoresde_fast.model import ScoreModel
from scoresde_fast.sdes import VPSDE
from tests.support.golden import GOLDEN

pytestmark = pytest.mark.same_everywhere

FLAT: dict[str, Any] = {"name": "ncsnpp", "sde": "cld"}
CLD_SGM = {
    "cld_cifar10": "cld_cifar10",
    "cld_celebahq_256": "cld_celebahq_256_paper",
    "cld_celebahq_256_later": "cld_celebahq_256",
    "cld_toy": "cld_toy",
}
"""CLD-SGM's configuration for each of its presets."""
SCORE_SDE = [name for name in preset_names() if name not in CLD_SGM]


def recorded(program: str) -> dict[str, Any]:
    configurations: dict[str, Any] = json.loads((GOLDEN / "official_configs.json").read_text())[program]
    return configurations


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    return recorded("score_sde")


def test_every_buildable_official_configuration_is_a_preset(official: dict[str, Any]) -> None:
    """The presets are the official NCSN++, DDPM++ and DDPM files, except one that the official code cannot build."""
    ours = {name for name, config in official.items() if config["model"]["name"] in ("ncsnpp", "ddpm")}
    assert set(SCORE_SDE) == ours - {"vp/ddpm/cifar10_unconditional"}


@pytest.mark.parametrize("name", SCORE_SDE)
def test_preset_has_the_official_values(name: str, official: dict[str, Any]) -> None:
    """Every value of the official file is in the preset or in `IGNORED`."""
    ours = load_config(name).to_dict()
    for section, options in official[name].items():
        if section in IGNORED[""]:
            continue
        for option, value in options.items():
            assert option in IGNORED.get(section, ()) or ours[section][option] == value, f"{section}.{option}"


@pytest.mark.parametrize("name", CLD_SGM)
def test_cld_preset_has_the_official_values(name: str) -> None:
    """A CLD preset equals the official flat file, except for the sampler and two options of the toy."""
    theirs, ours = (load_config(form).to_dict() for form in (recorded("cld_sgm")[CLD_SGM[name]], name))
    differing = {
        f"{section}.{option}"
        for section, options in theirs.items()
        for option, value in options.items()
        if ours[section][option] != value
    }
    sampler = {f"sampling.{option}" for option in ("method", "predictor", "steps", "grid")}
    assert differing - sampler == ({"data.dataset", "model.num_res_blocks"} if name == "cld_toy" else set())


def test_the_two_cld_presets_of_celebahq() -> None:
    """The two presets differ in what changed after the paper: depth, beta, AdamW, smallest time, and length."""
    paper, later = (load_config(name).to_dict() for name in ("cld_celebahq_256", "cld_celebahq_256_later"))
    changes = {
        f"{section}.{option}": (value, later[section][option])
        for section, options in paper.items()
        for option, value in options.items()
        if later[section][option] != value
    }
    assert changes == {
        "model.num_res_blocks": (2, 4),
        "training.loss_eps": (1e-5, 1e-3),
        "training.batch_size": (64, 96),
        "training.n_iters": (320000, 600000),
        "optim.optimizer": ("Adam", "AdamW"),
        "optim.weight_decay": (0.0, 0.01),
        "cld.beta0": (4.0, 0.1),
        "cld.beta1": (0.0, 6.9),
    }


@pytest.mark.parametrize("name", preset_names())
def test_round_trip_through_json(name: str) -> None:
    """A configuration written as JSON and read back is the same."""
    config = load_config(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_load_config_accepts_every_form(tmp_path: Path) -> None:
    """A name, a mapping, a mapping beside notes, a JSON file and a Config are the same configuration."""
    config = load_config("ve/cifar10_ncsnpp")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"notes": "tried on Monday", "config": config.to_dict()}))
    for form in (config, config.to_dict(), {"config": config.to_dict()}, path, str(path)):
        assert load_config(form) == config


class TestFlat:
    """The flat form of CLD-SGM."""

    def test_golden_configurations(self, golden: Path) -> None:
        """The options of a recorded file are translated to their names here."""
        config = load_config(golden / "cld_cifar10.json")
        model, cld = config.model, config.cld
        assert (model.nf, model.num_res_blocks, model.num_scales, model.mixed_score) == (16, 1, 0, True)
        assert (model.ch_mult, model.attn_resolutions, model.fir_kernel) == ((1, 2), (8,), (1.0, 3.0, 3.0, 1.0))
        assert (config.data.image_size, config.data.centered, config.sampling.eps) == (16, True, 1e-3)
        assert (cld.m_inv, cld.gamma, cld.beta0, cld.beta1, cld.numerical_eps) == (4.0, 0.04, 4.0, 0.0, 1e-9)
        assert (cld.objective, config.training.weighting) == ("hsm", "reweightedv2")

    def test_rate_of_vp(self, golden: Path) -> None:
        """CLD-SGM's rate beta0 + beta1 t of VP is here one from beta_min to beta_max; its networks receive t."""
        model = load_config(golden / "cld_vpsde_mixed.json").model
        assert (model.beta_min, model.beta_max, model.label_scale) == (0.1, 20.0, 1.0)
        sde = ScoreModel(golden / "cld_vpsde_mixed.json").sde
        assert isinstance(sde, VPSDE) and (sde.beta_min, sde.beta_max) == (0.1, 20.0)
        assert load_config({"name": "ncsnpp", "sde": "vpsde"}).model.beta_max == 20.0

    def test_lists(self) -> None:
        """Comma-separated numbers, one number and lists are equivalent."""
        for text, values in (("16", [16]), (16, [16]), ("16,8", (16, 8))):
            ours, theirs = (load_config({**FLAT, "attn_resolutions": form}) for form in (text, values))
            assert ours == theirs

    def test_sampler(self) -> None:
        """CLD-SGM's samplers and strides are translated to the names here; 1000 steps are the default."""
        sampling = load_config({**FLAT, "sampling_method": "em", "striding": "linear"}).sampling
        assert (sampling.method, sampling.predictor, sampling.grid) == ("pc", "euler_maruyama", "uniform")
        sampling = load_config(
            {**FLAT, "sampling_method": "sscs", "striding": "quadratic", "n_discrete_steps": 50}
        ).sampling
        assert (sampling.predictor, sampling.grid, sampling.steps) == ("sscs", "quadratic", 50)
        sampling = load_config({**FLAT, "sampling_method": "ode"}).sampling
        assert (sampling.method, sampling.predictor, sampling.steps) == ("ode", "euler_maruyama", 1000)

    def test_points(self) -> None:
        """Points of ``data_dim`` coordinates are images of one pixel, without flips."""
        data = load_config({"name": "mlp", "sde": "cld", "is_image": False, "data_dim": 2}).data
        assert (data.num_channels, data.image_size, data.is_image, data.random_flip) == (2, 1, False, False)


def test_unknown_preset_names_the_nearest() -> None:
    """The message for a misspelt preset suggests the nearest name."""
    with pytest.raises(ValueError, match="did you mean 've/cifar10_ncsnpp_continuous'"):
        load_config("ve/cifar10_ncsnp_continuous")


def test_invalid_files(tmp_path: Path) -> None:
    """A missing file, invalid JSON and JSON without an object have different messages, which name the path."""
    path = tmp_path / "mine.json"
    with pytest.raises(FileNotFoundError, match=r"configuration file '.*mine\.json' does not exist"):
        load_config(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"mine\.json': not a JSON file"):
        load_config(path)
    path.write_text('{"modle": {}}')
    with pytest.raises(ValueError, match=r"mine\.json': unknown section .* 'modle'"):
        load_config(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"mine\.json': .* must contain one JSON object"):
        load_config(path)
