# SPDX-License-Identifier: Apache-2.0
"""Programs (step tables combined with a model, on a device) and their repeating patterns of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.loop.inputs import NO_INPUTS, NetworkInputs
from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops.step_table import COLUMNS, CONTROL, PAIR_COLUMNS, PAIR_WIDTH, WIDTH, DeviceTable
from scoresde_fast.sdes import Array
from scoresde_fast.solvers import StepTable
from scoresde_fast.solvers.table import HISTORY, AnyRow, PairRow, Row

EARLIER = HISTORY - 1
"""Number of earlier derived outputs that a row can read."""
MAX_PATTERN = 8
"""Maximum number of rows in a pattern."""


class RowKind(NamedTuple):
    """The properties of a row that the Python code of the loop depends on; all others are in tables on the device.

    Attributes:
        evaluates: whether the row evaluates the network.
        langevin: whether it is a Langevin step.
        noise: whether it adds noise.
        saves: whether it reads or writes the saved state.
        earlier: number of earlier derived outputs that it reads.
        mixed: whether it is a Langevin step whose score is not a multiple of the network's output.
        guided: whether it also evaluates a weaker network, see `scoresde_fast.loop.network_guidance`.
        shallow: whether it reuses the deep features of an earlier row, see `scoresde_fast.loop.feature_cache`.
    """

    evaluates: bool
    langevin: bool
    noise: bool
    saves: bool
    earlier: int
    mixed: bool = False
    guided: bool = False
    shallow: bool = False

    @property
    def evaluations(self) -> int:
        """Number of network evaluations of each sample."""
        return self.evaluates * (1 + self.guided)


Pattern = tuple[RowKind, ...]


@dataclass(frozen=True)
class Phase:
    """Consecutive rows: the rows of ``pattern``, ``repeats`` times."""

    pattern: Pattern
    repeats: int


@dataclass(frozen=True)
class Program:
    """A step table on a device.

    Attributes:
        table: the rows, on the host.
        device_table: the coefficients, computed in float64 and rounded to float32.
        labels: (rows,) float32, time labels for the network.
        langevin_state: (rows,) float32; the score of a Langevin row is a multiple of the network's output plus this
            factor times the state.
        kinds: the kind of each row.
        pairs: whether states are pairs of position and velocity.
    """

    table: StepTable
    device_table: DeviceTable
    labels: Tensor
    langevin_state: Tensor
    kinds: tuple[RowKind, ...]
    pairs: bool

    @classmethod
    def of_model(
        cls,
        model: ScoreFunction,
        table: StepTable,
        device: torch.device | str,
        inputs: NetworkInputs = NO_INPUTS,
        cache_interval: int = 1,
    ) -> Program:
        """Combine a table with a model and the guidance of its network.

        Every ``cache_interval``-th evaluation is whole, the others are shallow.

        Raises:
            ValueError: a row without an evaluation reads four earlier outputs.
        """
        parametrisation, times = model.parametrisation, table.times
        scales = zip(parametrisation.output_scale(times), parametrisation.state_scale(times), strict=True)
        coefficients = np.zeros((len(table.rows), PAIR_WIDTH if table.pairs else WIDTH))
        control = np.zeros((len(table.rows), len(CONTROL)), dtype=np.int64)
        langevin_state = np.zeros(len(table.rows))
        kinds, stored, evaluated = [], 0, 0
        for index, (row, row_scales) in enumerate(zip(table.rows, scales, strict=True)):
            if row.derive is None and len(row.outputs) > EARLIER and np.count_nonzero(row.outputs[EARLIER]):
                raise ValueError(
                    f"row {index + 1} has no evaluation and reads {HISTORY} earlier outputs; at most {EARLIER} are "
                    "allowed"
                )
            coefficients[index] = _fold_pair(row, *row_scales) if isinstance(row, PairRow) else _fold(row, *row_scales)
            if row.langevin is not None:
                langevin_state[index] = (
                    coefficients[index, COLUMNS.derive_state] / coefficients[index, COLUMNS.derive_output]
                )
            control[index] = CONTROL._replace(draw=table.draws[index] or 0, slot=stored, save=row.save)
            guided = row.derive is not None and inputs.scales(times[index]) != 1
            shallow = row.derive is not None and evaluated % cache_interval != 0
            evaluated += row.derive is not None
            kinds.append(_kind(row)._replace(mixed=bool(langevin_state[index]), guided=bool(guided), shallow=shallow))
            if row.derive is not None and row.langevin is None:  # later rows do not read outputs of correctors
                stored += 1 - row.forget
        control[:, CONTROL.draw] = control[:, CONTROL.draw].astype(np.uint32).astype(np.int32)
        factors, labels, ratios = (
            torch.from_numpy(values).to(device, torch.float32)
            for values in (coefficients, parametrisation.labels(times), langevin_state)
        )
        device_table = DeviceTable(factors, torch.from_numpy(control).to(device, torch.int32))
        return cls(table, device_table, labels, ratios, tuple(kinds), table.pairs)

    @property
    def nfe(self) -> int:
        """Number of network evaluations of each sample."""
        return sum(kind.evaluations for kind in self.kinds)

    @property
    def keeps_state(self) -> bool:
        """Whether any row reads or writes the saved state."""
        return any(kind.saves for kind in self.kinds)

    @property
    def history(self) -> int:
        """Number of derived outputs that the run keeps: the most that a row reads, plus the most that one forgets."""
        forgotten = max((row.forget for row in self.table.rows), default=0)
        return max((kind.earlier for kind in self.kinds), default=0) + forgotten


def _kind(row: AnyRow) -> RowKind:
    earlier = row.outputs if row.derive is None else row.outputs[1:]  # the first factor is for the row's own output
    read = [k + 1 for k, factor in enumerate(earlier) if np.asarray(factor, dtype=float).any()]
    return RowKind(
        evaluates=row.derive is not None,
        langevin=row.langevin is not None,
        noise=row.has_noise,
        saves=bool(row.save or np.count_nonzero(row.saved)),
        earlier=max(read, default=0),
    )


def _fold(row: Row, output_scale: float, state_scale: float) -> Array:
    """Return the row's coefficients, in the order of `Columns`; score = output_scale output + state_scale state."""
    folded = np.zeros(WIDTH)
    folded[COLUMNS.state], folded[COLUMNS.saved], folded[COLUMNS.noise] = row.state, row.saved, row.noise
    earlier = folded[COLUMNS.earlier1 :][:EARLIER]
    if row.derive is None:
        earlier[: len(row.outputs)] = row.outputs[:EARLIER]
        return folded
    from_score = row.derive[1]
    from_state = row.derive[0] + from_score * state_scale
    folded[COLUMNS.derive_state], folded[COLUMNS.derive_output] = from_state, from_score * output_scale
    if row.langevin is not None:
        folded[COLUMNS.langevin] = row.langevin
        return folded
    newest, *older = row.outputs or (0.0,)
    # The newest output is a sum of state and network output, so its coefficient is distributed over both.
    folded[COLUMNS.state] += newest * folded[COLUMNS.derive_state]
    folded[COLUMNS.output] = newest * folded[COLUMNS.derive_output]
    earlier[: len(older)] = older
    return folded


