# SPDX-License-Identifier: Apache-2.0
"""The command line: arguments of the sampler, exit codes, and one-line error messages."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import scoresde_fast
from scoresde_fast.cli import COMMANDS, Env, main
from scoresde_fast.flow.options import AdaptiveOptions
from scoresde_fast.run_options import names, split_options
from scoresde_fast.solvers import SolverOptions
from tests.support.stub_sampler import StubSampler
from tests.support.tiny_models import LOAD

pytestmark = pytest.mark.same_everywhere


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Replace model and sampler by a stub, and record the calls."""
    recorded: dict[str, Any] = {"stub": StubSampler()}

    def load(name: str, **options: object) -> SimpleNamespace:
        recorded["load"] = (name, options)
        return SimpleNamespace(name=f"model {name}", is_image=True)

    def sampler(model: object, *, condition: object, **options: object) -> StubSampler:
        assert condition is None
        recorded["sampler"] = (model, options)
        if (size := split_options(options, names(SolverOptions, AdaptiveOptions))[1].batch_size) != "auto":
            recorded["stub"].batch_size = size
        return recorded["stub"]

    monkeypatch.setattr(LOAD, load)
    monkeypatch.setattr(scoresde_fast, "Sampler", sampler, raising=False)
    return recorded


def test_sample(calls: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plain command loads the model by name, keeps its defaults, and prints one line."""
    assert main(["sample", "digits-ve", "--seeds", "0-2,9", "--out", str(tmp_path / "set")]) == 0
    assert calls["load"] == ("digits-ve", {"config": None, "ema": True})
    model, options = calls["sampler"]
    assert model.name == "model digits-ve"
    assert options == {"device": "cpu"}
    assert len(list((tmp_path / "set").rglob("*.png"))) == 4
    printed = capsys.readouterr()
    assert printed.out.startswith("4 images (6 NFE each) in ")
    assert printed.out.endswith(f"images/s -> {tmp_path / 'set.grid.png'}\n")
    assert printed.out.count("\n") == 1
    assert printed.err == ""


def test_sample_options(calls: dict[str, Any], tmp_path: Path) -> None:
    """Every option reaches the model, the sampler or the manifest."""
    options = "--seeds 5 --solver euler --steps 7 --corrector none --corrector-steps 2 --snr 0.2 --grid karras"
    options += " --probability-flow --order 3 --eps 0.01 --original --no-denoise --langevin-norm batch"
    options += " --run-seed 3 --batch-size 2 --device cpu --threads 1"
    options += " --config ve/preset --raw --rounding round --precision fp16 --strict --no-compile --no-capture"
    assert main(["sample", "a.pth", *options.split(), "--out", str(tmp_path / "set.npz")]) == 0
    assert calls["load"] == ("a.pth", {"config": "ve/preset", "ema": False})
    assert calls["sampler"][1] == {
        "solver": "euler",
        "steps": 7,
        "corrector": "none",
        "corrector_steps": 2,
        "snr": 0.2,
        "grid": "karras",
        "probability_flow": True,
        "denoise": False,
        "langevin_norm": "batch",
        "order": 3,
        "eps": 0.01,
        "original": True,
        "batch_size": 2,
        "run_seed": 3,
        "device": "cpu",
        "precision": "fp16",
        "strict": True,
        "compile": False,
        "capture": False,
    }
    manifest = json.loads((tmp_path / "set.npz.samples.json").read_text())
    assert manifest["configuration"]["rounding"] == "round"
    assert manifest["environments"][0]["batch_size"] == 2


def test_automatic_batch_size(calls: dict[str, Any], tmp_path: Path) -> None:
    """With --batch-size auto the sampler decides."""
    out = tmp_path / "set.npz"
    assert main(["sample", "digits-ve", "--batch-size", "auto", "--compile", "--seeds", "0-4", "--out", str(out)]) == 0
    assert calls["sampler"][1]["batch_size"] == "auto" and calls["sampler"][1]["compile"] is True
    assert [len(batch) for batch in calls["stub"].batches] == [3, 2]


def test_second_run(calls: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finished set is reported as finished; a larger one reports new and existing images."""
    command = ["sample", "digits-ve", "--out", str(tmp_path)]
    for seeds, message in [
        ("0-2", "3 images ("),
        ("0-2", "nothing to do, 3 images already"),
        ("0-4", ", 3 images already existed"),
    ]:
        assert main([*command, "--seeds", seeds]) == 0
        assert message in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seeds", "9-5"], "the range '9-5' is reversed; write 5-9"),
        (["--seeds", "1,1"], "contain 1 twice"),
        (["--threads", "0"], "--threads is 0"),
        (["--batch-size", "0"], "batch_size is 0"),
        (["--out", "set.rar"], "no format has the suffix '.rar'"),
        (["--flow"], "--flow is now called --probability-flow"),
        (["--no-parity"], "--parity is now called --original"),
        (["--shard", "3"], "--shard '3' is not a shard"),
        (["--seeds", "0-9223372036854775807"], "are 9223372036854775808 seeds; a set has at most 9223372036854775807"),
        (["--shard", "17/16"], "--shard 17/16 does not exist; the shards are 1/16 to 16/16"),
    ],
)
def test_mistake(calls: dict[str, Any], options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A mistake gives one line on stderr and exit code 2."""
    assert main(["sample", "digits-ve", *options]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("scoresde-fast: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def fail(error: BaseException) -> Callable[..., Any]:
    def failing(*_: object, **__: object) -> None:
        raise error

    return failing


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ValueError("unknown solver 'ssc'"), 2, "scoresde-fast: unknown solver 'ssc'"),
        (
            FileNotFoundError("there is no checkpoint file 'a.pth'"),
            2,
            "scoresde-fast: there is no checkpoint file 'a.pth'",
        ),
        (OSError(28, "could not be written", "a/000001.png"), 2, "scoresde-fast: a/000001.png: could not be written"),
        (FloatingPointError("NaN at step 3"), 2, "scoresde-fast: NaN at step 3"),
        (KeyboardInterrupt(), 130, "scoresde-fast: interrupted; run the same command again to continue"),
    ],
    ids=["value", "missing", "write", "nan", "ctrl-c"],
)
def test_failure(
    calls: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    message: str,
) -> None:
    """Errors of the library and Ctrl-C give one line and an exit code, never a traceback."""
    monkeypatch.setattr(LOAD, fail(error))
    assert main(["sample", "a.pth"]) == code
    assert capsys.readouterr().err.strip() == message


def test_other_options_for_the_same_out(
    calls: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run with other options reports the differences and the fix."""
    command = ["sample", "digits-ve", "--seeds", "0", "--out", str(tmp_path / "set")]
    assert main(command) == 0
    calls["stub"] = StubSampler(steps=5)
    assert main(command) == 2
    sentence = capsys.readouterr().err
    assert "sampler.steps: 3 saved, 5 requested" in sentence
    assert "choose another --out" in sentence


@pytest.mark.parametrize("arguments", [[], ["sample"], ["sample", "x", "--step", "3"], ["sample", "x", "--steps", "a"]])
def test_usage(arguments: list[str]) -> None:
    """Wrong usage ends with exit code 2."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2


def test_suggestions_are_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    """A mistyped option gets suggestions among the options of its own command, without those of others."""
    with pytest.raises(SystemExit):
        main(["sample", "digits-vp", "--step", "5"])
    message = capsys.readouterr().err
    assert "--steps" in message and "--reference-steps" not in message and "colorize" not in message


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Too little memory is one line; other errors of PyTorch are bugs, which keep their traceback."""
    texts = iter(("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes", "sizes do not match"))

    def fail(env: Env) -> None:
        raise RuntimeError(next(texts))

    monkeypatch.setattr(Env, "run", fail)
    assert main(["env"]) == 2
    assert capsys.readouterr().err == (
        "scoresde-fast: out of memory; give a smaller batch size, or fewer or smaller images\n"
    )
    with pytest.raises(RuntimeError, match="sizes do not match"):
        main(["env"])


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the closest command."""
    for command in ("sampel", "smaple", "Sample"):
        assert main([command, "digits-vp"]) == 2
        assert f"unknown command {command!r} - did you mean 'sample'?" in capsys.readouterr().err
    for command, meant in (("bench solver", "bench solvers"), ("eval stat", "eval stats")):
        assert main([*command.split(), "digits-vp"]) == 2
        assert f"unknown command {command!r} - did you mean {meant!r}?" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every command prints its usage."""
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    assert f"usage: scoresde-fast {command}" in capsys.readouterr().out


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_texts_fill_their_lines(
    command: str, width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No help text has a line break that wrapping does not need: tyro keeps some line breaks of docstrings."""
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([command, "--help"])
    for line, following in pairwise(capsys.readouterr().out.splitlines()):
        continued = re.match(r" {8,}([^\s,]+,?)", following)
        only_option = line.startswith("  -") and "  " not in line.strip()
        if continued and not only_option:
            assert len(line.rstrip()) + 1 + len(continued[1]) > width - 4, (line, following)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """--version prints the package's version."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"scoresde-fast {scoresde_fast.__version__}\n"


def test_env(capsys: pytest.CaptureFixture[str]) -> None:
    """env prints versions for a bug report."""
    assert main(["env"]) == 0
    assert "torch" in capsys.readouterr().out


def test_starts_without_torch() -> None:
    """The command line imports no torch, so that --help is fast."""
    program = "import scoresde_fast, sys; before = 'torch' in sys.modules; import scoresde_fast.cli"
    program += "; sys.exit(before != ('torch' in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    "command", [["sample", "digits-ve"], ["train", "digits-ve"], ["encode", "digits-ve", "digits"]]
)
def test_paths(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command takes an empty path for the current folder."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as code:
        main([*command, "--out", ""])
    assert code.value.code == 2 and not list(tmp_path.iterdir())


def test_home(calls: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that begins with ~ is in the home folder, also where the shell does not replace it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["sample", "digits-ve", "--seeds", "0", "--out", "~/set"]) == 0
    assert (tmp_path / "set/000/000000.png").exists()
