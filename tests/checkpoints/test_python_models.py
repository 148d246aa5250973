# SPDX-License-Identifier: Apache-2.0
"""Models of one's own by name: files and modules, the import path, and one sentence for each mistake."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.checkpoints.python_models import is_python_name, load_model
from scoresde_fast.model import describe_model
from tests.support.own_files import NETWORK, write_own

pytestmark = pytest.mark.same_everywhere
BROKEN_LINE = NETWORK[: NETWORK.index('{}["key"]')].count("\n") + 1


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of ``mynet.py``, whose folder is the current one."""
    monkeypatch.chdir(tmp_path)
    return write_own(tmp_path)


def test_names_of_models_in_python() -> None:
    """Files and modules are told from names and paths of saved models, also with the drives of Windows."""
    yes = ["a.py:m", "./a/b.py:m", r"C:\x\y.py:model", "package.module:model", "module:model", "a.py", r"C:\x\y.py"]
    no = [
        "digits-vp",
        "ve/cifar10:x",
        "folder",
        r"C:\models\vp",
        "C:/models/vp",
        "a.pth",
        "a.py:1",
        "a b:c",
        ":m",
        "a:",
    ]
    assert [name for name in [*yes, *no] if is_python_name(name)] == yes


@pytest.mark.parametrize("name", ["FILE:plain", "FILE:ready", "mynet.py:plain", "./mynet.py:ready", "mynet:plain"])
def test_same_model_by_every_name(own: Path, name: str) -> None:
    """A function or an object, in a file or a module, gives the same model, with the same description, in evaluation.

    The file imports its neighbour and defines a dataclass; the import path is the same before and after.
    """
    before = list(sys.path)
    model = load_model(name.replace("FILE", str(own)))
    assert sys.path == before
    assert not any(module.training for module in model.modules())
    samples = sf.sample(model, range(2), solver="ddim", steps=3)
    expected = load_model(f"{own}:plain")
    assert torch.equal(samples, sf.sample(expected, range(2), solver="ddim", steps=3))
    assert describe_model(model) == describe_model(expected)


def test_the_code_is_in_the_description(own: Path) -> None:
    """Another arithmetic with equal weights is another model; a comment is not."""
    before = describe_model(load_model(f"{own}:plain"))
    code = own.read_text()
    own.write_text(code.replace(".tanh() +", ".tanh() +  # add the label\n"))
    assert describe_model(load_model(f"{own}:plain")) == before
    own.write_text(code.replace(".tanh()", ".sigmoid()"))
    after = describe_model(load_model(f"{own}:plain"))
    assert after["weights_sha256"] == before["weights_sha256"] and after["code_sha256"] != before["code_sha256"]


def test_other_names_are_loaded(own: Path) -> None:
    """Embedded models keep their names."""
    assert isinstance(load_model("digits-vp"), sf.ScoreModel)
    with pytest.raises(ValueError, match="unknown model 'digits-vq'"):
        load_model("digits-vq")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mynet.py:network", "is a network, Net: make it a model by scoresde_fast.wrap"),
        ("mynet.py:Net", "is the class Net; name a model, or a function"),
        ("mynet.py:number", "is of type int; name a model, or a function"),
        ("mynet.py:needs", "needs the arguments a, b; give them defaults"),
        ("mynet.py:nothing", "returns a NoneType; it must return a model"),
        ("mynet.py:modle", "unknown name 'modle' - did you mean 'model'? choose from: broken, model, needs"),
        ("mynet.py:broken", f"KeyError in FOLDER/mynet.py, line {BROKEN_LINE}: 'key'"),
        ("mynet.py", "is a Python file: add the name of the model in it, as in mynet.py:model"),
        ("empty.py:model", "the code defines no 'model', nor any other model or function"),
        ("imports.py:model", "ModuleNotFoundError in FOLDER/imports.py, line 2: No module named 'nosuch'"),
        ("torchs.py:model", "RuntimeError in FOLDER/torchs.py, line 2: shape '[3]' is invalid"),
        ("chain:model", "ModuleNotFoundError in FOLDER/imports.py, line 2: No module named 'nosuch'"),
        ("syntax.py:model", "SyntaxError in FOLDER/syntax.py, line 1"),
        ("exits.py:model", "SystemExit in FOLDER/exits.py, line 2: 3"),
        ("package.nosuch:model", "cannot be loaded: ModuleNotFoundError: No module named 'package.nosuch'"),
        ("nosuch.module:model", "cannot be loaded: there is no module 'nosuch' in the current folder"),
    ],
)
def test_mistakes(own: Path, name: str, message: str) -> None:
    """The message names what is wrong, for an error in the code the last line of the user's own; the path is kept."""
    files = {
        "empty": "",
        "imports": "\nimport nosuch\n",
        "chain": "import imports\n",
        "torchs": "import torch\ntorch.zeros(2).reshape(3)\n",
        "syntax": "def f(:\n",
        "exits": "import sys\nsys.exit(3)\n",
    }
    for stem, code in files.items():
        (own.parent / f"{stem}.py").write_text(code)
    (own.parent / "package").mkdir()
    before = list(sys.path)
    with pytest.raises(ValueError) as error:
        load_model(name)
    assert message.replace("FOLDER/", str(own.parent) + "/") in str(error.value).replace("\\", "/")
    assert repr(name) in str(error.value) and "\n" not in str(error.value)
    assert sys.path == before


def test_missing_file_and_foreign_options(own: Path) -> None:
    """A missing file is named; options of .pth files are refused."""
    with pytest.raises(FileNotFoundError, match=r"the Python file 'gone/mynet\.py' does not exist"):
        load_model("gone/mynet.py:model")
    for options in ({"config": "vp/cifar10_ddpmpp_continuous"}, {"ema": False}):
        with pytest.raises(ValueError, match="config and ema are for"):
            load_model("mynet.py:model", **options)


def test_files_of_one_name(own: Path) -> None:
    """Two files of one name in different folders are two models, each described by its own code."""
    other = own.parent / "other"
    other.mkdir()
    write_own(other).write_text(own.read_text().replace(".tanh()", ".sigmoid()"))
    first, second = load_model("mynet.py:plain"), load_model("other/mynet.py:plain")
    alone = describe_model(load_model("mynet.py:plain"))
    assert describe_model(first) == alone
    assert describe_model(second)["code_sha256"] != alone["code_sha256"]
