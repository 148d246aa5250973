# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast bench``: sampling against what a competent user would write, on this machine."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

FLAG = arg(help_behavior_hint="")
OWN = arg(help_behavior_hint="(default: each network's own)")


@dataclass(frozen=True)
class Bench:
    """Time sampling line by line: plain PyTorch, tuned PyTorch, and this package; with the error of each."""

    names: Positional[tuple[str, ...]] = ()
    """Embedded models and presets (digits-ve ve/cifar10_ncsnpp_continuous); none: seven of them."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""
    batch_size: Annotated[int | None, OWN] = None
    """Images at once."""
    nfe: Annotated[int | None, OWN] = None
    """Network evaluations of a run, about."""
    seconds: float = 20.0
    """Time for each network's interleaved rounds; preparation and first runs come on top."""
    full: Annotated[bool, FLAG] = False
    """Also what takes many minutes: compiling every network, 16 bits on a CPU without such instructions."""
    threads: Annotated[int | None, arg(help_behavior_hint="(default: torch's)")] = None
    """CPU threads."""
    out: Annotated[Path | None, FLAG] = None
    """Write the result as JSON."""
    html: Annotated[Path | None, FLAG] = None
    """Write one page to look at, everything in it."""

    def run(self) -> None:
        import torch

        from scoresde_fast.bench.report import require_libraries, write_html
        from scoresde_fast.bench.result import bench, write_json
        from scoresde_fast.bench.waterfall import Effort
        from scoresde_fast.cli.memory import keep_freed_memory

        keep_freed_memory()  # for every line alike
        if self.html is not None:
            require_libraries()  # before the minutes of measuring
        if self.threads is not None:
            if self.threads < 1:
                raise ValueError(f"--threads {self.threads} cannot compute; it is at least 1")
            torch.set_num_threads(self.threads)
        result = bench(
            self.names,
            device=self.device,
            batch=self.batch_size,
            nfe=self.nfe,
            effort=Effort(self.seconds, self.full),
            command=shlex.join(["scoresde-fast", *sys.argv[1:]]),
        )
        if self.out is not None:
            write_json(result, self.out)
            print(self.out)
        if self.html is not None:
            write_html(result, self.html)
            print(self.html)
