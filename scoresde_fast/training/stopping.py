# SPDX-License-Identifier: Apache-2.0
"""Signals that stop a training run: the first lets the current step finish, a second one stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from scoresde_fast.interrupts import interrupt

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Ctrl-C, what job schedulers send to stop a job, and the end of the terminal, where Windows lacks the last."""
DEFAULTS = (signal.SIG_DFL, signal.default_int_handler, interrupt)
"""Handlers that are not the caller's own: those of Python, and that of the command line."""


@contextmanager
def requested_stop() -> Iterator[Callable[[], signal.Signals | None]]:
    """Yield a function that returns the stopping signal received within the block, or None.

    A second signal ends the block as `stop_by` does. Handlers of the caller's own, ignored signals (as under nohup)
    and threads other than the main one, which receives no signals, are left as they are.
    """
    received: signal.Signals | None = None

    def handler(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received is not None:
            stop_by(signal.Signals(number))
        received = signal.Signals(number)
        print(f"\n{received.name}: this step is finished and saved; a second signal stops at once", file=sys.stderr)

    is_main = threading.current_thread() is threading.main_thread()
    previous = {number: signal.getsignal(number) for number in SIGNALS if is_main}
    replaced = {number: default for number, default in previous.items() if default in DEFAULTS}
    for number in replaced:
        signal.signal(number, handler)
    try:
        yield lambda: received
    finally:
        for number, default in replaced.items():
            signal.signal(number, default)


def stop_by(number: signal.Signals) -> NoReturn:
    """Raise KeyboardInterrupt for SIGINT, otherwise SystemExit with the code of a shell, 128 + ``number``."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
