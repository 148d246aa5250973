# SPDX-License-Identifier: Apache-2.0
"""GPU checks: noise against the CPU, steps against float64, gradients of guidance, and captured guided runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor

import scoresde_fast as sf
from benchmarks.visit import common
from benchmarks.visit.common import DTYPES, Errors, present
from benchmarks.visit.normality import NormalCheck
from benchmarks.visit.report import Report
from scoresde_fast.devices import arithmetic
from scoresde_fast.loop.evaluator import Evaluator, evaluator
from scoresde_fast.ops import (
    affine_step,
    hutchinson_dot,
    langevin,
    operations,
    project,
)
from scoresde_fast.ops.normal import normal, rademacher
from scoresde_fast.ops.step_table import LEVEL_WIDTH, PAIR_WIDTH, WIDTH, DeviceTable

SEED = 0xFEDCBA9876543210
FIELD = 40_001
"""Number of noise elements compared with the CPU; odd, to test partial vectors."""
DRAWS = (10, 100, 1_000_000)
"""Numbers of draws, samples per draw, and elements per sample: 10^9 normals in total."""
STATES = {"CIFAR-10": ((3, 32, 32), (1, 16, 256)), "FFHQ-256": ((3, 256, 256), (1, 8)), "odd": ((3, 7, 5), (3,))}
NORMS: tuple[Literal["sample", "batch"], ...] = ("sample", "batch")
PROBES: tuple[Literal["rademacher", "normal"], ...] = ("rademacher", "normal")
GUIDED_MODELS = ("digits-ve", "digits-vp", "digits-cld")
SOLVERS: dict[str, dict[str, Any]] = {"digits-cld": {"solver": "sscs", "grid": "quadratic"}}
DEFAULT_SOLVER: dict[str, Any] = {"solver": "sa", "grid": "logsnr"}
GUIDED_BATCHES = (4, 2)
"""Batch sizes for the gradients and for the guided runs."""
MAX_GRADIENT_ERROR = 1e-4
"""Allowed float32 error relative to the largest gradient, due to different orders of summation."""
GUIDED_STEPS = 20
MAX_DIFFERENCE = 1e-2
"""Allowed difference of images in [0, 1] between captured and uncaptured runs: rounding over 20 guided steps."""


def noise(report: Report) -> None:
    """Check that signs equal the CPU's, precise normals are within 3 ulp, and 10^9 fast normals are standard normal.

    Triton's normals are exactly 2 ulp from the CPU's in 3 of 160,004 values, so a bound of 2 would depend on rounding.
    """
    errors, ids = Errors(), torch.tensor([0, 7, 2**40 + 3, 2**63 - 1])
    on_device = ids.to(common.DEVICE)
    signs, field = rademacher(ids, SEED, 2**32 - 1, (FIELD,)), normal(ids, SEED, 5, (FIELD,))
    unit = torch.nextafter(field.abs(), torch.tensor(9.0)) - field.abs()
    for backend, function in present("rademacher"):
        ours = rademacher(on_device, SEED, 2**32 - 1, (FIELD,), implementation=function).cpu()
        errors.add(f"{backend}: signs", 0.0 if torch.equal(ours, signs) else float("inf"))
    for backend, function in present("normal"):
        for form, precise in (("precise", True), ("fast", False)):
            ours = normal(on_device, SEED, 5, (FIELD,), precise=precise, implementation=function).cpu()
            ulp = ((ours - field).abs() / unit).max().item()
            report.case(f"{backend}: {form}", {"ulp": ulp, "error": (ours - field).abs().max().item()})
            if precise:
                errors.add(f"{backend}: precise, of 3 ulp", ulp / 3)
        check, (fields, samples, elements) = NormalCheck(), DRAWS
        many = torch.arange(samples, device=common.DEVICE)
        for draw in range(fields):
            check.add(normal(many, 3, draw, (elements,), implementation=function))
        deviations, distance = check.deviations(), check.kolmogorov_smirnov()
        report.case(f"{backend}: {check.count} draws", {"kolmogorov_smirnov": distance, **deviations})
        errors.add(f"{backend}: moments, of 5 standard errors", max(map(abs, deviations.values())) / 5)
        errors.add(f"{backend}: Kolmogorov-Smirnov, of 1.95", distance / 1.95)
    errors.report_to(report)


def steps(
    report: Report,
    states: Mapping[str, tuple[tuple[int, ...], Sequence[int]]] | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
) -> None:
    """Check the step operations in all forms that solvers use, by default on `STATES`."""
    errors = Errors()
    for label, (shape, batches) in (states or STATES).items():
        for batch in batches:
            for dtype in dtypes:
                output = torch.randn(batch, *shape, device=common.DEVICE).to(dtype)
                kind = f"{label} {str(dtype)[6:]}"
                for pairs, row in product((False, True), range(3)):
                    _affine(errors, kind, output, pairs, row)
                _langevin(errors, kind, output)
                for probe in PROBES:
                    _hutchinson(errors, kind, output, probe)
            for block, pairs in product(((1, 1, 1), (shape[0], 1, 1), (1, 2, 2)), (False, True)):
                if all(whole % part == 0 for whole, part in zip(shape, block, strict=True)):
                    _projection(errors, label, (batch, *shape), block, pairs)
    errors.report_to(report)


Run = Callable[[Any, torch.dtype], Sequence[Tensor]]
"""``run(implementation, dtype)`` runs an implementation on float32 or float64 registers and returns the results."""


def _compare(errors: Errors, name: str, label: str, run: Run) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Compare all backends of an operation; return the reference's results in float32 and in float64."""
    reference = operations[name].reference
    plain, exact = run(reference, torch.float32), run(reference, torch.float64)
    for backend, function in present(name):
        for results in zip(run(function, torch.float32), plain, exact, strict=True):
            errors.compare(f"{name} {backend} {label}", *results)
    return plain, exact


