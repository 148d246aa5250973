# SPDX-License-Identifier: Apache-2.0
"""Runs cases in forked processes, which may crash, hang or fill the memory."""

from __future__ import annotations

import faulthandler
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from random import Random

from benchmarks.fuzz.cases import CRASH, HANG, HEAVY, RIGHT, Case, Kind, Outcome, cause_of

MEMORY = 3 << 30
"""Address space that a case may add to its process."""
PREPARATION_SECONDS = 120.0
DUMP_SECONDS = 0.3
STATUS, PEAK = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Result:
    """A case's outcome; ``index`` is its number within the kind."""

    index: int
    place: str
    what: str
    outcome: Outcome


@dataclass
class _Worker:
    """A process that runs the cases ``first``, ``first + step``, ...; ``current`` is the case under way."""

    process: BaseProcess
    pipe: Connection
    stack: Path
    first: int
    deadline: float
    current: tuple[int, str, str] | None = None


def run_cases(
    kind: Kind, count: int, seed: str, folder: Path, *, processes: int = 2, until: float = float("inf")
) -> Iterator[Result]:
    """Yield the results of ``count`` cases of a kind, in the order in which they end.

    This process must not have threads. It forks, but runs no case itself.

    Args:
        until: the time, of `time.monotonic`, after which no case starts.
    """
    workers = [_start(kind, count, seed, folder, first, processes) for first in range(min(processes, count))]
    try:
        while workers:
            ready = wait([worker.pipe for worker in workers], timeout=0.2)
            for worker in list(workers):
                following = None
                if worker.pipe in ready:
                    following = yield from _receive(worker, kind, processes)
                elif time.monotonic() > worker.deadline and worker.process.is_alive():
                    yield _ended(worker, Outcome(HANG, _where(worker)))
                    following = _next_index(worker, processes)
                if following is not None or time.monotonic() > until:
                    _stop(worker)
                    workers.remove(worker)
                    if following is not None and following < count and time.monotonic() < until:
                        workers.append(_start(kind, count, seed, folder, following, processes))
    finally:
        for worker in workers:
            _stop(worker)


def _receive(worker: _Worker, kind: Kind, processes: int) -> Generator[Result, None, int | None]:
    """Yield the result that a worker sends, if any; return the case to go on with if the worker has ended."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        if worker.current is None and worker.process.exitcode == 0:
            return sys.maxsize  # it has run all its cases
        yield _ended(worker, Outcome(CRASH, _end(worker.process)))
        return _next_index(worker, processes) if worker.current else sys.maxsize
    if isinstance(message, Outcome):
        yield _ended(worker, message)
        worker.current = None
    else:
        worker.current = message
        worker.deadline = time.monotonic() + kind.hang_seconds
    return None


def _ended(worker: _Worker, outcome: Outcome) -> Result:
    return Result(*(worker.current or (worker.first, "preparation", "the cases' common files")), outcome)


def _next_index(worker: _Worker, processes: int) -> int:
    return (worker.current[0] if worker.current else worker.first) + processes


def _start(kind: Kind, count: int, seed: str, folder: Path, first: int, step: int) -> _Worker:
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    own = folder / f"from{first}"
    (own / "shared").mkdir(parents=True)
    process = context.Process(target=_work, args=(kind, count, seed, own, first, step, theirs))
    process.start()
    theirs.close()
    return _Worker(process, ours, own / "stack", first, time.monotonic() + PREPARATION_SECONDS)


def _where(worker: _Worker) -> str:
    """Return the innermost functions of a process that hangs."""
    if worker.process.pid is not None:
        with suppress(ProcessLookupError):
            os.kill(worker.process.pid, signal.SIGUSR1)
    time.sleep(DUMP_SECONDS)
    frames = re.findall(r'File "([^"]+)", line \d+ in (\S+)', worker.stack.read_text())
    return " < ".join(f"{'/'.join(Path(file).parts[-2:])}:{function}" for file, function in frames[:3])


def _stop(worker: _Worker) -> None:
    """End a worker and the processes that it started."""
    if worker.process.pid is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(worker.process.pid, signal.SIGKILL)
    worker.process.join()
    worker.pipe.close()


def _work(kind: Kind, count: int, seed: str, folder: Path, first: int, step: int, pipe: Connection) -> None:
    """Run every ``step``-th case from ``first`` on, and send (index, place, what) before and the outcome after each."""
    os.setpgid(0, 0)
    faulthandler.disable()
    with open(os.devnull, "r+") as nothing:
        for stream in (0, 1, 2):
            os.dup2(nothing.fileno(), stream)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limit = _status("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    stack = (folder / "stack").open("w")
    faulthandler.register(signal.SIGUSR1, stack, all_threads=False)
    try:
        cases = list(kind.make(Random(seed), count, folder / "shared"))
    except Exception as error:  # of the fuzz itself
        pipe.send(Outcome(CRASH, f"in the fuzz: {cause_of(error)}", str(error)))
        return
    for index in range(first, len(cases), step):
        pipe.send((index, cases[index].place, cases[index].what))
        pipe.send((_separate if kind.separate else _measured)(kind, cases[index], folder / "case"))
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _separate(kind: Kind, case: Case, folder: Path) -> Outcome:
    """Run a case in a process of its own and return its outcome."""
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=lambda: theirs.send(_measured(kind, case, folder)))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        return Outcome(CRASH, _end(process))
    finally:
        process.join()
        ours.close()


def _end(process: BaseProcess) -> str:
    """Return the signal or the exit code that ended a process."""
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _measured(kind: Kind, case: Case, folder: Path) -> Outcome:
    """Run a case in an empty folder and return its outcome, with the limits of the kind applied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    prepared = case.prepare(folder)
    with suppress(OSError):
        PEAK.write_text("5")  # the peak of the resident memory starts again
    memory, seconds = _status("VmRSS"), time.process_time()
    try:
        outcome = case.run(prepared)
    except Exception as error:  # of the fuzz itself, which must not pass for an answer
        return Outcome(CRASH, f"in the fuzz: {cause_of(error)}", str(error))
    outcome = replace(outcome, message=outcome.message.replace(f"{folder}{os.sep}", ""))
    seconds, memory = time.process_time() - seconds, _status("VmHWM") - memory
    if outcome.verdict == RIGHT and kind.cpu_seconds is not None and seconds > kind.cpu_seconds:
        return Outcome(HEAVY, f"more than {kind.cpu_seconds:g} s", tries=outcome.tries)
    if outcome.verdict == RIGHT and kind.megabytes is not None and memory > kind.megabytes * 2**20:
        return Outcome(HEAVY, f"more than {kind.megabytes:g} MB", tries=outcome.tries)
    return outcome


def _status(name: str) -> int:
    """Return a size of this process in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
