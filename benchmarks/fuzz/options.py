# SPDX-License-Identifier: Apache-2.0
"""Invalid values in configurations, and as options of `Sampler`."""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import fields
from functools import partial
from math import inf, nan
from pathlib import Path
from random import Random
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import scoresde_fast as sf
from benchmarks.fuzz.cases import Case, Outcome, judged
from scoresde_fast.configs import load_config
from scoresde_fast.configs.schema import Config
from scoresde_fast.flow.options import AdaptiveOptions
from scoresde_fast.run_options import RunOptions
from scoresde_fast.solvers.options import SolverOptions

SMALL = {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4], "num_scales": 50}
STEPS = {"steps": 2, "corrector": "langevin"}
IMAGES = {"dataset": "digits", "image_size": 8, "num_channels": 1}
BASES: dict[str, dict[str, dict[str, Any]]] = {
    "ve": {"model": SMALL, "data": IMAGES, "training": {"sde": "vesde"}, "sampling": STEPS},
    "vp": {"model": SMALL, "data": IMAGES | {"centered": True}, "training": {"sde": "vpsde"}, "sampling": STEPS},
    "cld": {"model": SMALL | {"num_scales": 0}, "data": IMAGES | {"centered": True}, "training": {"sde": "cld"},
            "sampling": {"predictor": "gddim", "steps": 2}},
}  # fmt: skip
"""Small valid configurations."""
BASE_OF = {"sigma_min": "ve", "sigma_max": "ve", "fourier_scale": "ve", "fir_kernel": "ve", "order": "cld"}
"""The configuration in which an option has an effect; "cld" for its own section, otherwise "vp"."""

NOT_NUMBERS = ["4", True, [], {}, nan]
INVALID: dict[Any, list[Any]] = {
    int: [-1, 2.5, *NOT_NUMBERS],
    float: [inf, -inf, 10**400, *NOT_NUMBERS],
    bool: ["true", 2, [], nan],
    str: [3, [], {}, 2.5],
    tuple: ["1;2", 3, [0], [-1], ["a"], [None], [[1]], [nan], {}],
    Literal: ["", "unknown", "x" * 10_000, 3, [], {}],
}
"""Values that no option of a type takes."""
HUGE = [10**9, 10**12, 10**30]
MORE_INVALID: dict[str, list[Any]] = {
    **dict.fromkeys(("nf", "num_res_blocks", "num_scales", "image_size", "num_channels", "steps"), HUGE),
    **{name: [-1.0, 1e308] for name in ("sigma_max", "beta_max", "label_scale", "fourier_scale")},
    **{name: [-1.0, 0.0] for name in ("sigma_min", "beta_min", "snr", "lr", "m_inv", "gamma", "beta0")},
    "ch_mult": [[], [10**9], [1] * 1000],
    "fir_kernel": [[], [1e308, 1e308], [1e-320]],
    "sampling.eps": [5.0, -1.0, 0.0],
    "sampling.order": [99, 0],
    "optim.eps": [-1.0, 0.0],
    "dropout": [1.0, -0.5],
    "n_steps_each": [0, *HUGE],
}
"""Further values that an option does not take, by its name."""
MAY_BE_NEGATIVE = ("grad_clip",)


