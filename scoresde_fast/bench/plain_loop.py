# SPDX-License-Identifier: Apache-2.0
"""The loop of the baselines: predictor and corrector in plain PyTorch, with Python floats as coefficients.

It takes its normal fields from `scoresde_fast.noise.Noise`, so that every line draws the same images.  That is cheaper
than ``torch.randn_like``, in the baselines' favour; so are coefficients that are known before the run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.bench.workload import Workload
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import Array
from scoresde_fast.solvers.table import PairRow, Row

Network = Callable[[Tensor, Tensor], Tensor]


@torch.inference_mode()
def run_plain(network: Network, workload: Workload) -> Tensor:
    """The workload's images, (B, C, H, W) float32 in [0, 1].

    Raises:
        ValueError: a row combines earlier outputs or a saved state, which this loop does not keep.
    """
    model, rows, times = workload.model, workload.table.rows, workload.table.times
    p = model.parametrisation
    columns = (p.labels(times).tolist(), p.output_scale(times).tolist(), p.state_scale(times).tolist())
    noise = Noise(0, torch.tensor(workload.seeds, device=workload.device))
    x = model.prior(noise.normal(0, model.state_shape))
    for row, draw, label, output_scale, state_scale in zip(rows, workload.table.draws, *columns, strict=True):
        if row.save or np.any(row.saved) or any(np.any(factor) for factor in row.outputs[1:]):
            raise ValueError(f"the plain loop has no place for {row}: choose a solver without past outputs")
        z = None if draw is None else noise.normal(draw, model.state_shape)
        score = None
        if row.derive is not None:
            torch.compiler.cudagraph_mark_step_begin()
            score = output_scale * network(x, torch.full((len(x),), label, device=workload.device)).float()
            if state_scale:
                score = score + state_scale * x.chunk(model.sde.parts, dim=1)[-1]
        x = _pair_step(row, x, score, z) if isinstance(row, PairRow) else _step(row, x, score, z)
    return model.to_images(x.chunk(model.sde.parts, dim=1)[0])


def _step(row: Row, x: Tensor, score: Tensor | None, z: Tensor | None) -> Tensor:
    assert row.derive is not None and score is not None  # every row on images evaluates, but for saved states
    if row.langevin is not None:
        assert z is not None
        size = row.langevin * (_norms(z) / _norms(score)) ** 2
        return x + size * score + (2 * size).sqrt() * z
    from_state, from_score = row.derive
    derived = from_score * score if from_state == 0 else from_state * x + from_score * score
    x = row.state * x + row.outputs[0] * derived
    return x if z is None else x + row.noise * z


def _pair_step(row: PairRow, u: Tensor, score: Tensor | None, z: Tensor | None) -> Tensor:
    """The step of x and v as a user writes it, one product and one sum after the other."""
    state: Array = np.asarray(row.state)
    gain: Array = np.zeros(2)
    if row.derive is not None:
        state = state + row.outputs[0] @ row.derive[0]
        gain = row.outputs[0] @ row.derive[1]
    x, v = u.chunk(2, dim=1)
    halves = []
    for to_x, to_v, to_score, noise in zip(*state.T.tolist(), gain.tolist(), row.noise.tolist(), strict=True):
        half = to_x * x + to_v * v
        if score is not None and to_score:
            half = half + to_score * score
        if z is not None:
            for factor, field in zip(noise, z.chunk(2, dim=1), strict=True):
                half = half + factor * field if factor else half
        halves.append(half)
    return torch.cat(halves, dim=1)


def _norms(x: Tensor) -> Tensor:
    """(B, 1, 1, 1): the norm of each sample."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
