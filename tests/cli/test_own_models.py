# SPDX-License-Identifier: Apache-2.0
"""Models of one's own on the command line: every command that takes a model, inputs, guidance, shards and repair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import scoresde_fast as sf
from scoresde_fast.checkpoints.python_models import load_model
from scoresde_fast.cli import main
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.generate.pixels import to_pixels
from tests.support.own_files import write_own
from tests.support.stub_sampler import files
from tests.support.tiny_models import read

pytestmark = pytest.mark.same_everywhere
FAST = ["--solver", "ddim", "--steps", "3", "--strict", "--batch-size", "8"]
OPTIONS: dict[str, Any] = {"solver": "ddim", "steps": 3, "strict": True, "batch_size": 8}
FLOW = ["--rtol", "0.1", "--atol", "0.1"]
MODEL, INPUTS = "./mynet.py:model", ["--inputs", "y=0,1,2"]
GUIDED = ["--guidance-scale", "2", "--guidance-null", "y=10", "--guidance-interval", "0.2,0.8"]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the models, images and a mask to the current folder."""
    monkeypatch.chdir(tmp_path)
    write_own(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), dtype=np.uint8).repeat(3, axis=3)
    Path("images").mkdir()
    for index, image in enumerate(pixels):
        Path(f"images/{index}.png").write_bytes(encode_png(image))
    Path("mask.png").write_bytes(encode_png(np.eye(8, dtype=np.uint8)[:, :, None] * 255))


def written(folder: str, seeds: int) -> np.ndarray:
    return np.stack([read(Path(f"{folder}/000/{seed:06d}.png")) for seed in range(seeds)])


def test_seeds_have_their_inputs() -> None:
    """Seed s has the input s mod N, from text or a file; the images are those of the library, guided ones too."""
    np.save("labels.npy", np.array([0, 1, 2], np.int32))
    assert main(["sample", MODEL, *FAST, *INPUTS, "--seeds", "0-4", "--out", "text"]) == 0
    assert main(["sample", "mynet:model", *FAST, "--inputs", "y=labels.npy", "--seeds", "0-4", "--out", "file"]) == 0
    assert main(["sample", MODEL, *FAST, *INPUTS, *GUIDED, "--seeds", "0-4", "--out", "guided"]) == 0
    guidance = sf.ClassifierFreeGuidance(scale=2, null={"y": 10}, interval=(0.2, 0.8))
    model, labels = load_model(MODEL), {"y": [0, 1, 2, 0, 1]}
    wanted = to_pixels(sf.sample(model, range(5), inputs=labels, **OPTIONS), "floor")
    guided = to_pixels(sf.sample(model, range(5), inputs=labels, guidance=guidance, **OPTIONS), "floor")
    assert np.array_equal(written("text", 5), wanted)
    assert files(Path("text")) == files(Path("file"))
    assert np.array_equal(written("guided", 5), guided) and not np.array_equal(guided, wanted)
    sampler = json.loads(Path("guided/samples.json").read_text())["configuration"]["sampler"]
    assert sampler == sf.Sampler(model, inputs={"y": [0, 1, 2]}, guidance=guidance, **OPTIONS).describe()


def test_shards_and_repair(capsys: pytest.CaptureFixture[str]) -> None:
    """Shards give the same set, which refuses other inputs; repair needs the model and its inputs, and says so."""
    sample = ["sample", MODEL, *FAST, *INPUTS, *GUIDED, "--seeds", "0-19"]
    assert main([*sample, "--out", "whole"]) == 0
    for shard in ("2/2", "1/2"):
        assert main([*sample, "--out", "shards", "--shard", shard]) == 0
    whole = files(Path("whole"))
    assert files(Path("shards")) == whole
    Path("whole/000/000003.png").unlink()
    repair = ["verify", "whole", "--repair", "--batch-size", "8"]
    capsys.readouterr()
    for options, message in (
        ([], "give them with --inputs y=..., as for sample"),
        (INPUTS, "the model of whole is not embedded; give it with --model"),
        (["--inputs", "y=0,1", "--model", MODEL], "sampler.inputs.y"),
        ([*INPUTS, "--model", "mynet.py:plain"], "unexpected keyword argument 'y'"),
    ):
        assert main([*repair, *options]) == 2
        printed = capsys.readouterr()
        assert message in printed.err and printed.err.count("\n") == 1
    assert main([*repair, *INPUTS, "--model", MODEL]) == 0
    assert files(Path("whole")) == whole


