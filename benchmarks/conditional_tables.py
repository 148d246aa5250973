# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/conditional.md, made from benchmarks/results alone: python benchmarks/conditional_tables.py"""

from __future__ import annotations

from collections.abc import Callable

from tables import MODELS, load, table_row

SDES = {"ve": "VE", "vp": "VP", "subvp": "sub-VP", "cld": "CLD"}
METHODS = {"projection": "projection", "both": "projection and PiGDM", "pigdm": "PiGDM", "dps": "DPS"}
TASKS = {"inpainting": "one pixel of four", "gray": "gray", "2x": "means over 2x2"}


def truth() -> list[str]:
    """Errors of mean and covariance of 20 000 conditional samples, in percent."""
    lines = load("conditional-truth")["lines"]
    rows = [table_row(["data", "known", "by", *SDES.values()]), table_row(["---"] * 7)]
    for data in ("gaussian", "mixture"):
        for task, known in TASKS.items():
            for method, title in METHODS.items():
                found = [lines.get(f"{data}/{method}/{task}/{sde}") for sde in SDES]
                cells = [
                    f"{100 * line['mean']:.1f} / {100 * line['covariance']:.1f}" if line else "-" for line in found
                ]
                rows.append(table_row([data, known, title, *cells]))
    return rows


def bias() -> list[str]:
    """The exact bias of projection on Gaussian data, in percent."""
    lines = load("conditional-bias")["lines"]
    columns = list(dict.fromkeys((line["sde"], line["grid"]) for line in lines))
    runs = dict.fromkeys((line["known"], line["steps"], line["corrector_steps"]) for line in lines)
    found = {tuple(line[key] for key in ("known", "steps", "corrector_steps", "sde", "grid")): line for line in lines}
    titles = [f"{SDES[sde]}, {grid}" for sde, grid in columns]
    rows = [table_row(["known", "steps x correctors", *titles]), table_row(["---"] * (2 + len(columns)))]
    for known, steps, corrections in runs:
        cells = [found[(known, steps, corrections, *column)] for column in columns]
        errors = [f"{100 * cell['mean']:.1f} / {100 * cell['covariance']:.1f}" for cell in cells]
        rows.append(table_row([TASKS[known], f"{steps} x {corrections}", *errors]))
    return rows


def digits() -> list[str]:
    """What becomes of the digits under conditions."""
    result = load("conditional-digits")
    classes, halves, colours = result["classes"], result["halves"], result["colours"]
    wanted: list[tuple[str, Callable[[str], float]]] = [
        ("of the asked class, guided", lambda name: classes[name]["asked_class"]),
        ("the same without guidance", lambda name: classes[name]["asked_class_without"]),
        ("lower half filled in, of the original's class: projection", lambda name: _of(halves, name, "projection")),
        ("the same with corrector steps", lambda name: _of(halves, name, "corrected")),
        ('the same, `method="pigdm"`', lambda name: _of(halves, name, "pigdm")),
        ("coloured with the hue of their class: projection", lambda name: _of(colours, name, "projection")),
        ("the same with corrector steps", lambda name: _of(colours, name, "corrected")),
        ('the same, `method="pigdm"`', lambda name: _of(colours, name, "pigdm")),
    ]
    rows = [
        table_row([f"of {result['count']} digits", *(f"`{name}`" for name in MODELS)]),
        table_row(["---"] * (1 + len(MODELS))),
    ]
    return rows + [table_row([title, *(f"{share(name):.1%}" for name in MODELS)]) for title, share in wanted]


def restored() -> list[str]:
    """Root mean squared errors of restored digits, by the models that were measured."""
    result = load("conditional-digits")["restore"]
    models = [name for name in MODELS if name in result]
    noise, tasks = result[models[0]]["noise"], result[models[0]]["rmse_pigdm"]
    rows = [
        table_row([f"measured, with noise {noise}", *(f"`{name}`" for name in models)]),
        table_row(["---"] * (1 + len(models))),
    ]
    return rows + [table_row([task, *(f"{result[name]['rmse_pigdm'][task]:.3f}" for name in models)]) for task in tasks]


def cost() -> list[str]:
    """What a step costs, in steps without a condition."""
    result = load("conditional-digits")["cost"]
    titles = {"classes": "classes", "pigdm": "PiGDM", "dps": "DPS"}
    rows = [table_row(["a step, in steps without", "projection adds", *titles.values()]), table_row(["---"] * 5)]
    for name in MODELS:
        found = result[name]
        ratios = [f"{found['steps_of_none'][kind]:.2f}" for kind in titles]
        rows.append(table_row([f"`{name}`", f"{found['projection_share']:.1%}", *ratios]))
    return rows


def _of(found: dict, name: str, method: str) -> float:
    """The share that a task found by a method."""
    return next(value for key, value in found[name][method].items() if key in ("class_of_original", "hue_of_class"))


if __name__ == "__main__":
    for table in (truth(), bias(), digits(), restored(), cost()):
        print("\n".join(table), end="\n\n")
