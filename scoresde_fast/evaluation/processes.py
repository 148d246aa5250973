# SPDX-License-Identifier: Apache-2.0
"""Several processes under torchrun: which one this is, and how what each has found comes together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch.distributed

from scoresde_fast.generate.seeds import Shard

PATIENCE = timedelta(hours=24)
"""How long a process waits for the others: the first one may have a reference to compute that they do not wait for."""
T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """This process is number ``rank`` of ``count``."""

    rank: int = 0
    count: int = 1

    def gather(self, found: T) -> list[T] | None:
        """What every process has found, by rank, on process 0; None on the others."""
        if self.count == 1:
            return [found]
        everything: list[T] | None = [found] * self.count if self.rank == 0 else None
        torch.distributed.gather_object(found, everything)
        return everything


@contextmanager
def torchrun_processes() -> Iterator[Processes]:
    """The processes that torchrun started, connected by gloo while the block runs; without torchrun, this one alone.

    Raises:
        ValueError: as `Shard.of_process`.
    """
    shard = Shard.of_process()
    if shard.count == 1:
        yield Processes()
        return
    torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Processes(shard.index, shard.count)
    finally:
        torch.distributed.destroy_process_group()
