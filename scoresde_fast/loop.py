# SPDX-License-Identifier: Apache-2.0
"""The loop: runs any step table with any network, one operation a row beside the network's evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scoresde_fast.ops.affine_step import affine_step, derive
from scoresde_fast.ops.langevin_step import LangevinNorm, langevin_step
from scoresde_fast.solvers import StepTable
from scoresde_fast.solvers.table import HISTORY


class NoiseSource(Protocol):
    """What the loop asks of noise; `scoresde_fast.noise.Noise` is the one that runs use."""

    def normal(self, draw: int, shape: tuple[int, ...]) -> Tensor:
        """Field number ``draw`` of the run, (B, *shape) float32."""


class NonFiniteError(FloatingPointError):
    """The state stopped being a number; says at which row and time."""


@dataclass(frozen=True)
class Program:
    """A step table made ready for a device: every coefficient that a run needs, float32, by row.

    Attributes:
        table: the rows, on the host.
        labels: (rows,) the network's time labels.
        derive: (rows, 2) coefficients of (state, network output) in the derived output.
        coefficients: (rows, 7) as `affine_step` takes them.
        langevin: (rows,) the factor of Langevin rows, 0 elsewhere.
    """

    table: StepTable
    labels: Tensor
    derive: Tensor
    coefficients: Tensor
    langevin: Tensor

    @classmethod
    def of(
        cls,
        table: StepTable,
        labels: npt.NDArray[np.float64],
        output_scale: npt.NDArray[np.float64],
        device: torch.device | str,
    ) -> Program:
        """Join a table with a model's labels and output scale (rows,) at the table's times."""

        def on_device(values: object) -> Tensor:
            return torch.as_tensor(values, dtype=torch.float64).to(device, torch.float32)

        # The score is output_scale * network output; solvers speak of scores, the loop of network outputs.
        pairs = [row.derive or (0.0, 0.0) for row in table.rows]
        derived = [(x, score * float(scale)) for (x, score), scale in zip(pairs, output_scale, strict=True)]
        factors = [row.langevin or 0.0 for row in table.rows]
        return cls(table, on_device(labels), on_device(derived), on_device(table.coefficients), on_device(factors))


CHECK_EVERY = 16
"""Rows between two looks at whether the state is still finite: each look waits for the device."""


def run(
    program: Program,
    network: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    noise: NoiseSource,
    *,
    langevin_norm: LangevinNorm = "sample",
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run a program from the prior sample to the data.

    Args:
        program: the table and its coefficients.
        network: ``network(x, labels)``, (B, ...), (B,) -> (B, ...).
        x: (B, ...) float32, the state at T.
        noise: the run's normal fields.
        langevin_norm: see `langevin_step`.
        on_step: called with (evaluations done, evaluations in all) after each row.

    Raises:
        NonFiniteError: the state became NaN or infinite; names the row and its time.
    """
    rows = program.table.rows
    shape = tuple(x.shape[1:])
    keeps_state = any(row.save for row in rows)
    saved: Tensor | None = x if keeps_state else None
    outputs: list[Tensor] = []
    finite = torch.ones(len(rows), dtype=torch.bool, device=x.device)
    done = checked = 0
    for index, (row, draw) in enumerate(zip(rows, program.table.draws, strict=True)):
        before = x
        if row.derive is not None:
            output = network(x, program.labels[index].expand(len(x)))
            outputs = [derive(x, output, program.derive[index]), *outputs[: HISTORY - 1]]
            done += 1
        z = None if draw is None else noise.normal(draw, shape)
        if row.langevin is None:
            x = affine_step(x, saved, outputs, z, program.coefficients[index])
        else:
            assert z is not None  # Langevin rows carry noise: correctors come before a predictor
            x = langevin_step(x, outputs[0], z, program.langevin[index], langevin_norm)
        if row.save:
            saved = before
        finite[index] = x.sum().isfinite()
        if index + 1 - checked >= CHECK_EVERY or index + 1 == len(rows):
            _check(finite[checked : index + 1], program.table, checked)
            checked = index + 1
        if on_step is not None:
            on_step(done, program.table.nfe)
    return x


def _check(finite: Tensor, table: StepTable, first: int) -> None:
    bad = (~finite).nonzero()
    if len(bad):
        index = first + int(bad[0])
        raise NonFiniteError(
            f"the samples are not finite after step {index + 1} of {len(table.rows)}, "
            f"at t = {table.rows[index].t:.6g}: "
            "the network returned NaN or infinity, or the steps are too long; check the weights or take more steps"
        )