def test_sets_of_autoguidance_need_it(capsys: pytest.CaptureFixture[str]) -> None:
    """A manifest does not contain the model of autoguidance: repair says so in one line."""
    from scoresde_fast.generate import generate

    weak = sf.Autoguidance(scale=2, model=load_model("mynet.py:ready"))
    generate(sf.Sampler(load_model("mynet.py:ready"), guidance=weak, **OPTIONS), range(2), "set", progress=False)
    Path("set/000/000001.png").unlink()
    assert main(["verify", "set", "--repair", "--model", "mynet.py:ready"]) == 2
    assert "guidance 'autoguidance' does not contain its model" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["inpaint", "MODEL", "images", "--mask", "mask.png", *FAST],
        ["colorize", "MODEL", "images", *FAST],
        ["restore", "MODEL", "images", "--operator", "blur:1", *FAST],
        ["likelihood", "MODEL", "images", *FLOW],
        ["encode", "MODEL", "images", *FLOW],
        ["interpolate", "MODEL", "--seeds", "1,2", "--steps", "2", *FLOW],
    ],
    ids=lambda command: command[0],
)
def test_every_command(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Other commands take such models too; one with inputs needs them, and another input gives another result."""

    def results(name: str, *options: str) -> dict[str, Any]:
        suffix = {"likelihood": ".jsonl", "encode": ".npz", "interpolate": ".png"}.get(command[0], "")
        out = name + suffix
        arguments = [f"mynet.py:{'plain' if name == 'plain' else 'model'}" if a == "MODEL" else a for a in command]
        assert main([*arguments, *options, "--out", out]) == 0
        path = Path(out)
        settings = ("run.json", "settings.json")
        return {"": path.read_bytes()} if path.is_file() else {
            file: content for file, content in files(path).items() if not file.endswith(settings)
        }  # fmt: skip

    plain, zeros, ones = results("plain"), results("zeros", "--inputs", "y=0"), results("ones", "--inputs", "y=1")
    assert plain == zeros and zeros != ones
    capsys.readouterr()
    assert main(["mynet.py:model" if each == "MODEL" else each for each in command]) == 2
    assert "Net needs the inputs ['y']" in capsys.readouterr().err


def test_decode(capsys: pytest.CaptureFixture[str]) -> None:
    """Codes are decoded with the input of their index."""
    assert main(["encode", MODEL, "images", *INPUTS, "--rtol", "1e-5", "--atol", "1e-5", "--out", "codes.npz"]) == 0
    decode = ["decode", MODEL, "codes.npz", "--rtol", "1e-5", "--atol", "1e-5"]
    assert main([*decode, *INPUTS, "--out", "same"]) == 0
    assert main([*decode, "--inputs", "y=1", "--out", "ones"]) == 0
    original = np.stack([read(Path(f"images/{index}.png")) for index in range(3)]).astype(int)
    same, ones = (np.abs(written(folder, 3) - original).max(axis=(1, 2, 3)) for folder in ("same", "ones"))
    assert (same <= 1).all() and (ones > 1).tolist() == [True, False, True]


def test_eval_tells_models_from_data_sets(capsys: pytest.CaptureFixture[str]) -> None:
    """A name in Python is a model, "digits:test" is a data set, and eval loss needs a configuration."""
    assert main(["eval", "mynet.py:modle"]) == 2
    assert "unknown name 'modle'" in capsys.readouterr().err
    assert main(["eval", "digits:tset"]) == 2
    assert "mynet" not in (message := capsys.readouterr().err) and "tset" in message
    assert main(["eval", "digts:test"]) == 2
    assert "unknown model or data set 'digts' - did you mean 'digits'?" in capsys.readouterr().err
    assert main(["eval", "loss", "mynet.py:plain", "images"]) == 2
    assert "mynet.py:plain has no configuration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--inputs", "y"], "--inputs is 'y'; it must be NAME=V1,V2,..."),
        (["--inputs", "y=a,b"], "--inputs is 'y=a,b'"),
        (["--inputs", f"y={10**30}"], "it must be NAME=V1,V2,..."),
        (["--inputs", "y=mynet.npy"], "mynet.npy: No such file"),
        (["--inputs", "y=text.npy"], "NAME=FILE.npy with an array of numbers"),
        (["--inputs", "y=empty.npy"], "NAME=FILE.npy with an array of numbers"),
        ([*INPUTS, *INPUTS], "gives 'y' twice"),
        ([*INPUTS, "--inputs", "z=1,2"], "'y': 3, 'z': 2"),
        (["--inputs", "y=0.5"], "Net cannot be evaluated"),
        (["--guidance-null", "y=1"], "need --guidance-scale"),
        (["--guidance-scale", "2", *INPUTS], "--guidance-scale needs --inputs, such as y=0,1,2, and --guidance-null"),
        ([*INPUTS, *GUIDED[:2], "--guidance-null", "z=1"], "the null inputs of the guidance are ['z']"),
        ([*INPUTS, *GUIDED[:4], "--guidance-interval", "3"], "--guidance-interval is '3'; it must be LOW,HIGH"),
        ([*INPUTS, *GUIDED[:4], "--guidance-interval", "3,1"], "interval is (3.0, 1.0)"),
    ],
)
def test_mistakes(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake gives one line on stderr and exit code 2; nothing is written."""
    np.save("text.npy", np.array(["a"]))
    Path("empty.npy").touch()
    assert main(["sample", MODEL, *FAST, *options, "--out", "set"]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and not Path("set").exists()


def test_null_fills_a_row(tmp_path: Path) -> None:
    """One number as the null value of an embedding stands for a row of it; a file gives a row as it is."""
    from scoresde_fast.cli.network_inputs import NetworkInputOptions

    np.save("rows.npy", np.ones((2, 3), np.float64))
    np.save("null.npy", np.arange(3.0))
    for text, expected in (("e=0", [0, 0, 0]), ("e=null.npy", [0, 1, 2])):
        options = NetworkInputOptions(inputs=("e=rows.npy",), guidance_scale=2.0, guidance_null=(text,)).options()
        assert options["inputs"].values["e"].shape == (2, 3)
        assert options["guidance"].null["e"].tolist() == expected
