# SPDX-License-Identifier: Apache-2.0
"""Numbers that are fitted to a model: weights of outputs, which are added to the coefficients of a solver's rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from scoresde_fast.errors import shown
from scoresde_fast.solvers.table import HISTORY, AnyRow, Row

Weights = tuple[tuple[float, ...], ...]
"""For each row the weights of the newest output and of earlier ones; of a `PairRow` the entries of 2x2 matrices."""


def rows_of_numbers(name: str, values: Any, row: str) -> Weights:
    """Return rows of numbers that may be lists, as in JSON, as tuples.

    Raises:
        ValueError: they are no finite numbers; the message has the ``name`` of the option and what a ``row`` is for.
    """
    try:
        rows = tuple(tuple(float(value) for value in each) for each in values)
    except (TypeError, ValueError, OverflowError):
        rows = ((math.nan,),)
    if isinstance(values, str) or not all(math.isfinite(value) for each in rows for value in each):
        raise ValueError(f"{name} is {shown(values)}; it must be a sequence of numbers for each {row}")
    return rows


def with_weights(rows: Sequence[AnyRow], weights: Weights) -> list[AnyRow]:
    """Return the rows with ``weights`` added to the coefficients of their outputs; without weights the same rows.

    Raises:
        ValueError: the weights are not those of these rows, or of more outputs than a row has.
    """
    if not weights:
        return list(rows)
    if len(weights) != len(rows):
        raise ValueError(f"weights are those of {len(weights)} steps, but the run has {len(rows)}: give those of tune")
    return [_with_weights(row, own, index) for index, (row, own) in enumerate(zip(rows, weights, strict=True))]


def _with_weights(row: AnyRow, weights: Sequence[float], index: int) -> AnyRow:
    shape = () if isinstance(row, Row) else (2, 2)
    size = int(np.prod(shape))
    count, rest = divmod(len(weights), size)
    if rest or count > min(HISTORY, index + 1):
        raise ValueError(
            f"step {index + 1} has {len(weights)} weights; it can have {size} for each of "
            f"{min(HISTORY, index + 1)} outputs"
        )
    fitted = np.reshape(weights, (count, *shape))
    outputs = np.zeros((max(count, len(row.outputs)), *shape))
    outputs[: len(row.outputs)] = row.outputs
    outputs[:count] += fitted
    if isinstance(row, Row):
        return replace(row, outputs=tuple(outputs.tolist()))
    return replace(row, outputs=tuple(outputs))
