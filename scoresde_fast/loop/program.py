# SPDX-License-Identifier: Apache-2.0
"""Programs: step tables joined with a model and put on a device, and the patterns of rows that repeat in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops.step_table import COLUMNS, CONTROL, PAIR_COLUMNS, PAIR_WIDTH, WIDTH, DeviceTable
from scoresde_fast.solvers import StepTable
from scoresde_fast.solvers.table import HISTORY, AnyRow, PairRow, Row

EARLIER = HISTORY - 1
"""Earlier derived outputs that a row can read."""
MAX_PATTERN = 8
"""Rows of the longest pattern that is searched for."""


class RowKind(NamedTuple):
    """What the Python code of the loop must know of a row; all else is a number in a table on the device.

    ``saves``: the row reads or writes the saved state.  ``earlier``: how many earlier derived outputs it reads.
    """

    evaluates: bool
    langevin: bool
    noise: bool
    saves: bool
    earlier: int


Pattern = tuple[RowKind, ...]


@dataclass(frozen=True)
class Phase:
    """Consecutive rows: ``repeats`` times the rows of ``pattern``."""

    pattern: Pattern
    repeats: int


@dataclass(frozen=True)
class Program:
    """A step table on a device.

    Attributes:
        table: the rows, on the host.
        device_table: every coefficient of a run, folded in float64 and rounded to float32.
        labels: (rows,) float32, the network's time labels.
        kinds: the kind of each row.
        pairs: whether states are pairs of position and velocity.
    """

    table: StepTable
    device_table: DeviceTable
    labels: Tensor
    kinds: tuple[RowKind, ...]
    pairs: bool

    @classmethod
    def of_model(cls, model: ScoreFunction, table: StepTable, device: torch.device | str) -> Program:
        """Join a table with a model; the errors are those of `Program.of`."""
        network = model.parametrisation
        labels, output_scale, state_scale = (
            at(table.times) for at in (network.labels, network.output_scale, network.state_scale)
        )
        return cls.of(table, labels, output_scale, device, state_scale)

    @classmethod
    def of(
        cls,
        table: StepTable,
        labels: npt.NDArray[np.float64],
        output_scale: npt.NDArray[np.float64],
        device: torch.device | str,
        state_scale: npt.NDArray[np.float64] | None = None,
    ) -> Program:
        """Join a table with a network's labels, output scale and state scale (rows,) at the table's times.

        The score is ``output_scale`` times the network's output plus ``state_scale`` (None: 0) times the state, or on
        pairs times the velocity.

        Raises:
            ValueError: a row without an evaluation reads four earlier outputs, or a Langevin row derives something
                other than a multiple of the score.
        """
        coefficients = np.zeros((len(table.rows), PAIR_WIDTH if table.pairs else WIDTH))
        control = np.zeros((len(table.rows), len(CONTROL)), dtype=np.int64)
        kinds, stored = [], 0
        state_scale = np.zeros_like(output_scale) if state_scale is None else state_scale
        scales = zip(output_scale.tolist(), state_scale.tolist(), strict=True)
        for index, (row, (of_output, of_state)) in enumerate(zip(table.rows, scales, strict=True)):
            coefficients[index] = (
                _fold_pair(row, of_output, of_state, index)
                if isinstance(row, PairRow)
                else _fold(row, of_output, of_state, index)
            )
            control[index] = CONTROL._replace(draw=table.draws[index] or 0, slot=stored, save=row.save)
            kinds.append(_kind(row))
            stored += stores(row)
        control[:, CONTROL.draw] = control[:, CONTROL.draw].astype(np.uint32).astype(np.int32)
        device_table = DeviceTable(
            torch.from_numpy(coefficients).to(device, torch.float32), torch.from_numpy(control).to(device, torch.int32)
        )
        return cls(table, device_table, torch.from_numpy(labels).to(device, torch.float32), tuple(kinds), table.pairs)

    @property
    def keeps_state(self) -> bool:
        """Whether any row reads or writes the saved state."""
        return any(kind.saves for kind in self.kinds)

    @property
    def history(self) -> int:
        """How many derived outputs the run keeps: the most that any row reads."""
        return max((kind.earlier for kind in self.kinds), default=0)


def stores(row: AnyRow) -> bool:
    """Return whether later rows can read the row's derived output: that of every evaluation but a corrector's."""
    return row.derive is not None and row.langevin is None


def _kind(row: AnyRow) -> RowKind:
    # A row without an evaluation combines earlier outputs only.
    earlier = row.outputs[row.derive is not None :]
    read = [k + 1 for k, factor in enumerate(earlier) if np.asarray(factor, dtype=float).any()]
    return RowKind(
        evaluates=row.derive is not None,
        langevin=row.langevin is not None,
        noise=row.has_noise,
        saves=bool(row.save or np.count_nonzero(row.saved)),
        earlier=max(read, default=0),
    )


def _require_readable(row: AnyRow, index: int) -> None:
    if row.derive is None and len(row.outputs) > EARLIER and np.count_nonzero(row.outputs[EARLIER]):
        raise ValueError(f"row {index + 1} has no evaluation and reads {HISTORY} earlier outputs; at most {EARLIER}")


def _fold(row: Row, output_scale: float, state_scale: float, index: int) -> npt.NDArray[np.float64]:
    """Return the row's coefficients by `Columns`, those of the newest output spread over state and network output."""
    folded = np.zeros(WIDTH)
    folded[COLUMNS.state], folded[COLUMNS.saved], folded[COLUMNS.noise] = row.state, row.saved, row.noise
    earlier = folded[COLUMNS.earlier1 :][:EARLIER]
    _require_readable(row, index)
    if row.derive is None:
        earlier[: len(row.outputs)] = row.outputs[:EARLIER]
        return folded
    from_score = row.derive[1]
    from_state = row.derive[0] + from_score * state_scale
    folded[COLUMNS.derive_state], folded[COLUMNS.derive_output] = from_state, from_score * output_scale
    if row.langevin is not None:
        if from_state != 0:
            raise ValueError(
                f"row {index + 1} is a Langevin step, which needs a multiple of the network's output; its own also "
                f"contains {from_state:g} times the state: choose corrector='none' for a model with a mixed score"
            )
        folded[COLUMNS.langevin] = row.langevin
        return folded
    newest, *older = row.outputs or (0.0,)
    # The newest output is a sum of state and network output, so its coefficient is spread over the two of them.
    folded[COLUMNS.state] += newest * folded[COLUMNS.derive_state]
    folded[COLUMNS.output] = newest * folded[COLUMNS.derive_output]
    earlier[: len(older)] = older
    return folded


