# SPDX-License-Identifier: Apache-2.0
"""Conditions on a GPU: the inference network's gradient against the plain one's, and guided runs captured and not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gpu_errors
import torch
from gpu_report import Report
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.devices import arithmetic
from scoresde_fast.loop.evaluator import evaluator

MODELS = ("digits-ve", "digits-vp", "digits-cld")
SOLVERS: dict[str, dict[str, Any]] = {"digits-cld": {"solver": "sscs", "grid": "quadratic"}}
USUAL: dict[str, Any] = {"solver": "sa", "grid": "logsnr"}
BATCHES = (4, 2)
"""Of the gradients, and of the guided runs."""
ROUNDING = 1e-4
"""Of float32 gradients, relative to the largest: two orders of adding up."""
STEPS = 20
APART = 1e-2
"""Images in [0, 1] of two runs that differ in nothing but capture: rounding, through twenty guided steps."""


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, weights: Tensor) -> Tensor:
    """Of sum(weights * function) in x."""
    x = x.clone().requires_grad_()
    found: Tensor = torch.autograd.grad((function(x) * weights).sum(), x)[0]
    return found


def conditions(report: Report) -> None:
    """How far gradients are from those of the plain network, and captured images from those of the plain loop."""
    device, errors = torch.device(gpu_errors.DEVICE), gpu_errors.Errors()
    for name in MODELS:
        model = sf.load(name).to(device)
        label = torch.full((1,), float(model.parametrisation.labels(0.5)), device=device)
        folded, row = evaluator(model.network, label, "fp32"), torch.zeros(1, dtype=torch.int64, device=device)
        x = torch.randn(BATCHES[0], *model.state_shape, device=device)
        weights = torch.randn(BATCHES[0], *model.image_shape, device=device)
        with arithmetic("fp32", device, strict=False):
            plain = gradient(partial(model.network, labels=label.expand(BATCHES[0])), x, weights)
            ours = gradient(partial(folded, row=row), x, weights)
        off = float((ours - plain).abs().max() / plain.abs().max())
        apart = captured_apart(model, SOLVERS.get(name, USUAL))
        errors.add(f"{name}: gradient", off / ROUNDING)
        errors.add(f"{name}: captured", apart / APART)
        report.case(name, {"gradient": off, "apart": apart})
    errors.tell(report)


def captured_apart(model: sf.ScoreModel, options: dict[str, Any]) -> float:
    """The largest difference of guided images by the captured loop from those of the plain one."""
    device = gpu_errors.DEVICE
    seeds = range(BATCHES[1])
    images = sf.sample(model, seeds, steps=10, device=device, **options).cpu()
    operator = sf.SuperResolution(2)
    condition = (
        sf.PiGDM(operator, operator.apply(images), noise=0.05, seeds=seeds),
        sf.ClassGuidance(3, sf.load_classifier("digits-classifier")),
    )
    runs = [
        sf.Sampler(
            model, condition=condition, steps=STEPS, device=device, precision="fp32", capture=capture, compile=False,
            **options,
        ).sample(seeds)
        for capture in (False, True)
    ]  # fmt: skip
    return float((runs[0] - runs[1]).abs().max())
