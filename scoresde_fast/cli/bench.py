# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast bench``: sampling against what a competent user would write; ``bench solvers``: all solvers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from scoresde_fast.cli.groups import NO_DEFAULT, Flag

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
    full: Flag = False
    """Also what takes many minutes: compiling every network, 16 bits on a CPU without such instructions."""
    threads: Annotated[int | None, arg(help_behavior_hint="(default: torch's)")] = None
    """CPU threads."""
    out: Annotated[Path | None, NO_DEFAULT] = None
    """Write the result as JSON while it grows."""
    html: Annotated[Path | None, NO_DEFAULT] = None
    """Write one page to look at, everything in it."""

    def run(self) -> None:
        from scoresde_fast.bench.pages import require_libraries
        from scoresde_fast.bench.report import write_html
        from scoresde_fast.bench.result import bench
        from scoresde_fast.bench.waterfall import Effort
        from scoresde_fast.cli.threads import use_threads
        from scoresde_fast.devices import keep_freed_memory

        keep_freed_memory()  # for every line alike
        if self.html is not None:
            require_libraries()  # before the minutes of measuring
        use_threads(self.threads)
        result = bench(
            self.names,
            device=self.device,
            batch=self.batch_size,
            nfe=self.nfe,
            effort=Effort(self.seconds, self.full),
            keep=lambda found: found.write(self.out) if self.out is not None else None,
        )
        if self.out is not None:
            print(self.out)
        if self.html is not None:
            write_html(result, self.html)
            print(self.html)


@dataclass(frozen=True)
class BenchSolvers:
    """Compare every solver on one model: quality against network evaluations and time, and which one to use."""

    model: Positional[str]
    """digits-vp or another embedded model of images, a folder of one like it, or where the score is exact mixture-ve,
    mixture-vp, mixture-subvp, mixture-cld."""
    nfe: tuple[int, ...] = (5, 10, 15, 20, 25, 50, 100)
    """Budgets of network evaluations; each line takes as many steps as its budget allows."""
    samples: Annotated[int | None, arg(help_behavior_hint="(default: 2 000 images or 20 000 numbers)")] = None
    """Samples a line, of the same seeds for all."""
    solvers: Annotated[tuple[str, ...], arg(help_behavior_hint="(default: all that the model's SDE has)")] = ()
    """Which solvers."""
    grids: Annotated[tuple[str, ...], arg(help_behavior_hint="(default: all)")] = ()
    """Which time grids."""
    plugin: Annotated[Path | None, NO_DEFAULT] = None
    """A Python file whose functions join by the decorator @scoresde_fast.solver."""
    reference_steps: Annotated[int | None, NO_DEFAULT] = None
    """Also the published sampler with so many steps (1000), to measure the others by."""
    seconds: Annotated[float | None, NO_DEFAULT] = None
    """No line begins that would end later; the most telling come first, and what was left out is listed."""
    timing_seconds: Annotated[float | None, arg(help_behavior_hint="(default: 120, or 30 for a mixture)")] = None
    """Time for the interleaved rounds, after all lines, that tell what each costs."""
    no_timing: Flag = False
    """Lines are not timed: the same command without this does so later, on a machine that is quiet."""
    batch_size: Annotated[int | None, arg(help_behavior_hint="(default: 100 images or 20 000 numbers)")] = None
    """Samples at once."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """What the network computes in; auto: bf16 on a GPU that has it, fp32 elsewhere."""
    threads: Annotated[int | None, arg(help_behavior_hint="(default: torch's)")] = None
    """CPU threads."""
    out: Annotated[Path | None, NO_DEFAULT] = None
    """Write the result as JSON while it grows. The same command goes on with what is there."""
    html: Annotated[Path | None, NO_DEFAULT] = None
    """Write one page to look at, everything in it."""

    def run(self) -> None:
        from scoresde_fast.bench.pages import require_libraries
        from scoresde_fast.bench.solvers.compare import compare
        from scoresde_fast.bench.solvers.contender import Rules
        from scoresde_fast.bench.solvers.page import write_html
        from scoresde_fast.bench.solvers.plugin import load_solvers
        from scoresde_fast.cli.threads import use_threads
        from scoresde_fast.devices import keep_freed_memory

        keep_freed_memory()
        if self.html is not None:
            require_libraries()
        use_threads(self.threads)
        rules = Rules(
            budgets=self.nfe,
            solvers=self.solvers,
            extra=load_solvers(self.plugin) if self.plugin is not None else (),
            grids=self.grids,
            reference_steps=self.reference_steps,
            device=self.device,
            precision=self.precision,
        )
        result = compare(
            self.model,
            rules,
            samples=self.samples,
            batch_size=self.batch_size,
            seconds=self.seconds,
            timing_seconds=0.0 if self.no_timing else self.timing_seconds,
            out=self.out,
        )
        print(*result["verdict"]["sentences"], sep="\n")
        if self.out is not None:
            print(self.out)
        if self.html is not None:
            write_html(result, self.html)
            print(self.html)
