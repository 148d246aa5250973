# SPDX-License-Identifier: Apache-2.0
"""Conditions on the digits: python -m benchmarks.studies.conditional_digits [PARTS] [--out FILE]

classes   500 images guided to the classes in turn: the share that an SVC recognises as their class, with and without
colours   500 held-out digits coloured from their gray: the share whose hue is within 0.05 of that of their class
halves    500 held-out digits whose lower half is filled in: the share that the SVC recognises as the original's class
restore   64 held-out digits from noisy measurements: root mean squared errors by both methods
cost      the cost of a step under each kind of condition, against a step without, interleaved
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
from scoresde_fast.data.digits import CLASSES
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
"""A good solver of each model at about fifty steps."""
PREDICTORS = {"digits-cld": "sscs", "digits-subvp": "euler_maruyama"}
CLASS_STEPS, HELD_STEPS, GUIDED_STEPS = 50, 60, 120
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
    """Return ``count`` held-out digits in [0, 1] and their classes, repeated from the first where there are too few."""
    images, labels = load_dataset("digits", "test")
    index = torch.arange(count) % len(images)
    return images[index].float() / 255, labels[index]


def share(found: Any, wanted: Tensor) -> float:
    """Return how often they agree."""
    return float((torch.as_tensor(found) == wanted).double().mean())


def classes(name: str) -> dict[str, Any]:
    """Return the shares of the asked class, with guidance and without."""
    recogniser, wanted = Recogniser(), torch.arange(COUNT) % CLASSES
    options = {**FAST[name], "steps": CLASS_STEPS}
    model, seeds = sf.load(name), range(COUNT)
    guided = sf.sample(model, classes=wanted.tolist(), classifier="digits-classifier", **options)
    free = sf.sample(model, seeds, **options)
    return {
        "asked_class": share(recogniser.classes(guided), wanted),
        "asked_class_without": share(recogniser.classes(free), wanted),
        "recognised_with_their_hue": share(tint_class(guided), wanted),
        "recognised": recogniser.report(guided).recognised,
        "recognised_without": recogniser.report(free).recognised,
        "options": options,
    }


def corrected(name: str, steps: int, corrector_steps: int, **options: Any) -> dict[str, Any]:
    """Return the options of a run with ``corrector_steps`` corrector steps before each step."""
    own = {"solver": PREDICTORS.get(name, "reverse_diffusion"), "steps": steps}
    return {**own, "corrector": "ald", "corrector_steps": corrector_steps, **options}


def by_method(
    name: str, methods: Sequence[str], guided: dict[str, Any], measure: Callable[[dict[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """Measure projection, projection with five corrector steps before each step, and the options ``guided``."""
    ways = {
        "projection": {"method": "projection", **FAST[name], "steps": HELD_STEPS},
        "corrected": {"method": "projection", **corrected(name, 50, 5, snr=0.4, grid="karras")},
        "pigdm": {"method": "pigdm", **guided},
    }
    return {method: {**measure(ways[method]), "options": ways[method]} for method in methods}


def colours(name: str, methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Return the shares of the right hue, and the largest error of the gray."""
    images, labels = held_out(COUNT)
    gray = images.mean(1, keepdim=True)

    def measure(options: dict[str, Any]) -> dict[str, Any]:
        coloured = sf.colorize(sf.load(name), gray, **options)
        off = (coloured.mean(1, keepdim=True) - gray).abs().max()
        return {"hue_of_class": share(tint_class(coloured), labels), "gray_off": float(off)}

    # CLD does better with a corrector and the same number of evaluations.
    guided = (
        corrected(name, GUIDED_STEPS // 2, 1, snr=0.35, grid="quadratic")
        if name == "digits-cld"
        else {**FAST[name], "steps": GUIDED_STEPS}
    )
    return by_method(name, methods, guided, measure)


def halves(name: str, methods: Sequence[str] = METHODS) -> dict[str, Any]:
    """Return the shares of the original's class, and the largest error of known pixels."""
    recogniser, (images, labels) = Recogniser(), held_out(COUNT)
    mask = torch.ones(16, 16)
    mask[8:] = 0

    def measure(options: dict[str, Any]) -> dict[str, Any]:
        filled = sf.inpaint(sf.load(name), images, mask, **options)
        off = float(((filled - images) * mask).abs().max())
        return {"class_of_original": share(recogniser.classes(filled), labels), "known_off": off}

    return by_method(name, methods, {**FAST[name], "steps": HELD_STEPS}, measure)


def restore(name: str) -> dict[str, Any]:
    """Return root mean squared errors against the originals."""
    images, _ = held_out(RESTORED)
    errors: dict[str, Any] = {}
    for task, operator in OPERATORS.items():
        exact = operator.apply(images)
        noise = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0))
        measured = exact + NOISE * (noise * (exact != 0) if isinstance(operator, sf.Mask) else noise)
        options = {**FAST[name], "steps": HELD_STEPS}
        restored = sf.restore(sf.load(name), operator, measured, noise=NOISE, **options)
        errors[task] = float((restored - images).square().mean().sqrt())
    return {"rmse_pigdm": errors, "noise": NOISE, "steps": HELD_STEPS}


def cost(name: str, steps: int = 12, repeats: int = 7, batch: int = 64) -> dict[str, Any]:
    """Return the time of a step under each kind of condition, as medians of ratios to one without, interleaved."""
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
        kind: statistics.median(one / free for one, free in zip(seconds[kind], seconds["none"], strict=True))
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
    """Time the projection of a batch alone, which a difference of whole runs is too noisy for."""
    assert isinstance(sampler.options, SolverOptions)
    run = RunContext(sampler.model, sampler.table, sampler.options, sampler.device)
    bound, ids = sampler.conditions[0].bind(run), torch.tensor(seeds)
    assert isinstance(bound, StateCondition)
    data, state = bound.data(ids), torch.zeros(len(seeds), *sampler.model.state_shape)
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        bound.after_row(state, data, ids, torch.zeros(1, dtype=torch.int64), run_seed=0, precise=False)
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
    """Measure the parts of each model, and write the results after each."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", default=list(PARTS))
    arguments.add_argument("--models", nargs="+", default=list(FAST))
    arguments.add_argument("--methods", nargs="+", default=METHODS, help="of colours and halves; the others are kept")
    arguments.add_argument("--out", type=Path, default=RESULTS / "conditional-digits.json")
    chosen = arguments.parse_args()
    found: dict[str, Any] = json.loads(chosen.out.read_text()) if chosen.out.exists() else {}
    for part, name in product(chosen.parts, chosen.models):
        begin, earlier = time.perf_counter(), {}
        if part in ("colours", "halves"):
            result, earlier = PARTS[part](name, chosen.methods), found.get(part, {}).get(name, {})
        else:
            result = PARTS[part](name)
        found.setdefault(part, {})[name] = {**earlier, **result, "seconds": time.perf_counter() - begin}
        print(part, name, json.dumps(found[part][name]), flush=True)
        save({**found, "count": COUNT}, chosen.out)


if __name__ == "__main__":
    main()
