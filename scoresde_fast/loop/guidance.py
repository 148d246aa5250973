# SPDX-License-Identifier: Apache-2.0
"""Guidance: the gradients of log-likelihoods, between the network's evaluation and the step (Song et al. 2021, app. I).

    grad log p_t(x | y) = grad log p_t(x) + grad log p_t(y | x)

The network is evaluated once; it is differentiated once for each log-likelihood that looks at its output.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scoresde_fast.loop.condition import BoundConditions, Data

Evaluate = Callable[[Tensor, Tensor], Tensor]
"""``evaluate(x, row)``: (B, ...) float32 and (1,) int64 -> the network's output at that row's time, contiguous; of a
pair (B, 2C, ...) it is that of the velocity, (B, C, ...)."""


class Guided(NamedTuple):
    """What an evaluation gives under guidance.

    Attributes:
        output: the network's, to which the guidance of the score is added.
        push: like the state, what is added to it after the row; None: nothing.
        health: (), a sum over all gradients: finite where they are.
    """

    output: Tensor
    push: Tensor | None
    health: Tensor


def evaluate_guided(
    evaluate: Evaluate, conditions: BoundConditions, x: Tensor, data: Sequence[Data], counter: Tensor
) -> Guided:
    """The network's output at ``x`` (B, ...) and row ``counter`` (1,), guided by conditions that have the ``data``."""
    assert conditions.to_output is not None
    of_score: Tensor | None = None
    push: Tensor | None = None
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        with torch.set_grad_enabled(conditions.through_network):
            output = evaluate(x, counter)
        through = sum(condition.through_network for condition in conditions.guiding)
        for condition, held in zip(conditions.guiding, data, strict=True):
            through -= condition.through_network
            log_likelihood = condition.log_likelihood(x, output, held, counter).sum()
            # What is below the network's output is common to those that look at it.
            (gradient,) = torch.autograd.grad(log_likelihood, x, retain_graph=through > 0)
            gradient = condition.bounded(gradient, counter)
            if condition.pushes:
                push = gradient if push is None else push + gradient
            else:
                of_score = gradient if of_score is None else of_score + gradient
    output = output.detach()
    if of_score is not None:
        scale = conditions.to_output.index_select(0, counter)
        output = output + scale * of_score.chunk(conditions.parts, dim=1)[-1]
    gradients = [gradient for gradient in (of_score, push) if gradient is not None]
    return Guided(output, push, torch.stack([gradient.sum() for gradient in gradients]).sum())
