# SPDX-License-Identifier: Apache-2.0
"""Configurations as people have them: ConfigDict objects, files of score_sde and CLD-SGM, and hostile files."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from scoresde_fast.configs import Config, load_config
from tests.support.golden import GOLDEN

pytestmark = pytest.mark.same_everywhere

RECORDED: dict[str, dict[str, Any]] = json.loads((GOLDEN / "official_configs.json").read_text())
MINIMAL = '{"model": {"name": "ncsnpp"}, "training": {"sde": "vesde"}}'
DEFAULTS = """
import ml_collections
import torch


def get_default_configs():
  config = ml_collections.ConfigDict()
  # training
  config.training = training = ml_collections.ConfigDict()
  config.training.batch_size = 64
  training.n_jitted_steps = 5
  config.data = data = ml_collections.ConfigDict()
  data.image_size = 64
  config.model = model = ml_collections.ConfigDict()
  model.sigma_max = 90.
  model.beta_min = 0.1
  config.seed = 42
  config.device = torch.device('cuda:0') if torch.cuda.is_available() else torch.device('cpu')
  return config
"""
OWN = '''
"""Training."""
from configs.defaults import get_default_configs

raise_if_run = open("was_run", "w")


def get_config():
  config = get_default_configs()
  training = config.training
  training.sde = 'vesde'
  model = config.model
  model.name = 'ncsnpp'
  model.ch_mult = (1, 2, 2)
  model.fir_kernel = [1, 3, 3, 1]
  config["data"].random_flip = False
  return config
'''


class ConfigDict:
    """The interface of ml_collections' ConfigDict, which is no ``Mapping``."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._fields = {key: ConfigDict(value) if isinstance(value, dict) else value for key, value in options.items()}

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["_fields"][name]
        except KeyError as error:
            raise AttributeError(name) from error

    def __iter__(self) -> Any:
        return iter(self._fields)

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def to_dict(self) -> dict[str, Any]:
        return {key: value.to_dict() if isinstance(value, ConfigDict) else value for key, value in self._fields.items()}


def outcome(config: Any) -> Config | str:
    """Return the configuration, or the end of the message of an error, without the name of the file."""
    try:
        return load_config(config)
    except ValueError as error:
        return str(error).partition(".py': ")[2] or str(error)


@pytest.mark.parametrize("name", RECORDED["score_sde"])
def test_official_configurations_in_every_form(name: str, tmp_path: Path) -> None:
    """A ConfigDict and a Python file of assignments give the configuration of the mapping, or the same refusal.

    Networks that are not supported are refused; the JAX option is ignored.
    """
    options = {**RECORDED["score_sde"][name], "device": object()}
    options["training"] = {**options["training"], "n_jitted_steps": 5}
    lines = ["import ml_collections", "def get_config():", "  config = ml_collections.ConfigDict()"]
    for section, values in options.items():
        if isinstance(values, dict):
            lines += [f"  config.{section} = {section} = ml_collections.ConfigDict()"]
            lines += [f"  {section}.{key} = {value!r}" for key, value in values.items()]
    path = tmp_path / "official.py"
    path.write_text("\n".join([*lines, "  return config", ""]))
    expected = outcome(options)
    assert outcome(ConfigDict(options)) == expected == outcome(path)
    supported = options["model"]["name"] in ("ncsnpp", "ddpm")
    assert isinstance(expected, Config) if supported else not isinstance(expected, Config)


def test_python_file_from_another_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file may start from the function of another one, found above it; no line of either runs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs" / "ve").mkdir(parents=True)
    path = tmp_path / "configs" / "ve" / "own.py"
    path.write_text(OWN)
    with pytest.raises(FileNotFoundError, match=r"starts from the file 'configs/defaults\.py', which is in no folder"):
        load_config(path)
    (tmp_path / "configs" / "defaults.py").write_text(DEFAULTS)
    config = load_config(str(path))
    assert not Path("was_run").exists()
    assert (config.training.sde, config.training.batch_size) == ("vesde", 64)
    assert (config.model.ch_mult, config.model.sigma_max) == ((1, 2, 2), 90.0)
    assert (config.data.image_size, config.data.random_flip) == (64, False)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param("  config.model.nf = 2**7", r"model\.nf is the expression `2 \*\* 7` of line 6", id="power"),
        pytest.param("  config.model.nf = width()", r"nf is the expression `width\(\)` of line 6", id="call"),
        pytest.param("  for i in range(3): pass", "line 6 is not a plain assignment to a section", id="loop"),
        pytest.param("  config.nosuch.nf = 3", "line 6 is not a plain assignment to a section", id="no section"),
        pytest.param("  config.update(a=1)", "line 6 is not a plain assignment", id="statement"),
        pytest.param("  config.model.nf = 64 +", "not a Python file: .* in line 6", id="syntax"),
        pytest.param("  config.model.nf = " + "-" * 50_000 + "1", "nest too deeply|not a Python file", id="deep"),
        pytest.param("  config.model.nf = " + "9" * 5000, "not a Python file|about 10", id="digits"),
        pytest.param("  return get_config()", "start from each other more than 8 times", id="recursion"),
        pytest.param("  return 3", r"it needs a function get_config\(\)", id="number"),
    ],
)
def test_python_that_is_not_plain(code: str, message: str, tmp_path: Path) -> None:
    """What is not a plain assignment is refused with its line, unless only ignored options depend on it."""
    path = tmp_path / "own.py"
    head = "def get_config():\n  config = dict()\n  config.model = dict()\n  config.training = dict()\n"
    path.write_text(f"{head}  config.model.name = 'ddpm'; config.training.sde = 'vesde'\n{code}\n  return config\n")
    with pytest.raises(ValueError, match=message) as error:
        load_config(path)
    assert "own.py'" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("name", RECORDED["cld_sgm"])
