# SPDX-License-Identifier: Apache-2.0
"""The step table: a solver as rows of float64 coefficients, without tensors.

A row is one step of a general linear method.  It may evaluate the network at a time t and derive an output from it,

    d_0 = derive[0] x + derive[1] score(x, t),

then combines the registers,

    x <- state x + saved x_saved + sum_j outputs[j] d_j + noise z,

where d_1, d_2, d_3 are the outputs of the evaluations before, newest first, and z is a fresh normal field.  On pairs of
position and velocity (`PairRow`) the coefficients are 2x2 matrices, and the score is that of the velocity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from scoresde_fast.sdes import Array

HISTORY = 4
"""The number of derived outputs that a row can combine: the newest and three before it."""

SCORE = (0.0, 1.0)
"""`Row.derive` of the score itself."""


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        t: the time of the evaluation, or of the state in a row without one.
        derive: coefficients of (x, score) in the newest derived output; None for a row without an evaluation.
        state, saved, outputs, noise: coefficients of the registers in the next state.
        save: keep the state from before this row as the saved state.
        langevin: 2 alpha snr^2 in a Langevin corrector step, whose size e depends on the data: the coefficient of the
            score is then multiplied by e, that of the noise by sqrt(2 e).  Later rows do not combine its output.
    """

    t: float
    derive: tuple[float, float] | None = SCORE
    state: float = 1.0
    saved: float = 0.0
    outputs: tuple[float, ...] = ()
    noise: float = 0.0
    save: bool = False
    langevin: float | None = None

    @property
    def has_noise(self) -> bool:
        """Whether the row draws a normal field."""
        return bool(self.noise != 0)

    def numbers(self) -> Array:
        """All coefficients in one array."""
        return np.array(
            [self.state, self.saved, *self.outputs, self.noise, self.langevin or 0.0, *(self.derive or ())], dtype=float
        )


IDENTITY = np.eye(2)
ZERO = np.zeros((2, 2))
VELOCITY_SCORE = (ZERO, np.array([0.0, 1.0]))
"""`PairRow.derive` of the velocity's score, in the place of v."""


@dataclass(frozen=True, eq=False)
class PairRow:
    """One step of pairs (x, v); see `Row`.

    Attributes:
        t: as in `Row`.
        derive: D (2, 2) and d (2,) of the newest derived pair D u + d s_v; None for a row without an evaluation.
        state, saved, outputs: 2x2 matrices on u, the saved pair and the derived pairs.
        noise: a lower triangular 2x2 matrix on the normal field of the pair.
        save: as in `Row`.
    """

    t: float
    derive: tuple[Array, Array] | None = VELOCITY_SCORE
    state: Array = field(default_factory=lambda: IDENTITY)
    saved: Array = field(default_factory=lambda: ZERO)
    outputs: tuple[Array, ...] = ()
    noise: Array = field(default_factory=lambda: ZERO)
    save: bool = False
    langevin: None = field(default=None, init=False)

    @property
    def has_noise(self) -> bool:
        """Whether the row draws a normal field."""
        return bool(self.noise.any())

    def numbers(self) -> Array:
        """All coefficients in one array."""
        parts = [self.state, self.saved, *self.outputs, self.noise, *(self.derive or ())]
        return np.concatenate([np.ravel(part) for part in parts])


AnyRow = Row | PairRow


@dataclass(frozen=True)
class StepTable:
    """A whole run of a solver.

    Attributes:
        rows: the steps in order, all `Row` or all `PairRow`.
        draws: for each row the number of its normal field, None for a row without noise; draw 0 is the prior.
    """

    rows: tuple[AnyRow, ...]
    draws: tuple[int | None, ...]

    @classmethod
    def of(cls, rows: Iterable[AnyRow]) -> StepTable:
        """Return the table of ``rows`` with its draws numbered.

        Raises:
            ValueError: a coefficient is not finite; the message names the row and its time.
        """
        rows = tuple(rows)
        for index, row in enumerate(rows):
            if not np.isfinite(row.numbers()).all():
                raise ValueError(
                    f"the coefficients of row {index + 1} of {len(rows)}, at t = {row.t:.4g}, are not finite: "
                    "the steps are too long for this solver; take more steps or another grid"
                )
        draws: list[int | None] = []
        drawn = 0
        for row in rows:
            drawn += row.has_noise
            draws.append(drawn if row.has_noise else None)
        return cls(rows, tuple(draws))

    @property
    def pairs(self) -> bool:
        """Whether the rows act on pairs of position and velocity."""
        return isinstance(self.rows[0], PairRow)

    @property
    def nfe(self) -> int:
        """The number of network evaluations, with those of correctors and denoising."""
        return sum(row.derive is not None for row in self.rows)

    @property
    def times(self) -> Array:
        """(rows,) the time of every row."""
        return np.array([row.t for row in self.rows])