def _fold_pair(row: PairRow, output_scale: float, state_scale: float) -> Array:
    """Return the row's coefficients, in the order of `PairColumns`; the score is that of the velocity."""
    columns, folded = PAIR_COLUMNS, np.zeros(PAIR_WIDTH)
    outputs, state = [np.asarray(matrix) for matrix in row.outputs], np.asarray(row.state)
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
    """Return the phases in order: each repeats the pattern that covers the most rows, or the shortest of several.

    Rows that start no repetition are collected in patterns that run once.
    """
    phases: list[Phase] = []
    single: list[RowKind] = []
    start = 0
    while start < len(kinds):
        repeats = {period: _repeats(kinds, start, period) for period in range(1, MAX_PATTERN + 1)}
        period = max(repeats, key=lambda period: (repeats[period] > 1, repeats[period] * period, -period))
        if repeats[period] == 1:
            single.append(kinds[start])
            start += 1
        else:
            phases += _once(single)
            single = []
            phases.append(Phase(tuple(kinds[start : start + period]), repeats[period]))
            start += repeats[period] * period
    return phases + _once(single)


def _repeats(kinds: Sequence[RowKind], start: int, period: int) -> int:
    """Return the number of consecutive repetitions of the ``period`` rows at ``start``; at least 1."""
    pattern = kinds[start : start + period]
    starts = range(start, len(kinds), period)
    return sum(1 for _ in takewhile(lambda position: kinds[position : position + period] == pattern, starts))


def _once(rows: Sequence[RowKind]) -> list[Phase]:
    return [Phase(tuple(rows[start : start + MAX_PATTERN]), 1) for start in range(0, len(rows), MAX_PATTERN)]