def test_text_files_of_cld_sgm(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each form of line, two files of which the second has precedence, and a namespace give the flat configuration."""
    monkeypatch.chdir(tmp_path)
    options = RECORDED["cld_sgm"][name]
    items = list(options.items())
    Path("equals.txt").write_text("# notes\n[all]\n" + "".join(f"{key} = {value}  # why\n" for key, value in items))
    Path("flags.txt").write_text("python main.py " + " ".join(f"--{key} {value}" for key, value in items))
    Path("first.txt").write_text("m_inv: 9\n" + "".join(f"{key}: {value}\n" for key, value in items[:20]))
    Path("second.txt").write_text("m_inv 4.0\n" + "".join(f"--{key}={value} \\\n" for key, value in items[20:]))
    expected = load_config(options)
    for form in ("equals.txt", Path("flags.txt"), "first.txt,second.txt", Namespace(**options)):
        assert load_config(form) == expected, form


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ncsnpp", "unknown sde of a flat configuration None; choose from: cld, vpsde"),
        ("sde = cld\nm_inw = 4", "unknown option of a flat configuration 'm_inw' - did you mean 'm_inv'"),
        ("sde = cld\nname = ncsnpp\nm_inv = 1e999", r"cld\.m_inv is inf; it must be a finite number"),
        ("sde = cld\n= 3", "line 2 is '= 3'; it must be key = value, or --key value"),
        ("sde = cld\n--name a b", "line 2: --name has two values"),
        ("--name 'a", "line 1: No closing quotation"),
        ("sde = vpsde\nname = ncsnpp\nbeta0 = " + "9" * 400, r"beta0 is about 10\*\*400; it must be a finite number"),
    ],
)
def test_text_files_that_are_wrong(text: str, message: str, tmp_path: Path) -> None:
    """A wrong line of a text file is refused with its number or its option."""
    path = tmp_path / "own.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"own\.txt': .*{message}"):
        load_config(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param("[" * 100_000, "nests lists and objects more than 20 deep", id="brackets"),
        pytest.param('{"a":' * 30 + "1" + "}" * 30, "nests lists and objects more than 20 deep", id="objects"),
        pytest.param(" " * 1_000_000 + MINIMAL, "larger than 1 MB, so it is no configuration", id="size"),
        pytest.param(MINIMAL.replace("}", ', "nf": %s}' % ("1" * 5000), 1), "nf is inf; it must be an", id="digits"),
        pytest.param('{"model": {"sigma_max": NaN, "name": "ddpm"}}', "training.sde|sigma_max is nan", id="NaN"),
        pytest.param(b"\xff\xfe{", "is not UTF-8 text .*; save it as UTF-8", id="no text"),
        pytest.param('{"model": {}, "model": {}}', "has the key 'model' twice; keep one", id="twice"),
    ],
)
def test_hostile_json(content: str | bytes, message: str, tmp_path: Path) -> None:
    """Files that are too large, nested too deeply or not text are refused in one sentence."""
    path = tmp_path / "own.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        load_config(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_other_types_are_refused() -> None:
    """An object that is no configuration is refused with the types that are."""
    for value in (3, None, [1], object()):
        with pytest.raises(ValueError, match=r"config is of type .*; it must be a preset's name, a file, a mapping"):
            load_config(value)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"unknown preset .*, or give the path of a \.json, \.py or \.txt file"
    ) as error:
        load_config("x" * 100_000)
    assert len(str(error.value)) < 600
