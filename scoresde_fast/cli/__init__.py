# SPDX-License-Identifier: Apache-2.0
"""The command ``scoresde-fast``: each subcommand is a frozen dataclass of options with a method ``run()``.

tyro parses the options. Modules import torch only inside ``run()``, so that ``--help`` and usage errors respond fast.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Protocol

import tyro

from scoresde_fast import __version__
from scoresde_fast.cli.bench import Bench, BenchSolvers
from scoresde_fast.cli.conditional import Colorize, Inpaint, Restore
from scoresde_fast.cli.evaluate import Eval, EvalLoss, EvalStats
from scoresde_fast.cli.models import Convert, Train
from scoresde_fast.cli.options import PATHS
from scoresde_fast.cli.probability_flow import Decode, Encode, Interpolate, Likelihood
from scoresde_fast.cli.sample import Sample, Verify
from scoresde_fast.cli.tune import Statistics, Tune
from scoresde_fast.errors import INTERRUPTED, INTERRUPTED_MESSAGE, RENAMED, unknown_message

PROGRAM = "scoresde-fast"
PIPE_CLOSED = 141
"""Exit code if the reader of the output has gone, as after SIGPIPE."""
PARSING = (tyro.conf.OmitArgPrefixes, tyro.conf.DisallowNone, tyro.conf.PositionalMetavarFromFieldName)


class Command(Protocol):
    """A subcommand: its fields are the options, and its docstring is the help text."""

    def run(self) -> None: ...


@dataclass(frozen=True)
class Env:
    """Print versions, devices and backends, and why a backend is unavailable, for bug reports."""

    def run(self) -> None:
        from scoresde_fast.environment import environment

        print(environment())


COMMANDS: dict[str, Callable[..., Command]] = {
    "sample": Sample,
    "verify": Verify,
    "inpaint": Inpaint,
    "colorize": Colorize,
    "restore": Restore,
    "eval": Eval,
    "eval stats": EvalStats,
    "eval loss": EvalLoss,
    "likelihood": Likelihood,
    "encode": Encode,
    "decode": Decode,
    "interpolate": Interpolate,
    "tune": Tune,
    "statistics": Statistics,
    "train": Train,
    "bench": Bench,
    "bench solvers": BenchSolvers,
    "convert": Convert,
    "env": Env,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0; 2 after a one-line error message; 130 after Ctrl-C.

    If the reader of the output has gone, as in ``scoresde-fast --help | head -1``, the code is 141, without a message.
    """
    try:
        try:
            return _run(sys.argv[1:] if arguments is None else list(arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, sys.stdout.fileno())  # Python flushes it again at its end
        return PIPE_CLOSED


def _run(arguments: list[str]) -> int:
    """Run the command with these arguments and return the exit code."""
    if arguments == ["--version"]:
        print(f"{PROGRAM} {__version__}")
        return 0
    if arguments and not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        print(f"{PROGRAM}: {unknown_message('command', arguments[0], COMMANDS)}", file=sys.stderr)
        return 2
    if len(arguments) > 1 and (meant := _misspelt(*arguments[:2])):
        print(f"{PROGRAM}: unknown command {' '.join(arguments[:2])!r} - did you mean {meant!r}?", file=sys.stderr)
        return 2
    for former, option in RENAMED.items():
        if {f"--{former}", f"--no-{former}"} & {*arguments}:
            print(f"{PROGRAM}: --{former} is now called --{option.replace('_', '-')}", file=sys.stderr)
            return 2
    if " ".join(arguments[:2]) in COMMANDS:  # "eval stats" is one subcommand for tyro
        arguments = [" ".join(arguments[:2]), *arguments[2:]]
    try:
        with PATHS:
            command = _parse(arguments)
        with _one_line_warnings():
            command.run()
    except (ZeroDivisionError, OverflowError):
        raise  # a bug, unlike other arithmetic errors: NaN and failed integration
    except BrokenPipeError:
        raise
    except (ValueError, OSError, ArithmeticError) as error:
        print(f"{PROGRAM}: {_one_line(error)}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        from scoresde_fast.devices import out_of_memory

        if not out_of_memory(error):
            raise
        print(f"{PROGRAM}: out of memory; give a smaller batch size, or fewer or smaller images", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"\n{INTERRUPTED_MESSAGE}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _misspelt(first: str, second: str) -> str | None:
    """Return the command of two words that the arguments misspell, if the second can be nothing else."""
    words = f"{first} {second}"
    if words in COMMANDS or os.path.exists(second):
        return None
    of_two_words = [name for name in COMMANDS if name.startswith(f"{first} ")]
    return next(iter(get_close_matches(words, of_two_words, n=1, cutoff=0.85)), None)


def _parse(arguments: list[str]) -> Command:
    """Return the command that the arguments name; tyro suggests options of this command only, if one is unknown."""
    if arguments and arguments[0] in COMMANDS:
        name, *others = arguments
        return tyro.cli(COMMANDS[name], prog=f"{PROGRAM} {name}", args=others, config=PARSING)
    command: Command = tyro.extras.subcommand_cli_from_dict(
        COMMANDS,
        prog=PROGRAM,
        description="Sample from, evaluate and train score-based SDE models. --version prints the version.",
        args=arguments,
        config=PARSING,
    )
    return command


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Show warnings as one line, without the place in the code."""
    previous = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{PROGRAM}: {' '.join(str(message).split())}\n"
    try:
        yield
    finally:
        warnings.formatwarning = previous


def _one_line(error: Exception) -> str:
    """Format the message of an error as one line."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split())
