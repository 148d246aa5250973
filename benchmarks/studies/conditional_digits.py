# SPDX-License-Identifier: Apache-2.0
"""Conditional sampling of digits: python -m benchmarks.studies.conditional_digits [PARTS] [--out FILE]

classes   500 images guided to classes 0 to 9 cyclically: the share that an SVC recognises as that class, with and
          without guidance
colours   500 held-out digits coloured from their gray: the share with the hue of their class, up to 0.05
halves    500 held-out digits whose lower half is filled in: the share that the SVC recognises as the original's class
restore   64 held-out digits from noisy measurements: root mean squared errors
cost      the time of a step with each kind of condition, relative to a step without, interleaved
"""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from scoresde_fast.bench.timing import race
from scoresde_fast.conditions.operators import LinearOperator
from scoresde_fast.data import load_dataset
from scoresde_fast.data.built_in import DIGITS_CLASSES
from scoresde_fast.evaluation.recognise import Recogniser, tint_class
from scoresde_fast.loop.condition import RunContext, StateCondition
from scoresde_fast.solvers import SolverOptions

COUNT, RESTORED, NOISE = 500, 64, 0.05
FAST: dict[str, dict[str, Any]] = {
    "digits-ve": {"solver": "sa", "grid": "karras"},
    "digits-vp": {"solver": "sa", "grid": "logsnr"},
    "digits-subvp": {"solver": "sa", "grid": "logsnr"},
    "digits-cld": {"solver": "sscs", "grid": "quadratic"},
}
"""A good solver of each model for about fifty steps."""
PREDICTORS = {"digits-cld": "sscs", "digits-subvp": "euler_maruyama"}
CLASS_STEPS, CONDITION_STEPS, COLOUR_STEPS = 50, 60, 120
METHODS = ("projection", "corrected", "pigdm")
OPERATORS: dict[str, LinearOperator] = {
    "2x super-resolution": sf.SuperResolution(2),
    "4x super-resolution": sf.SuperResolution(4),
    "box of 8x8 unknown": sf.Mask.box((3, 16, 16), 4, 4, 8, 8),
    "half of the pixels": sf.Mask.random((3, 16, 16), 0.5, seed=0),
    "blur": sf.Blur(1.0),
    "gray": sf.Gray(),
}


def held_out(count: int) -> tuple[Tensor, Tensor]:
    """Return ``count`` held-out digits in [0, 1] and their classes, repeated cyclically if there are fewer."""
    images, labels = load_dataset("digits", "test")
    index = torch.arange(count) % len(images)
    return images[index].float() / 255, labels[index]


def share(predicted: Any, expected: Tensor) -> float:
    """Return the share of equal elements."""
    return float((torch.as_tensor(predicted) == expected).double().mean())


def classes(name: str) -> dict[str, Any]:
    """Return the shares of images recognised as their class, with and without guidance."""
    recogniser, labels = Recogniser(), torch.arange(COUNT) % DIGITS_CLASSES
    options = {**FAST[name], "steps": CLASS_STEPS}
    model, seeds = sf.load(name), range(COUNT)
    guided = sf.sample(model, classes=labels.tolist(), classifier="digits-classifier", **options)
    free = sf.sample(model, seeds, **options)
    return {
        "asked_class": share(recogniser.classes(guided), labels),
        "asked_class_without": share(recogniser.classes(free), labels),
        "recognised_with_their_hue": share(tint_class(guided), labels),
        "recognised": recogniser.report(guided).recognised,
        "recognised_without": recogniser.report(free).recognised,
        "options": options,
    }


def corrected(name: str, steps: int, corrector_steps: int, **options: Any) -> dict[str, Any]:
    """Return the options of a run with ``corrector_steps`` corrector steps before each step."""
    predictor = {"solver": PREDICTORS.get(name, "reverse_diffusion"), "steps": steps}
    return {**predictor, "corrector": "ald", "corrector_steps": corrector_steps, **options}