def _fold_pair(row: PairRow, output_scale: float, state_scale: float, index: int) -> npt.NDArray[np.float64]:
    """As `_fold`, by `PairColumns`; the score is that of the velocity."""
    columns, folded = PAIR_COLUMNS, np.zeros(PAIR_WIDTH)
    outputs, state = [np.asarray(matrix) for matrix in row.outputs], np.asarray(row.state)
    _require_readable(row, index)
    if row.derive is not None:
        from_score = row.derive[1]
        from_state = row.derive[0] + np.outer(from_score, [0.0, state_scale])
        from_output = from_score * output_scale
        newest = outputs.pop(0) if outputs else np.zeros((2, 2))
        state = state + newest @ from_state
        folded[columns.output : columns.earlier1] = newest @ from_output
        folded[columns.derive_state : columns.derive_output] = from_state.ravel()
        folded[columns.derive_output :] = from_output
    folded[columns.state : columns.saved] = state.ravel()
    folded[columns.saved : columns.output] = np.ravel(row.saved)
    for k, matrix in enumerate(outputs[:EARLIER]):
        folded[columns.earlier1 + 4 * k :][:4] = matrix.ravel()
    folded[columns.noise : columns.derive_state] = row.noise[[0, 1, 1], [0, 0, 1]]
    return folded


def split(kinds: Sequence[RowKind]) -> list[Phase]:
    """Return the phases of a run in order, each the pattern whose repetitions reach furthest; the shortest of several.

    Rows that begin no repetition are joined into patterns that run once.
    """
    phases: list[Phase] = []
    alone: list[RowKind] = []
    start = 0
    while start < len(kinds):
        reached = {period: period * _repeats(kinds, start, period) for period in range(1, MAX_PATTERN + 1)}
        period = max(reached, key=lambda period: (reached[period] > period, reached[period], -period))
        if reached[period] == period:
            alone.append(kinds[start])
            start += 1
        else:
            phases += _once(alone)
            alone = []
            phases.append(Phase(tuple(kinds[start : start + period]), reached[period] // period))
            start += reached[period]
    return phases + _once(alone)


def _repeats(kinds: Sequence[RowKind], start: int, period: int) -> int:
    """Return how often the ``period`` rows at ``start`` follow one another; at least 1."""
    pattern = kinds[start : start + period]
    count, at = 1, start + period
    while len(pattern) == period and kinds[at : at + period] == pattern:
        count, at = count + 1, at + period
    return count


def _once(rows: Sequence[RowKind]) -> list[Phase]:
    return [Phase(tuple(rows[start : start + MAX_PATTERN]), 1) for start in range(0, len(rows), MAX_PATTERN)]
