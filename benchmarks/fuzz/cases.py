# SPDX-License-Identifier: Apache-2.0
"""A case of a fuzz and its outcome, and the judgement of errors."""

from __future__ import annotations

import linecache
import os
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

RIGHT, TRACEBACK, UNCLEAR, SILENT, UNDETECTED = "right", "traceback", "unclear", "silent", "undetected"
CRASH, HANG, HEAVY = "crash", "hang", "heavy"
FAULTS = {
    TRACEBACK: "an error that the command line does not turn into a sentence",
    SILENT: "an invalid input is accepted, or a file passed over, without a word",
    CRASH: "a signal ends the process",
    HANG: "no answer within the kind's time limit",
    UNDETECTED: "verify calls a damaged set sound",
    HEAVY: "the answer is right, but takes more time or memory than the kind allows",
    UNCLEAR: "the sentence is another library's, is empty, or is longer than 2 000 characters",
}
"""The verdicts other than `RIGHT`."""
MAX_MESSAGE, SHOWN = 2000, 160
PACKAGE = f"{os.sep}scoresde_fast{os.sep}"
SENTENCES = (ValueError, OSError, ArithmeticError)
"""Errors that the command line prints as one sentence, except ZeroDivisionError and OverflowError."""


@dataclass(frozen=True)
class Outcome:
    """What the package did.

    Attributes:
        verdict: `RIGHT` or one of `FAULTS`.
        cause: what the outcomes of one fault have in common, for example the function that raised.
        message: of the error, or what else tells this outcome from others of the same cause.
        tries: number of tries that the case has made.
    """

    verdict: str = RIGHT
    cause: str = ""
    message: str = ""
    tries: int = 1


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        place: what the input attacks: a part of a file, an option, a command.
        what: the input, short enough to repeat it by hand.
        run: tries the input and judges the answer; its argument is the result of ``prepare``.
        prepare: makes the input in a new folder, which is its argument; neither its time nor its memory counts.
    """

    place: str
    what: str
    run: Callable[[Any], Outcome]
    prepare: Callable[[Path], Any] = lambda folder: folder


@dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
        name, title: for tables.
        make: returns the cases: from a random generator, their number, and a folder for what the cases share.
        cases: number of cases in a run of ten minutes.
        share: part of the time of a run.
        hang_seconds: wall-clock time after which a case hangs.
        cpu_seconds, megabytes: limits of one case; None for no limit.
        separate: whether each case has a process of its own, because one may damage the memory of the next.
    """

    name: str
    title: str
    make: Callable[[Random, int, Path], Iterable[Case]]
    cases: int
    share: float
    hang_seconds: float = 10.0
    cpu_seconds: float | None = None
    megabytes: float | None = None
    separate: bool = False


def judged(
    call: Callable[[], object],
    accepted: Callable[[object], str] = lambda result: "",
    *,
    sentences: tuple[type[Exception], ...] = (),
) -> Outcome:
    """Return the outcome of ``call``.

    An error is right if it is one of `SENTENCES`, or one of ``sentences`` that the package itself raises, and clear.
    A result is right if ``accepted`` of it is empty, or if a warning was issued; otherwise ``accepted`` says what is
    wrong.
    """
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            return of_error(error, sentences)
        wrong = accepted(result)
    own = [warning for warning in issued if PACKAGE in warning.filename or issubclass(warning.category, UserWarning)]
    return Outcome(SILENT, wrong) if wrong and not own else Outcome()


def of_error(error: BaseException, sentences: tuple[type[Exception], ...] = ()) -> Outcome:
    """Return the outcome of a call that raised ``error``; ``sentences`` as of `judged`."""
    message, cause = " ".join(str(error).split()), cause_of(error)
    shown = message[:SHOWN]
    # The package's own sentences come from a raise statement; an error of a file has its name.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    own = PACKAGE in frame.filename and linecache.getline(frame.filename, frame.lineno or 0).strip().startswith("raise")
    named = isinstance(error, OSError) and error.filename is not None
    is_sentence = isinstance(error, SENTENCES) and not isinstance(error, (ZeroDivisionError, OverflowError))
    if not is_sentence and not (own and isinstance(error, sentences)):
        return Outcome(TRACEBACK, cause, shown)
    if not message or len(message) > MAX_MESSAGE:
        return Outcome(UNCLEAR, f"{'too long' if message else 'empty'}: {cause}", shown)
    return Outcome() if own or named else Outcome(UNCLEAR, f"another library's words: {cause}", shown)


def cause_of(error: BaseException) -> str:
    """Return the type of an error and the last function of the package that it passed."""
    ours = [frame for frame in traceback.extract_tb(error.__traceback__) if PACKAGE in frame.filename]
    where = f" in {ours[-1].filename.rpartition(PACKAGE)[2]}:{ours[-1].name}" if ours else ""
    return f"{type(error).__name__}{where}"