def _table(width: int) -> DeviceTable:
    generator = torch.Generator().manual_seed(0)
    control = torch.tensor([[-1, 0, 0], [5, 1, 1], [2**31 - 1, 7, 1]], dtype=torch.int32, device=common.DEVICE)
    coefficients = torch.randn(3, width, generator=generator).to(common.DEVICE)
    if width == WIDTH:
        coefficients[:, -1] = 0.05
    return DeviceTable(coefficients, control)


def _affine(errors: Errors, label: str, output: Tensor, pairs: bool, row: int) -> None:
    """Check a step: row 0 with noise, row 1 with all registers, row 2 with only state and network output."""
    batch, channels, *size = output.shape
    ids = torch.arange(batch, device=common.DEVICE) + 2**35
    table, whole = _table(PAIR_WIDTH if pairs else WIDTH), (batch, (1 + pairs) * channels, *size)
    registers = [torch.randn(shape, device=common.DEVICE) for shape in (whole, whole, (2, *whole))]

    def run(implementation: Any, wide: torch.dtype) -> Sequence[Tensor]:
        state, saved, history = (register.to(wide, copy=True) for register in registers)
        options: dict[str, Any] = {} if row == 2 else {"sample_ids": ids}
        options |= {"saved": saved, "history": history, "earlier": 2} if row == 1 else {}
        affine_step.affine_step(
            state, table, row, network_output=output, pairs=pairs, run_seed=SEED, precise=True,
            implementation=implementation, **options,
        )  # fmt: skip
        return state, saved, history

    _compare(errors, "affine_step_pair" if pairs else "affine_step", label, run)


def _langevin(errors: Errors, label: str, output: Tensor) -> None:
    """Check the norms, the step, and the combined operation."""
    ids, table = torch.arange(len(output), device=common.DEVICE), _table(WIDTH)
    row = (ids, table.coefficients, table.control, None, 1)
    state = torch.randn(output.shape, device=common.DEVICE)

    def norms(implementation: Any, wide: torch.dtype) -> Sequence[Tensor]:
        score = output.double() if wide == torch.float64 else output
        return [implementation(score, *row, 0, True)]

    _, (exact_norms,) = _compare(errors, "langevin_norms", label, norms)
    for norm in NORMS:

        def step(implementation: Any, wide: torch.dtype, norm: Literal["sample", "batch"] = norm) -> Sequence[Tensor]:
            ours, score = state.to(wide, copy=True), output.double() if wide == torch.float64 else output
            implementation(ours, score, exact_norms.to(wide), *row, norm == "sample", 0, True)
            return [ours]

        (plain,), (exact,) = _compare(errors, "langevin_step", label, step)
        for choice, function in [("as samplers call it", None), *present("langevin")]:
            whole = state.clone()
            langevin.langevin(whole, output, ids, table, 1, norm=norm, precise=True, implementation=function)
            errors.compare(f"langevin {choice} {label}", whole, plain, exact)