def by_method(
    name: str, methods: Sequence[str], guided: dict[str, Any], measure: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Measure the chosen methods: projection, projection with five corrector steps before each step, and guidance.

    ``guided`` are the options of guidance.
    """
    options = {
        "projection": {"method": "projection", **FAST[name], "steps": CONDITION_STEPS},
        "corrected": {"method": "projection", **corrected(name, 50, 5, snr=0.4, grid="karras")},
        "pigdm": {"method": "pigdm", **guided},
    }
    return {method: {**measure(options[method]), "options": options[method]} for method in methods}


def colours(name: str, methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Return the share of images with the hue of their class, and the largest error of the gray, for each method."""
    images, labels = held_out(COUNT)
    gray = images.mean(1, keepdim=True)

    def measure(options: dict[str, Any]) -> dict[str, Any]:
        coloured = sf.colorize(sf.load(name), gray, **options)
        error = (coloured.mean(1, keepdim=True) - gray).abs().max()
        return {"hue_of_class": share(tint_class(coloured), labels), "gray_off": float(error)}

    # With the same number of evaluations, CLD is better with a corrector.
    guided = (
        corrected(name, COLOUR_STEPS // 2, 1, snr=0.35, grid="quadratic")
        if name == "digits-cld"
        else {**FAST[name], "steps": COLOUR_STEPS}
    )
    return by_method(name, methods, guided, measure)


def halves(name: str, methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Return the share of images of the original's class, and the largest error of known pixels, for each method."""
    recogniser, (images, labels) = Recogniser(), held_out(COUNT)
    mask = torch.ones(16, 16)
    mask[8:] = 0

    def measure(options: dict[str, Any]) -> dict[str, Any]:
        filled = sf.inpaint(sf.load(name), images, mask, **options)
        error = float(((filled - images) * mask).abs().max())
        return {"class_of_original": share(recogniser.classes(filled), labels), "known_off": error}

    return by_method(name, methods, {**FAST[name], "steps": CONDITION_STEPS}, measure)


def restore(name: str) -> dict[str, Any]:
    """Return root mean squared errors of restored images against the originals."""
    images, _ = held_out(RESTORED)
    errors: dict[str, Any] = {}
    for task, operator in OPERATORS.items():
        exact = operator.apply(images)
        noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
        if isinstance(operator, sf.Mask):
            noise = noise * (exact != 0)  # unknown pixels stay zero
        measured = exact + NOISE * noise
        options = {**FAST[name], "steps": CONDITION_STEPS}
        restored = sf.restore(sf.load(name), operator, measured, noise=NOISE, **options)
        errors[task] = float((restored - images).square().mean().sqrt())
    return {"rmse_pigdm": errors, "noise": NOISE, "steps": CONDITION_STEPS}


def cost(name: str, steps: int = 12, repeats: int = 7, batch: int = 64) -> dict[str, Any]:
    """Return the time of a step with each kind of condition, and the median ratio to a step without."""
    model, (images, _) = sf.load(name), held_out(batch)
    seeds = list(range(batch))
    mask, options = torch.ones(16, 16), {**FAST[name], "steps": steps}
    mask[8:] = 0
    kinds: dict[str, Any] = {
        "none": None,
        "projection": sf.Projection(images, mask, seeds=seeds),
        "classes": sf.ClassGuidance(3, sf.load_classifier("digits-classifier")),
        "pigdm": sf.PiGDM(sf.SuperResolution(2), sf.SuperResolution(2).apply(images), noise=NOISE, seeds=seeds),
        "dps": sf.DPS(sf.Gray(), images.mean(1, keepdim=True), seeds=seeds),
    }
    samplers = {kind: sf.Sampler(model, condition=condition, **options) for kind, condition in kinds.items()}
    runs: dict[str, Callable[[], Any]] = {kind: partial(sampler.sample, seeds) for kind, sampler in samplers.items()}
    for run in runs.values():
        run()
    seconds = race(runs, torch.device("cpu"), math.inf, most=repeats)
    ratios = {
        kind: statistics.median(time / plain for time, plain in zip(seconds[kind], seconds["none"], strict=True))
        for kind in kinds
    }
    step = statistics.median(seconds["none"]) / steps
    return {
        "projection_share": project_seconds(samplers["projection"], seeds) / step,
        "ms_a_step": {kind: 1e3 * statistics.median(times) / steps for kind, times in seconds.items()},
        "steps_of_none": ratios,
        "batch": batch,
        "threads": torch.get_num_threads(),
    }


def project_seconds(sampler: sf.Sampler, seeds: list[int], calls: int = 200) -> float:
    """Return the median seconds to project a batch, timed alone because differences of whole runs are too noisy."""
    assert isinstance(sampler.options, SolverOptions)
    run = RunContext(sampler.model, sampler.table, sampler.options, sampler.device)
    bound, ids = sampler.conditions[0].bind(run), torch.tensor(seeds)
    assert isinstance(bound, StateCondition)
    data, state = bound.data(ids), torch.zeros(len(seeds), *sampler.model.state_shape)
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        bound.after_row(state, data, ids, torch.zeros(1, dtype=torch.int64), run_seed=0)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


PARTS: dict[str, Callable[..., dict[str, Any]]] = {
    "cost": cost,
    "classes": classes,
    "halves": halves,
    "colours": colours,
    "restore": restore,
}


def main() -> None:
    """Measure the chosen parts for each model, and write the result after each one."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", default=list(PARTS))
    arguments.add_argument("--models", nargs="+", default=list(FAST))
    arguments.add_argument("--methods", nargs="+", default=METHODS, help="methods for colours and halves")
    arguments.add_argument("--out", type=Path, default=RESULTS / "conditional-digits.json")
    chosen = arguments.parse_args()
    results: dict[str, Any] = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    for part, name in product(chosen.parts, chosen.models):
        begin, earlier = time.perf_counter(), {}
        if part in ("colours", "halves"):
            result, earlier = PARTS[part](name, chosen.methods), results.get(part, {}).get(name, {})
        else:
            result = PARTS[part](name)
        results.setdefault(part, {})[name] = {**earlier, **result, "seconds": time.perf_counter() - begin}
        print(part, name, json.dumps(results[part][name]), flush=True)
        save({**results, "count": COUNT}, chosen.out)


if __name__ == "__main__":
    main()