def configurations(random: Random, count: int, shared: Path) -> Iterator[Case]:
    """Configurations with one to three invalid values, and broken files; loaded, built, and sampled in one step."""
    hints = {
        section: {field.name: get_type_hints(cls)[field.name] for field in fields(cls)}
        for section, cls in get_type_hints(Config).items()
        if section in {field.name for field in fields(Config)}
    }
    invalid_sections: tuple[Any, ...] = (3, [], "x", None)
    options = [(section, name, value)
               for section, names in hints.items()
               for name, hint in names.items()
               for value in _invalid(section, name, hint)]  # fmt: skip
    options += [
        ("model", "unknown", 1),
        ("unknown", "", {}),
        *((section, "", value) for section in hints for value in invalid_sections),
    ]
    texts = list(BROKEN_FILES.items())
    for index in range(count):
        if index % 20 == 0:
            what, text = texts[index // 20 % len(texts)]
            yield Case("file", what, partial(_load_file, text, shared / "config.json"))
            continue
        chosen = random.sample(options, random.choice((1, 1, 1, 2, 3)))
        section, name, _ = chosen[0]
        base = BASE_OF.get(name, "cld" if section == "cld" else "vp")
        what = ", ".join(f"{section}.{name} = {_short(value)}" for section, name, value in chosen)
        yield Case(f"{section}.{name}", f"{base}: {what}", partial(_load_invalid, BASES[base], chosen))


BROKEN_FILES: dict[str, Callable[[], bytes]] = {
    "100 000 nested lists": lambda: b"[" * 100_000,
    "100 000 nested objects": lambda: b'{"model":' * 100_000,
    "nested options": lambda: json.dumps({**BASES["vp"], "model": {**SMALL, "nf": None}}).replace(
        "null", "[" * 900 + "]" * 900).encode(),
    "5 000 digits": lambda: json.dumps(BASES["vp"]).replace('"nf": 8', f'"nf": {"9" * 5000}').encode(),
    "empty": lambda: b"",
    "no UTF-8": lambda: b"\xff\xfe{}",
    "zeros": lambda: bytes(1000),
    "cut": lambda: json.dumps(BASES["vp"]).encode()[:100],
    "a list": lambda: b"[1, 2]",
    "a number": lambda: b"3",
    "no sections": lambda: b"{}",
    "NaN": lambda: b'{"model": NaN}',
    "an unpaired surrogate": lambda: rb'{"model": {"name": "\ud800"}, "training": {"sde": "vpsde"}}',
}  # fmt: skip


def _load_file(text: Callable[[], bytes], path: Path, folder: Path) -> Outcome:
    path.write_bytes(text())
    return judged(lambda: load_config(path), lambda result: "accepted")


def _load_invalid(base: dict[str, dict[str, Any]], chosen: list[tuple[str, str, Any]], folder: Path) -> Outcome:
    options = deepcopy(base)
    for section, name, value in chosen:
        if name:
            if isinstance(options.setdefault(section, {}), dict):
                options[section][name] = value
        else:
            options[section] = value

    def use() -> object:
        model = sf.create(load_config(options)).eval()
        return sf.Sampler(model, batch_size=1).sample([0])

    section, name, _ = chosen[0]
    return judged(use, lambda result: f"{section}.{name} accepted")


def _invalid(section: str, name: str, hint: Any) -> list[Any]:
    """Return invalid values for an option of a configuration with this type."""
    optional = get_origin(hint) in (Union, types.UnionType)
    kind = get_args(hint)[0] if optional else hint
    values = [
        *INVALID[get_origin(kind) or kind],
        *MORE_INVALID.get(name, ()),
        *MORE_INVALID.get(f"{section}.{name}", ()),
        *([] if optional else [None]),
    ]
    return [value for value in values if not (name in MAY_BE_NEGATIVE and isinstance(value, float) and value < 0)]


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**40 else "10**400"
    return text if len(text) < 80 else f"{text[:60]}... ({len(text)} characters)"


# Options of `Sampler`

FLAGS: list[Any] = ["no", 2, [], nan]
NAMES: list[Any] = ["", "unknown", "x" * 5000, 3, [], {}, b"ddim"]
COUNTS: list[Any] = [0, -1, 2.5, "4", [], {}, nan, 10**30]
AMOUNTS: list[Any] = [nan, inf, -inf, -1.0, "0.1", [], {}, 10**400]
OPTIONS: dict[str, list[Any]] = {
    "solver": [*NAMES, "DDIM", ("ddim",)],
    "steps": [*COUNTS, 10**9, 10**12],
    "corrector": NAMES,
    "corrector_steps": [*COUNTS, 10**9],
    "snr": AMOUNTS,
    "grid": [*NAMES, [1], [0.5, 1.0], [nan, 0.1], [inf, 0.1], "1,2", "1,0.5,x", "sigmas:",
             [2.0, 0.1], [1.0, -0.1], [[1, 0.5]], ("sigmas", []), [1.0, 1.0], [1.0, nan], [1.0, 0.2, 0.5], "ays"],
    "rho": [*AMOUNTS, 0.0, 1e9],
    "sigma_min": [*AMOUNTS, 0.0, 1e-9, 1e9],
    "sigma_max": [*AMOUNTS, 0.0, 1e-9, 1e9],
    "probability_flow": FLAGS,
    "denoise": FLAGS,
    "eps": [*AMOUNTS, 5.0, 0.0],
    "order": [*COUNTS, 99],
    "variant": NAMES,
    "prediction": NAMES,
    "variable": NAMES,
    "sigma_data": AMOUNTS,
    "lower_order_final": FLAGS,
    "original": FLAGS,
    "eta": AMOUNTS,
    "weights": [(), ((0.1,), (0.1,)), ((0.1,),), ((nan,), ()), "0.1", [1, 2], [["a"]], {}, ((0.1, 0.2), ())],
    "statistics": [(), ((0.0, 0.0, -1.0),), ((0.0, 0.0),), ((1.0, 0.0, 0.0), (0.0, 0.0, 0.0)), ((nan,) * 3,), "0", [1],
                   {}],
    "churn": AMOUNTS,
    "s_min": [*AMOUNTS, 0.1],
    "s_max": [*AMOUNTS, 0.1],
    "s_noise": [*AMOUNTS, 1.0],
    "gamma": AMOUNTS,
    "restart": ["", "0.1:0.3", "0.3:0.1:2:5", "nan:0.3:2:5", "0.1:0.3:-1:5", "0.1:0.3:2:0",
                "0.1:5:2:5", "0.1:0.3:1000000000:5", ((0.1, 0.3, 2),), 3, {}, [1]],
    "cache_interval": [*COUNTS, 10**9],
    "cache_branches": [*COUNTS, 10**9],
    "parallel": [*COUNTS, 1],
    "parallel_tolerance": [*AMOUNTS, 1.0],
    "langevin_norm": NAMES,
    "rtol": AMOUNTS,
    "atol": AMOUNTS,
    "error_norm": NAMES,
    "run_seed": [-1, 2**64, 1.5, "1", [], nan],
    "batch_size": COUNTS[:-1],
    "device": ["gpu", "cuda:99", "meta", "", 3, [], "mps", "x" * 5000],
    "precision": NAMES,
    "strict": FLAGS,
    "compile": ["yes", 2, [], nan],
    "capture": ["yes", 2, [], nan],
    "backend": NAMES[:-1],
    "condition": [3, "x", [3], {}],
    "inputs": [3, "x", {"y": 3}, {"y": None}, {3: 4}],
    "guidance": [3, "x", {}, []],
    "unknown": [3],
    "num_inference_steps": [3],
}  # fmt: skip
"""Invalid values of each option."""
SOLVER_OF = {
    "eta": "ddim",
    "weights": "ddim",
    "statistics": "dpm_v3",
    "churn": "heun",
    "s_min": "heun",
    "s_max": "heun",
    "s_noise": "heun",
    "gamma": "gradient_estimation",
    "restart": "heun",
    "order": "unipc",
    "variant": "unipc",
    "prediction": "unipc",
    "variable": "deis",
    "sigma_data": "trigflow",
    "lower_order_final": "unipc",
    "rtol": "rk45",
    "atol": "rk45",
    "error_norm": "rk45",
}
"""Solvers that take an option; the others suit "pc"."""
SEEDS: list[Any] = [
    range(10**20),
    [1.5],
    [-1],
    [2**63],
    ["1"],
    [None],
    [[1]],
    "0-3",
    "",
    None,
    1.5,
    -1,
    [nan],
    {"a": 1},
    10**12,
    2**63,
    {1.5},
    b"1",
]


def sampler_options(random: Random, count: int, shared: Path) -> Iterator[Case]:
    """A sampler with an invalid option, or invalid seeds."""
    assert {field.name for cls in (SolverOptions, AdaptiveOptions, RunOptions) for field in fields(cls)} <= {*OPTIONS}
    model = sf.create(BASES["vp"]).eval()
    pairs = [(name, value) for name, values in OPTIONS.items() for value in values]
    pairs += [("seeds", value) for value in SEEDS]
    order = random.sample(pairs, len(pairs))
    for index in range(count):
        name, value = order[index % len(order)]
        solver = SOLVER_OF.get(name) or random.choice(["pc", "pc", "euler_maruyama", "ddim"])
        if name in ("corrector", "corrector_steps", "snr", "langevin_norm"):
            solver = "pc"
        yield Case(name, f"{solver}, {name} = {_short(value)}", partial(_sample_invalid, model, solver, name, value))


def _sample_invalid(model: sf.ScoreModel, solver: str, name: str, value: Any, folder: Path) -> Outcome:
    def use() -> object:
        options = {"solver": solver} if solver == "rk45" else {"solver": solver, "steps": 2}
        if name == "grid":
            options.pop("steps")
        if name == "seeds":
            return sf.Sampler(model, **options).sample(value)
        return sf.Sampler(model, **{**options, name: value}).sample([0])

    return judged(use, lambda result: f"{name} accepted", sentences=(TypeError, RuntimeError))