def _hutchinson(errors: Errors, label: str, output: Tensor, probe: Literal["rademacher", "normal"]) -> None:
    """Check the dot products; terms cancel, so the allowed error is that of a float32 sum of absolute values."""
    ids = torch.arange(len(output), device=common.DEVICE)
    coefficients = torch.tensor([[-3.0, 0.5]], device=common.DEVICE)

    def run(implementation: Any, tangent: Tensor) -> Tensor:
        sums = torch.zeros(len(output), dtype=torch.float64, device=common.DEVICE)
        hutchinson_dot.hutchinson_dot(sums, tangent, ids, coefficients, probe=probe, precise=True,
                                      implementation=implementation)  # fmt: skip
        return sums

    exact = run(operations["hutchinson_dot"].reference, output.double())
    scale = output.double().abs().flatten(1).sum(1).max() * 5e-7
    for backend, function in present("hutchinson_dot"):
        errors.within(f"hutchinson_dot {backend} {label}", run(function, output) - exact, scale)


def _projection(errors: Errors, label: str, shape: tuple[int, ...], block: tuple[int, ...], pairs: bool) -> None:
    """Check the projection onto known block means, of images or of pairs."""
    batch, *size = shape
    ids, table = torch.arange(batch, device=common.DEVICE), _table(LEVEL_WIDTH)
    means = [whole // part for whole, part in zip(size, block, strict=True)]
    known = torch.rand(batch, *means, device=common.DEVICE)
    state = torch.randn(batch, (1 + pairs) * size[0], *size[1:], device=common.DEVICE)

    def run(implementation: Any, wide: torch.dtype) -> Sequence[Tensor]:
        ours = state.to(wide, copy=True)
        project.project(ours, known.to(wide), known < 0.6, ids, table, 1, pairs=pairs, run_seed=SEED, precise=True,
                        implementation=implementation)  # fmt: skip
        return [ours]

    _compare(errors, "project", f"{label} {'x'.join(map(str, block))}", run)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, weights: Tensor) -> Tensor:
    """Return the gradient of sum(weights * function(x))."""
    x = x.clone().requires_grad_()
    grad: Tensor = torch.autograd.grad((function(x) * weights).sum(), x)[0]
    return grad


def _at_row(evaluate: Evaluator, row: Tensor, x: Tensor) -> Tensor:
    return evaluate(x, row)


def conditions(report: Report) -> None:
    """Check gradients of folded networks against plain ones, and captured guided runs against uncaptured ones."""
    device, errors = torch.device(common.DEVICE), Errors()
    for name in GUIDED_MODELS:
        model = sf.load(name).to(device)
        label = torch.full((1,), float(model.parametrisation.labels(0.5)), device=device)
        folded, row = evaluator(model.network, label, "fp32"), torch.zeros(1, dtype=torch.int64, device=device)
        x = torch.randn(GUIDED_BATCHES[0], *model.state_shape, device=device)
        weights = torch.randn(GUIDED_BATCHES[0], *model.image_shape, device=device)
        with arithmetic("fp32", device, strict=False):
            plain = gradient(partial(model.network, labels=label.expand(GUIDED_BATCHES[0])), x, weights)
            ours = gradient(partial(_at_row, folded, row), x, weights)
        error = float((ours - plain).abs().max() / plain.abs().max())
        difference = captured_difference(model, SOLVERS.get(name, DEFAULT_SOLVER))
        errors.add(f"{name}: gradient", error / MAX_GRADIENT_ERROR)
        errors.add(f"{name}: captured", difference / MAX_DIFFERENCE)
        report.case(name, {"gradient": error, "apart": difference})
    errors.report_to(report)


def captured_difference(model: sf.ScoreModel, options: dict[str, Any]) -> float:
    """Return the largest difference between guided images of the captured and the uncaptured loop."""
    device = common.DEVICE
    seeds = range(GUIDED_BATCHES[1])
    images = sf.sample(model, seeds, steps=10, device=device, **options).cpu()
    operator = sf.SuperResolution(2)
    condition = (
        sf.PiGDM(operator, operator.apply(images), noise=0.05, seeds=seeds),
        sf.ClassGuidance(3, sf.load_classifier("digits-classifier")),
    )
    runs = [
        sf.Sampler(
            model, condition=condition, steps=GUIDED_STEPS, device=device, precision="fp32", capture=capture,
            compile=False, **options,
        ).sample(seeds)
        for capture in (False, True)
    ]  # fmt: skip
    return float((runs[0] - runs[1]).abs().max())
