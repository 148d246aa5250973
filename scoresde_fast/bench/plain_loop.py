# SPDX-License-Identifier: Apache-2.0
"""The loop of the baselines: predictor and corrector in plain PyTorch, with Python floats as coefficients.

It takes its normal fields from `scoresde_fast.noise.Noise`, so that every line draws the same images.  That is cheaper
than ``torch.randn_like``, in the baselines' favour; so are coefficients that are known before the run.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde_fast.bench.job import Job
from scoresde_fast.noise import Noise
from scoresde_fast.solvers.table import PairRow, Row

Network = Callable[[Tensor, Tensor], Tensor]


@torch.inference_mode()
def run_plain(network: Network, job: Job) -> Tensor:
    """The job's images, (B, C, H, W) float32 in [0, 1].

    Raises:
        ValueError: a row combines earlier outputs or a saved state, which this loop does not keep, or is of pairs.
    """
    model, rows = job.model, job.table.rows
    labels = model.parametrisation.labels(job.table.times).tolist()
    scales = model.parametrisation.output_scale(job.table.times).tolist()
    noise = Noise(0, torch.tensor(job.seeds, device=job.device))
    x = model.prior(noise.normal(0, model.state_shape))
    for row, draw, label, scale in zip(rows, job.table.draws, labels, scales, strict=True):
        if isinstance(row, PairRow) or row.derive is None or row.saved or row.save or any(row.outputs[1:]):
            raise ValueError(f"the plain loop has no place for {row}: choose a predictor, a corrector or both")
        torch.compiler.cudagraph_mark_step_begin()
        output = network(x, torch.full((len(x),), label, device=job.device))
        score = scale * output.float()
        z = None if draw is None else noise.normal(draw, model.image_shape)
        x = _step(row, x, score, z)
    return model.to_images(x)


def _step(row: Row, x: Tensor, score: Tensor, z: Tensor | None) -> Tensor:
    assert row.derive is not None
    if row.langevin is not None:
        assert z is not None
        size = row.langevin * (_norms(z) / _norms(score)) ** 2
        return x + size * score + (2 * size).sqrt() * z
    from_state, from_score = row.derive
    derived = from_score * score if from_state == 0 else from_state * x + from_score * score
    x = row.state * x + row.outputs[0] * derived
    return x if z is None else x + row.noise * z


def _norms(x: Tensor) -> Tensor:
    """(B, 1, 1, 1): the norm of each sample."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
