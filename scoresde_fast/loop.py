# SPDX-License-Identifier: Apache-2.0
"""The loop: runs any program with any network, one operation a row beside the network's evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from torch import Tensor

from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step, langevin
from scoresde_fast.ops.langevin_step import LangevinNorm
from scoresde_fast.program import Program
from scoresde_fast.solvers import StepTable


class NonFiniteError(FloatingPointError):
    """The state stopped being a number; says at which row and time."""


@dataclass(frozen=True)
class StepBackends:
    """The implementation of each step operation, chosen once for a run."""

    affine_step: Callable[..., Any]
    langevin: Callable[..., Any]

    @classmethod
    def choose(cls, device: torch.device | str, backend: str | None = None) -> StepBackends:
        """``backend`` as in `scoresde_fast.ops.Operation.choose`, with its errors."""
        return cls(*(module.operation.choose(device, backend) for module in (affine_step, langevin)))


class _Contract(TypedDict):
    """What decides the noise of a run, beside the samples' ids."""

    run_seed: int
    precise: bool


CHECK_EVERY = 16
"""Rows between two looks at whether the state is still finite: each look waits for the device."""


def run(
    program: Program,
    network: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    noise: Noise,
    *,
    langevin_norm: LangevinNorm = "sample",
    backends: StepBackends | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Run a program from the prior sample to the data.

    Args:
        program: the table and its coefficients.
        network: ``network(x, labels)``, (B, ...), (B,) -> (B, ...).
        x: (B, ...) float32, the state at T; it is left as it is.
        noise: the run's normal fields.
        langevin_norm: see `langevin_step`.
        backends: what makes the steps; None chooses now.
        on_step: called with (evaluations done, evaluations in all) after each row.

    Raises:
        NonFiniteError: the state became NaN or infinite; names the row and its time.
    """
    rows, table = program.table.rows, program.device_table
    backends = backends or StepBackends.choose(x.device)
    ids, contract = noise.sample_ids, _Contract(run_seed=noise.run_seed, precise=noise.precise)
    x = x.clone(memory_format=torch.contiguous_format)
    saved = x.clone() if program.keeps_state else None
    history = x.new_zeros(program.history, *x.shape) if program.history else None
    finite = torch.ones(len(rows), dtype=torch.bool, device=x.device)
    done = checked = 0
    for index, row in enumerate(rows):
        output = None
        if row.derive is not None:
            output = network(x, program.labels[index].expand(len(x))).contiguous()
            done += 1
        if row.langevin is not None:
            assert output is not None  # a Langevin row evaluates the score
            langevin.langevin(
                x, output, ids, table, index, norm=langevin_norm, **contract, implementation=backends.langevin
            )
        else:
            affine_step.affine_step(
                x, table, index, saved=saved, history=history, network_output=output, earlier=program.earlier[index],
                sample_ids=ids if row.noise != 0 else None, **contract, implementation=backends.affine_step,
            )  # fmt: skip
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
