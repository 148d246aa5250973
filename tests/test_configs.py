# SPDX-License-Identifier: Apache-2.0
"""Configurations: every official file is a preset with its own values, and every mistake gets a clear sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scoresde_fast.configs import Config, load_config, preset_names
from scoresde_fast.configs.schema import IGNORED

OFFICIAL = Path(__file__).parents[2] / "shared" / "official_configs.json"
MINIMAL: dict[str, Any] = {"model": {"name": "ncsnpp"}, "training": {"sde": "vesde"}}


def changed(section: str, **options: Any) -> dict[str, Any]:
    return {**MINIMAL, section: {**MINIMAL.get(section, {}), **options}}


@pytest.fixture(scope="module")
def official() -> dict[str, Any]:
    if not OFFICIAL.is_file():
        pytest.skip(f"the official configurations are not at {OFFICIAL}")
    configurations: dict[str, Any] = json.loads(OFFICIAL.read_text())["score_sde"]
    return configurations


def test_every_buildable_official_configuration_is_a_preset(official: dict[str, Any]) -> None:
    """The presets are the official NCSN++, DDPM++ and DDPM files, but the one that the original cannot build."""
    ours = {name for name, config in official.items() if config["model"]["name"] in ("ncsnpp", "ddpm")}
    assert set(preset_names()) == ours - {"vp/ddpm/cifar10_unconditional"}


@pytest.mark.parametrize("name", preset_names())
def test_preset_has_the_official_values(name: str, official: dict[str, Any]) -> None:
    """Every value of the official file is in the preset, or is one that is knowingly dropped."""
    ours = load_config(name).to_dict()
    for section, options in official[name].items():
        if section in IGNORED[""]:
            continue
        for option, value in options.items():
            assert option in IGNORED[section] or ours[section][option] == value, f"{section}.{option}"


@pytest.mark.parametrize("name", preset_names())
def test_round_trip_through_json(name: str) -> None:
    """A configuration written as JSON and read back is the same."""
    config = load_config(name)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_load_config_takes_every_form(tmp_path: Path) -> None:
    """A name, a mapping, a mapping beside notes, a JSON file and a Config are the same configuration."""
    config = load_config("ve/cifar10_ncsnpp")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"notes": "tried on Monday", "config": config.to_dict()}))
    for form in (config, config.to_dict(), {"config": config.to_dict()}, path, str(path)):
        assert load_config(form) == config


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param({**MINIMAL, "modle": {}}, "unknown section.*did you mean 'model'", id="unknown section"),
        pytest.param(changed("model", nff=1), "unknown option .* 'nff' - did you mean 'nf'", id="option"),
        pytest.param(changed("training", sde="vpsd"), r"unknown training\.sde 'vpsd' - did you mean 'vpsde'", id="sde"),
        pytest.param({"model": {"name": "ddpm"}}, r"must say training\.sde: one of 'vesde'", id="sde missing"),
        pytest.param(changed("model", nf="64"), r"model\.nf must be a whole number, but is '64'", id="text as number"),
        pytest.param(changed("model", nf=True), r"model\.nf must be a whole number, but is True", id="bool as number"),
        pytest.param(changed("model", nf=0), r"model\.nf must be greater than 0", id="zero width"),
        pytest.param(changed("model", nf=18), "cannot be normalised in 4 groups", id="width of no groups"),
        pytest.param(changed("model", ch_mult=2), r"model\.ch_mult must be a list", id="number as list"),
        pytest.param(changed("model", ch_mult=[]), r"model\.ch_mult is empty", id="empty list"),
        pytest.param(changed("model", sigma_max=float("nan")), "must be a finite number", id="NaN"),
        pytest.param(changed("model", sigma_max=0.001), "the first must be the smaller", id="sigmas swapped"),
        pytest.param(changed("model", dropout=1.0), r"model\.dropout is 1\.0", id="drop everything"),
        pytest.param(changed("data", image_size=36), "must be a multiple of 8", id="indivisible image"),
        pytest.param(changed("data", centered=1), r"data\.centered must be true or false", id="number as bool"),
        pytest.param(changed("training", continuous=False), "must be 'positional'", id="Fourier and discrete"),
        pytest.param(changed("optim", beta1=1.0), r"optim\.beta1 is 1\.0", id="beta1"),
        pytest.param({**MINIMAL, "model": "ncsnpp"}, "must hold options by name", id="section of no options"),
    ],
)
def test_mistakes_are_named(options: dict[str, Any], sentence: str) -> None:
    """Each mistake is refused with a sentence that names the option, its value and what is allowed."""
    with pytest.raises(ValueError, match=sentence):
        load_config(options)


def test_unknown_preset_names_the_nearest() -> None:
    """A misspelt preset is answered with the nearest one."""
    with pytest.raises(ValueError, match="did you mean 've/cifar10_ncsnpp_continuous'"):
        load_config("ve/cifar10_ncsnp_continuous")


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    """A missing file, a file that is no JSON and JSON that is no object are told apart, each with its path."""
    path = tmp_path / "mine.json"
    with pytest.raises(FileNotFoundError, match=r"no configuration file '.*mine\.json'"):
        load_config(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"mine\.json': not a JSON file"):
        load_config(path)
    path.write_text('{"modle": {}}')
    with pytest.raises(ValueError, match=r"mine\.json': unknown section .* 'modle'"):
        load_config(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"mine\.json': .* must hold one JSON object"):
        load_config(path)
