# SPDX-License-Identifier: Apache-2.0
"""One bar over images that also moves while a batch is under way, and the line that closes a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

_FORMAT = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Bar:
    """A bar on stderr over ``total`` images; nothing where stderr is no terminal, or in a process other than rank 0."""

    def __init__(self, total: int, finished: int, enabled: bool) -> None:
        shown = enabled and os.environ.get("RANK", "0") == "0"
        self._tqdm = tqdm(
            total=total, initial=finished, unit=" images", bar_format=_FORMAT, disable=None if shown else True
        )

    def batch(self, images: int, nfe: int | None) -> Callable[[int, int], None]:
        """``on_step(done, of)`` for a batch that adds ``images`` images by ``nfe`` evaluations, or by nobody knows."""
        start = self._tqdm.n

        def on_step(done: int, of: int) -> None:
            self._tqdm.set_postfix_str(f"{done / of:.0%} of the way" if nfe is None else f"NFE {done}/{of}", False)
            self._tqdm.update(start + images * done / of - self._tqdm.n)

        return on_step

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._tqdm.close()


@dataclass(frozen=True)
class Report:
    """What a run did: images made now and found finished, evaluations an image, seconds, and the file to look at."""

    made: int
    found: int
    nfe: int | None
    seconds: float
    look_at: Path

    def __str__(self) -> str:
        found = f"{self.found} images were there already"
        if not self.made:
            return f"nothing to do, {found} -> {self.look_at}"
        rate = f"{self.made / self.seconds:.2f} images/s"
        each = "" if self.nfe is None else f" ({self.nfe} NFE each)"
        made = f"{self.made} images{each} in {self.seconds:.1f} s, {rate}"
        return f"{made}{f', {found}' if self.found else ''} -> {self.look_at}"
