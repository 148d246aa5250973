# SPDX-License-Identifier: Apache-2.0
"""Wild command lines: invalid values of every option and argument, and wrong forms."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
import torch

import scoresde_fast as sf
from benchmarks.fuzz.cases import MAX_MESSAGE, SHOWN, SILENT, TRACEBACK, UNCLEAR, Case, Outcome, of_error
from benchmarks.fuzz.checkpoints import RECIPE
from benchmarks.fuzz.crafted import picture
from scoresde_fast import cli
from scoresde_fast.checkpoints import save
from scoresde_fast.cli import COMMANDS, PROGRAM, main
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.files import write_json
from scoresde_fast.generate import generate
from tests.support.official_checkpoints import SMALL, official_file

FEW = "--solver ddim --steps 2 --batch-size 2"
LINES = {
    "sample": f"model {FEW} --seeds 0-1 --out new",
    "verify": "set",
    "inpaint": f"model a.png {FEW} --mask m.png --samples 1 --out new",
    "colorize": f"model a.png {FEW} --samples 1 --out new",
    "restore": f"model a.png {FEW} --operator sr:2 --samples 1 --out new",
    "eval": "set --metrics fid --few --reference set --resamples 0 --batch-size 2",
    "eval stats": "set --out new.npz --batch-size 2",
    "eval loss": "model set --batch-size 2",
    "likelihood": "model set --steps 2 --limit 1",
    "encode": "model set --steps 2 --out new.npz",
    "decode": "model codes.npz --steps 2 --out new",
    "interpolate": "model --seeds 0,1 --steps 2 --out new",
    "tune": "model --nfe 2 --seconds 1 --out new.json",
    "statistics": "model --out new.json",
    "train": "recipe.json --data set --out new",
    "bench": "--seconds 1 --nfe 1 --batch-size 1",
    "bench solvers": "model --seconds 1 --nfe 2 --samples 2 --no-timing --reference-steps 2",
    "convert": "checkpoint.pth new --config config.json",
    "env": "",
}
"""A short valid line of each command; its files are in the shared folder."""

INVALID: dict[str, list[str]] = {
    "INT": ["-1", "2.5", "x", "", "1e3", "nan", "0x10", "1" * 4400],
    "FLOAT": ["nan", "inf", "-inf", "x", "", "1e999", "-1"],
    "{": ["", "unknown", "-"],
    "--seeds": ["", "1-", "3-1", "1,1", "-1", "1.5", "x", "0-9223372036854775807",
                "0-99999999999999999999", "1;2", " "],
    "--shard": ["0/2", "3/2", "1/0", "1", "a/b", "1/2/3", "-1/2", ""],
    "--grid": ["", "unknown", "1,2", "1,x", "sigmas:", "nan,0.1", "1,1"],
    "--restart": ["", "0.1:0.3", "0.3:0.1:2:5", "nan:0.3:2:5", "0.1:0.3:-1:5", "0.1:5:2:5"],
    "--solver": ["", "DDIM", "unknown", "pc "],
    "--operator": ["", "unknown", "sr", "sr:0", "sr:-1", "sr:3.5", "sr:1000000000",
                   "blur:nan", "blur:-1", "blur:1e9", "box:1,2", "mask:", "mask:a.jpg",
                   "random:2", "random:nan"],
    "--device": ["", "gpu", "cuda:99", "cuda:x", "meta"],
    "--backend": ["", "unknown"],
    "--class": ["", "99", "-1", "unknown"],
    "--inputs": ["", "y", "y=", "=3", "y=nowhere.npy"],
    "--extractor": ["", "unknown"],
    "--corrector": ["", "unknown"],
    "--out": [""],
    "MODEL": ["", "unknown", "nowhere/model", "a.png", "set", "digits-vpp", "recipe.json", "x.py:y",
              "no.module:x", ".pth"],
    "IMAGES": ["", "unknown", "nowhere.png", "digits:unknown", "a.png@0", "model", "recipe.json"],
    "OUT": ["", "nowhere", "nowhere.npz", "a.png", "model"],
    "SOURCE": ["", "unknown", "nowhere.png", "digits:unknown", "recipe.json"],
    "DATA": ["", "unknown", "nowhere.png", "digits:unknown", "recipe.json"],
    "RECIPE": ["", "unknown", "nowhere.json", "a.png", "config.json"],
    "CHECKPOINT": ["", "nowhere.pth", "a.png", "model"],
}  # fmt: skip
"""Values that an option, an argument or a type does not take."""
VALID = {("--seed", "-1"), ("--rng-seed", "-1"), ("--guidance-scale", "-1"), ("--class-scale", "-1"), ("--scale", "-1"),
         ("--device", ""), ("--backend", "")}  # fmt: skip
"""Exceptions: values that may be valid."""
WILD = ["", "x" * 300, "a\nb", "../..", "/proc/self/mem", "/dev/null", "/dev/full", "~/x", "-", "\udcff",
        "s-{0..1000000000}.tar", "run[1].tar", "*.tar", "{}", "digits@99999999999", "cld-toy", "99999999999999999999",
        "9" * 400, "null", "a.png", "%s%n", "../new.npz", "x.h5"]  # fmt: skip
"""Values of which any may be valid for some option."""
UNUSED = ("verify", "eval")
"""Commands that, on a set, do not use the options for models."""
LONG = ("bench", "bench solvers", "tune", "statistics")
"""Commands whose valid lines take too long."""


format_error = cli._one_line


class _Option(NamedTuple):
    name: str
    type: str


def commands(random: Random, count: int, shared: Path) -> Iterator[Case]:
    """Lines with one invalid or wild value, or a wrong form; run in this process."""
    _write_files(shared)
    for _ in range(count):
        command = random.choice(list(LINES))
        options = _options(command)
        words = LINES[command].split()
        choice = random.random()
        if choice < 0.15:
            what, words = _wrong_form(random, command, words)
            invalid = what != "repeated"
        elif choice < 0.3 and words and not words[0].startswith("-"):
            # Another argument in the place of the first one.
            kind = next((option.name for option in options if not option.name.startswith("-")), "SOURCE")
            values = INVALID.get(kind, INVALID["SOURCE"])
            invalid = command in LONG or random.random() < 0.7
            words = [*command.split(), random.choice(values if invalid else WILD), *words[1:]]
        else:
            taking_values = [option for option in options if option.type and option.name.startswith("-")]
            option = random.choice(taking_values or [_Option("--unknown", "INT")])
            values = (
                INVALID.get(option.name) or INVALID.get(option.type[:1]) or INVALID.get(option.type.strip("[]"), [])
            )
            invalid = bool(values) and (command in LONG or random.random() < 0.7)
            value = random.choice(values if invalid else WILD)
            invalid = invalid and command not in UNUSED and (option.name, value) not in VALID
            words = [*command.split(), *_without(words, option.name), f"{option.name}={value}"]
        line = " ".join(word if len(word) < 60 else f"{word[:50]}... ({len(word)})" for word in words)
        yield Case(command, ascii(line)[1:-1], partial(_run, words, invalid, shared))


def _wrong_form(random: Random, command: str, words: list[str]) -> tuple[str, list[str]]:
    forms = {
        "misspelt": [command[1] + command[0] + command[2:], *words],
        "unknown option": [*command.split(), *words, "--unknown", "3"],
        "without a value": [*command.split(), *words, "--out"],
        "one argument too many": [*command.split(), *words, "more", "more"],
        "without its arguments": [
            *command.split(),
            *[word for word in words if word.startswith("-")][:0],
            "--raw",
            "x",
        ],
        "repeated": [*command.split(), *words, *words[-2:]],
        "upper case": [command.upper(), *words],
        "a value for a flag": [*command.split(), *words, "--strict=maybe"],
    }
    what = random.choice(list(forms))
    return what, forms[what]


def _without(words: list[str], name: str) -> list[str]:
    """Return the words without an option and its value."""
    if name not in words:
        return words
    index = words.index(name)
    return words[:index] + words[index + 2 :]


@cache
def _options(command: str) -> list[_Option]:
    """Return the options and arguments of a command, from its help."""
    output = _stream()
    with redirect_stdout(output), suppress(SystemExit):
        main([*command.split(), "--help"])
    pattern = r"^│ (--[a-z-]+|[A-Z]{3,})(?:, --no-[a-z-]+)?(?: ([A-Z\[{]\S*))?"
    return [_Option(*match) for match in re.findall(pattern, _text(output), re.MULTILINE)]


def _write_files(folder: Path) -> None:
    """Write the files of `LINES`."""
    torch.manual_seed(0)
    model = sf.create(RECIPE)
    save(model, folder / "model")
    generate(sf.Sampler(model, solver="ddim", steps=2), range(4), folder / "set", grid=False, progress=False)
    (folder / "a.png").write_bytes(encode_png(picture()))
    mask = np.zeros((16, 16, 1), np.uint8)
    mask[:8] = 255
    (folder / "m.png").write_bytes(encode_png(mask))
    write_json(folder / "recipe.json", {"config": RECIPE})
    write_json(folder / "config.json", SMALL)
    official_file(folder / "checkpoint.pth")


def _run(words: list[str], invalid: bool, shared: Path, folder: Path) -> Outcome:
    for path in shared.iterdir():
        (folder / path.name).symlink_to(path)
    os.environ |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")}
    output, errors = _stream(), _stream()
    caught: list[Exception] = []

    def keep(error: Exception) -> str:
        caught.append(error)
        return format_error(error)

    try:
        # The error that the line is made of tells whether its words are the package's own.
        with redirect_stdout(output), redirect_stderr(errors), patch.object(cli, "_one_line", keep):
            code = main(words)
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
    except BaseException as error:
        outcome = of_error(error)
        return Outcome(TRACEBACK, outcome.cause or f"{type(error).__name__} is not caught", str(error)[:SHOWN])
    text = _text(errors)
    if "Traceback" in text or code not in (0, 1, 2):
        return Outcome(TRACEBACK, f"exit code {code}", text[-SHOWN:])
    if code == 1 and words[0] != "verify":
        return Outcome(TRACEBACK, f"exit code {code}", text[-SHOWN:])
    if code == 0:
        if (folder / "~").exists():
            return Outcome(SILENT, "a folder named ~")
        return Outcome(SILENT, f"{words[-1].partition('=')[0]} accepted") if invalid else Outcome()
    if code == 1 or "╭─" in text:  # findings of verify, or a mistake in the usage, in a box
        return Outcome()
    last = (text.strip().splitlines() or [""])[-1]  # warnings may come first
    if not last.startswith(f"{PROGRAM}: ") or len(last) > MAX_MESSAGE:
        return Outcome(UNCLEAR, "too long" if last.startswith(PROGRAM) else "no sentence", text[-SHOWN:])
    return of_error(caught[-1]) if caught else Outcome()


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined]


assert {*LINES} == {*COMMANDS}
