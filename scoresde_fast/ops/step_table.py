# SPDX-License-Identifier: Apache-2.0
"""The table of a run on its device: what the step operations read their coefficients from.

A row holds every coefficient of one step, folded on the host in float64, and three integers.  The operations find
their row by ``counter[0] + offset``: the counter lives on the device, so that a captured step can be replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class Columns(NamedTuple):
    """Columns of ``coefficients`` in `affine_step` and the Langevin operations.

    ``next state = state x + saved s + output o + earlier1 d_1 + earlier2 d_2 + earlier3 d_3 + noise z`` and
    ``newest derived output = derive_state x + derive_output o``, where x is the state, s the saved state, o the
    network's output, d_k the derived output of k evaluations ago and z a normal field.  ``langevin`` is 2 alpha snr^2.
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
    """First columns of each coefficient of `affine_step_pair`, which acts on pairs (x, v); matrices row by row.

    ``next pair = state (2x2) u + saved (2x2) s + output (2) o + sum_k earlier_k (2x2) d_k + noise (xx, vx, vv) z`` and
    ``newest derived pair = derive_state (2x2) u + derive_output (2) o``: the network's output o has half the channels;
    noise is the lower triangle of a Cholesky factor, x' += xx z_x and v' += vx z_x + vv z_v.
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


class ControlColumns(NamedTuple):
    """Columns of ``control``.

    ``draw``: the number of the row's normal field, as the int32 of the same bits.  ``slot``: how many derived outputs
    were stored before this row; modulo the length of the history it is the place of the newest one, and the output of k
    evaluations ago lies k places before.  ``save``: 1 where the state before the row becomes the saved state.
    """

    draw: int = 0
    slot: int = 1
    save: int = 2


COLUMNS = Columns()
PAIR_COLUMNS = PairColumns()
CONTROL = ControlColumns()
WIDTH, PAIR_WIDTH = 10, 31


@dataclass(frozen=True)
class DeviceTable:
    """Coefficients (rows, 10 or 31) float32 by `Columns` or `PairColumns`, and control (rows, 3) int32."""

    coefficients: Tensor
    control: Tensor

    def row(self, counter: Tensor | None, offset: int) -> tuple[Tensor, Tensor]:
        """(coefficients, control) of row ``counter + offset``, without a look at the counter from the host."""
        if counter is None:
            return self.coefficients[offset], self.control[offset]
        index = (counter.long() + offset).clamp_(max=len(self.coefficients) - 1)
        return self.coefficients.index_select(0, index)[0], self.control.index_select(0, index)[0]
