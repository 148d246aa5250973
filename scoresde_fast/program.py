# SPDX-License-Identifier: Apache-2.0
"""A program: a step table joined with a model and put on a device, as the step operations read it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scoresde_fast.ops.step_table import COLUMNS, CONTROL, WIDTH, DeviceTable
from scoresde_fast.phases import RowKind
from scoresde_fast.solvers import StepTable
from scoresde_fast.solvers.table import HISTORY, Row

EARLIER = HISTORY - 1
"""Earlier derived outputs that a row can read."""


@dataclass(frozen=True)
class Program:
    """A step table made ready for a device.

    Attributes:
        table: the rows, on the host.
        device_table: every coefficient that a run needs, folded in float64, then float32.
        labels: (rows,) float32, the network's time labels.
        kinds: for each row what the loop's code must know of it.
    """

    table: StepTable
    device_table: DeviceTable
    labels: Tensor
    kinds: tuple[RowKind, ...]

    @classmethod
    def of(
        cls,
        table: StepTable,
        labels: npt.NDArray[np.float64],
        output_scale: npt.NDArray[np.float64],
        device: torch.device | str,
    ) -> Program:
        """Join a table with a model's labels and output scale (rows,) at the table's times.

        Raises:
            ValueError: a row without an evaluation reads four earlier outputs, or a Langevin row derives something
                else than a multiple of the score.
        """
        coefficients = np.zeros((len(table.rows), WIDTH))
        control = np.zeros((len(table.rows), len(CONTROL)), dtype=np.int64)
        kinds, stored = [], 0
        for index, (row, scale) in enumerate(zip(table.rows, output_scale, strict=True)):
            coefficients[index] = _fold(row, float(scale), index)
            control[index] = (table.draws[index] or 0, stored, row.save)
            kinds.append(_kind(row, coefficients[index]))
            stored += stores(row)
        control[:, CONTROL.draw] = control[:, CONTROL.draw].astype(np.uint32).astype(np.int32)
        device_table = DeviceTable(
            torch.from_numpy(coefficients).to(device, torch.float32), torch.from_numpy(control).to(device, torch.int32)
        )
        return cls(table, device_table, torch.from_numpy(labels).to(device, torch.float32), tuple(kinds))

    @property
    def keeps_state(self) -> bool:
        """Whether any row reads or writes the saved state."""
        return any(kind.saves for kind in self.kinds)

    @property
    def history(self) -> int:
        """How many derived outputs must be kept: the most that any row reads."""
        return max((kind.earlier for kind in self.kinds), default=0)


def stores(row: Row) -> bool:
    """Whether the row's derived output is one that later rows count: every evaluation's but a corrector's."""
    return row.derive is not None and row.langevin is None


def _kind(row: Row, coefficients: npt.NDArray[np.float64]) -> RowKind:
    earlier = np.flatnonzero(coefficients[COLUMNS.earlier1 :][:EARLIER]) + 1
    return RowKind(
        evaluates=row.derive is not None,
        langevin=row.langevin is not None,
        noise=bool(row.noise != 0),
        saves=bool(row.save or row.saved != 0),
        earlier=int(np.max(earlier, initial=0)),
    )


def _fold(row: Row, output_scale: float, index: int) -> npt.NDArray[np.float64]:
    """The row's coefficients by `Columns`.  The score is ``output_scale`` times the network's output."""
    folded = np.zeros(WIDTH)
    state, saved, *outputs, noise = row.coefficients()
    folded[COLUMNS.state], folded[COLUMNS.saved], folded[COLUMNS.noise] = state, saved, noise
    if row.derive is None:
        if outputs[-1] != 0:
            raise ValueError(
                f"row {index + 1} has no evaluation and reads {HISTORY} earlier outputs; at most {EARLIER}"
            )
        folded[COLUMNS.earlier1 :][:EARLIER] = outputs[:EARLIER]
        return folded
    from_state, from_score = row.derive
    folded[COLUMNS.derive_state], folded[COLUMNS.derive_output] = from_state, from_score * output_scale
    if row.langevin is not None:
        if from_state != 0:
            raise ValueError(f"row {index + 1} is a Langevin step and must derive the score alone, not {row.derive}")
        folded[COLUMNS.langevin] = row.langevin
        return folded
    # The newest output is a sum of state and network output: its share goes to both, so that no kernel makes it twice.
    folded[COLUMNS.state] += outputs[0] * folded[COLUMNS.derive_state]
    folded[COLUMNS.output] = outputs[0] * folded[COLUMNS.derive_output]
    folded[COLUMNS.earlier1 :][:EARLIER] = outputs[1:]
    return folded
