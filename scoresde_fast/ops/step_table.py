# SPDX-License-Identifier: Apache-2.0
"""Columns of the tables that step operations read, and a table on a device.

Each row holds the coefficients of one step, computed on the host in float64, and three integers.  An operation reads
row ``counter[0] + offset``; the counter is on the device, so that a captured step can be replayed.
``scoresde_fast.kernels.step_table`` and ``csrc/core/step_table.h`` use the same column names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Columns(NamedTuple):
    """Columns of ``coefficients`` in `affine_step` and the Langevin operations.

    ``next state = state x + saved s + output o + earlier1 d_1 + earlier2 d_2 + earlier3 d_3 + noise z`` and
    ``newest derived output = derive_state x + derive_output o``, where x is the state, s the saved state, o the
    network's output, d_k the derived output of k evaluations ago and z normal noise.  ``langevin`` is 2 alpha snr^2.
    """

    state: int = 0
    saved: int = 1
    output: int = 2
    earlier1: int = 3
    earlier2: int = 4
    earlier3: int = 5
    noise: int = 6
    derive_state: int = 7
    derive_output: int = 8
    langevin: int = 9


class PairColumns(NamedTuple):
    """First column of each coefficient of `affine_step` on pairs u = (x, v); matrices are stored row by row.

    ``next pair = state (2x2) u + saved (2x2) s + output (2) o + sum_k earlier_k (2x2) d_k + noise (xx, vx, vv) z`` and
    ``newest derived pair = derive_state (2x2) u + derive_output (2) o``.  The network's output o has half the channels.
    The noise is the lower triangle of a Cholesky factor: x' += xx z_x and v' += vx z_x + vv z_v.
    """

    state: int = 0
    saved: int = 4
    output: int = 8
    earlier1: int = 10
    earlier2: int = 14
    earlier3: int = 18
    noise: int = 22
    derive_state: int = 25
    derive_output: int = 29


class LevelColumns(NamedTuple):
    """Columns of ``coefficients`` in `project`.

    A known mean m becomes ``scale m + noise z``, and its velocity
    ``velocity_scale m + velocity_noise_x z + velocity_noise_v z_v``.
    """

    scale: int = 0
    noise: int = 1
    velocity_scale: int = 2
    velocity_noise_x: int = 3
    velocity_noise_v: int = 4


class DotColumns(NamedTuple):
    """Columns of ``coefficients`` in `hutchinson_dot`: ``divergence += constant + factor (eps . tangent)``."""

    constant: int = 0
    factor: int = 1


class ControlColumns(NamedTuple):
    """Columns of ``control``.

    ``draw``: index of the row's noise draw, a uint32 stored as the int32 with the same bits.
    ``slot``: number of derived outputs stored before this row.  The newest output goes to index ``slot`` of the
    history, modulo its length; the output of k evaluations ago is k entries earlier.
    ``save``: 1 if the state before the row becomes the saved state, else 0.
    """

    draw: int = 0
    slot: int = 1
    save: int = 2


COLUMNS = Columns()
PAIR_COLUMNS = PairColumns()
LEVELS = LevelColumns()
DOT = DotColumns()
CONTROL = ControlColumns()
WIDTH, PAIR_WIDTH, LEVEL_WIDTH, DOT_WIDTH = len(COLUMNS), PAIR_COLUMNS.derive_output + 2, len(LEVELS), len(DOT)


@dataclass(frozen=True)
class DeviceTable:
    """A table on a device: coefficients (rows, columns) float32, with columns as above, and control (rows, 3) int32."""

    coefficients: Tensor
    control: Tensor

    def row(self, counter: Tensor | None, offset: int) -> tuple[Tensor, Tensor]:
        """Return the coefficients and control of row ``counter + offset``."""
        return read_row(self.coefficients, counter, offset), read_row(self.control, counter, offset)


def read_row(table: Tensor, counter: Tensor | None, offset: int) -> Tensor:
    """Return row ``counter + offset``, clamped to the last row, without reading the counter on the host."""
    if counter is None:
        return table[offset]
    return table.index_select(0, (counter.long() + offset).clamp_(max=len(table) - 1))[0]
