# SPDX-License-Identifier: Apache-2.0
"""The step table: a run of a solver as rows of float64 coefficients.

A row is one step of a general linear method.  It may evaluate the network at a time t and derive an output from it,

    d_0 = derive[0] x + derive[1] score(x, t),

and then computes the next state,

    x <- state x + saved x_saved + sum_j outputs[j] d_j + noise z,

where d_1, d_2, d_3 are the outputs of earlier evaluations, newest first, and z is standard normal noise.  A row may
forget its output and some before it, so that later rows read older ones.  On pairs of position and velocity
(`PairRow`) the coefficients are 2x2 matrices, and the score is that of the velocity.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count

import numpy as np

from scoresde_fast.sdes import Array

HISTORY = 4
"""Number of derived outputs that a row can combine: the newest and the three before it."""

MOST_FORGOTTEN = HISTORY - 1
"""Largest number of derived outputs that a row can forget."""

SCORE = (0.0, 1.0)
"""`Row.derive` for an output that is the score itself."""


class LongStepsError(ValueError):
    """The steps are so long that a coefficient is not finite."""


@dataclass(frozen=True)
class Row:
    """One step.

    Attributes:
        t: time of the evaluation, or of the state for a row without an evaluation.
        derive: coefficients of (x, score) in the newest output; None for a row without an evaluation.
        state, saved, outputs, noise: coefficients of x, x_saved, d_j and z in the next state.
        save: whether the state before this row becomes the saved state.
        langevin: 2 alpha snr^2 for a step of the Langevin corrector.  The step size e depends on the state and
            multiplies the score; sqrt(2 e) multiplies the noise.  Later rows must not use this row's output.
        forget: number of derived outputs, from the newest on, that later rows do not read: their d_1 is the next.
    """

    t: float
    derive: tuple[float, float] | None = SCORE
    state: float = 1.0
    saved: float = 0.0
    outputs: tuple[float, ...] = ()
    noise: float = 0.0
    save: bool = False
    langevin: float | None = None
    forget: int = 0

    @property
    def has_noise(self) -> bool:
        """Whether the row draws noise."""
        return bool(self.noise != 0)

    def coefficients(self) -> Array:
        """Return all coefficients as a flat array."""
        return np.array(
            [self.state, self.saved, *self.outputs, self.noise, self.langevin or 0.0, *(self.derive or ())], dtype=float
        )


IDENTITY = np.eye(2)
ZERO = np.zeros((2, 2))
VELOCITY_SCORE = (ZERO, np.array([0.0, 1.0]))
"""`PairRow.derive` for the output (0, velocity's score)."""


@dataclass(frozen=True, eq=False)
class PairRow:
    """One step of pairs u = (x, v).

    Attributes:
        t, save: as in `Row`.
        derive: D (2, 2) and d (2,) of the newest output D u + d s_v; None for a row without an evaluation.
        state, saved, outputs: 2x2 matrices applied to u, the saved pair and the outputs.
        noise: lower triangular 2x2 matrix applied to a pair of standard normals.
    """

    t: float
    derive: tuple[Array, Array] | None = VELOCITY_SCORE
    state: Array = field(default_factory=lambda: IDENTITY)
    saved: Array = field(default_factory=lambda: ZERO)
    outputs: tuple[Array, ...] = ()
    noise: Array = field(default_factory=lambda: ZERO)
    save: bool = False
    langevin: None = field(default=None, init=False)
    forget: int = field(default=0, init=False)

    @property
    def has_noise(self) -> bool:
        """Whether the row draws noise."""
        return bool(self.noise.any())

    def coefficients(self) -> Array:
        """Return all coefficients as a flat array."""
        parts = [self.state, self.saved, *self.outputs, self.noise, *(self.derive or ())]
        return np.concatenate([np.ravel(part) for part in parts])


AnyRow = Row | PairRow


@dataclass(frozen=True)
class StepTable:
    """A run of a solver.

    Attributes:
        rows: the steps in order, all `Row` or all `PairRow`.
        draws: index of the noise of each row, None for a row without noise; draw 0 is the prior.
    """

    rows: tuple[AnyRow, ...]
    draws: tuple[int | None, ...]

    @classmethod
    def of(cls, rows: Iterable[AnyRow]) -> StepTable:
        """Return the table of ``rows``, with consecutive draws.

        Raises:
            ValueError: a coefficient is not finite, or a row forgets outputs that it cannot.
        """
        rows = tuple(rows)
        _require_outputs_to_forget(rows)
        for index, row in enumerate(rows):
            if not np.isfinite(row.coefficients()).all():
                raise LongStepsError(
                    f"the coefficients of row {index + 1} of {len(rows)}, at t = {row.t:.4g}, are not finite: "
                    "the steps are too long for this solver; take shorter steps"
                )
        draw = count(1)
        return cls(rows, tuple(next(draw) if row.has_noise else None for row in rows))

    @property
    def pairs(self) -> bool:
        """Whether the rows act on pairs of position and velocity."""
        return isinstance(self.rows[0], PairRow)

    @property
    def nfe(self) -> int:
        """Number of network evaluations, including those of correctors and denoising."""
        return sum(row.derive is not None for row in self.rows)

    @property
    def times(self) -> Array:
        """(rows,) time of each row."""
        return np.array([row.t for row in self.rows])


def _require_outputs_to_forget(rows: tuple[AnyRow, ...]) -> None:
    """Raise ``ValueError`` if a row forgets too many outputs, more than there are, or without an evaluation."""
    stored = 0
    for index, row in enumerate(rows):
        stored += row.derive is not None and row.langevin is None
        most = 0 if row.derive is None or row.langevin is not None else min(stored, MOST_FORGOTTEN)
        if not 0 <= row.forget <= most:
            raise ValueError(f"row {index + 1} forgets {row.forget} outputs; it can forget 0 to {most}")
        stored -= row.forget
