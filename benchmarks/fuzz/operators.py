# SPDX-License-Identifier: Apache-2.0
"""Wild calls of the operators: real calls, recorded from small runs, with changed arguments."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from math import inf, isfinite, nan
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import scoresde_fast as sf
from benchmarks.fuzz.cases import Case, Outcome
from benchmarks.fuzz.options import BASES

NAMESPACES = ("scoresde_fast", "scoresde_fast_C")
KEPT = 3
"""Recorded calls of each operator."""
EXTREMES = (-(2**63), -(2**31), -1000, -1, 0, 1, 3, 7, 1000, 2**31, 2**62)

Arguments = list[Any]
CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "without its last row": lambda tensor: tensor[:-1] if tensor.ndim else tensor,
    "without its last column": lambda tensor: tensor[..., :-1] if tensor.ndim else tensor,
    "without elements": lambda tensor: tensor.flatten()[:0],
    "with a further dimension": lambda tensor: tensor[None],
    "as one number": lambda tensor: tensor.flatten()[0].clone(),
    "flat": lambda tensor: tensor.flatten(),
    "transposed": lambda tensor: tensor.transpose(0, -1) if tensor.ndim else tensor,
    "ten times": lambda tensor: tensor.repeat(10, *[1] * (tensor.ndim - 1)) if tensor.ndim else tensor,
    "with strides of 0": lambda tensor: tensor.flatten()[:1].expand(tensor.numel()).reshape(tensor.shape),
    "as float64": lambda tensor: tensor.double(),
    "as bfloat16": lambda tensor: tensor.bfloat16(),
    "as int32": lambda tensor: tensor.int(),
    "as bool": lambda tensor: tensor.bool(),
    "as complex64": lambda tensor: tensor.to(torch.complex64),
    "on the meta device": lambda tensor: tensor.to("meta"),
    "sparse": lambda tensor: tensor.to_sparse(),
    "as None": lambda tensor: None,
    "as a list": lambda tensor: tensor.tolist(),
    **{f"of {value}": lambda tensor, value=value: _filled(tensor, value)  # type: ignore[misc]
       for value in (nan, inf, 1e38, *EXTREMES)},
}  # fmt: skip
"""What becomes of a tensor."""
OTHERS: dict[type, list[Any]] = {
    bool: [None, 2, "x"],
    int: [*EXTREMES, None, 2**64, 1.5, "x"],
    float: [nan, inf, -1.0, 0.0, 1e38, 1e308, None, "x"],
    str: ["", "up", "down", "none", "x" * 10_000, None, 3],
    list: [[], [nan], [1.0] * 1000, [1e308, 1e308], [1.0, 2.0], None, "x"],
    type(None): [3, "x", torch.zeros(1), torch.zeros(0), torch.ones(2, 3, 4, 5), torch.tensor([-1000]),
                 torch.tensor([2**40])],
}  # fmt: skip
"""What becomes of an argument that is no tensor."""


class _Recorder(TorchDispatchMode):
    """Keeps copies of the first calls of each operator of the package."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[Arguments]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        namespace, _, name = function._schema.name.partition("::")
        if namespace in NAMESPACES and len(calls := self.calls.setdefault(name, [])) < KEPT:
            calls.append([_copy(argument) for argument in arguments])
        return function(*arguments, **(keywords or {}))


def operators(random: Random, count: int, shared: Path) -> Iterator[Case]:
    """Calls with one to three changed arguments; right is anything but the end of the process."""
    calls = recorded_calls()
    functions = [(namespace, name) for namespace in NAMESPACES for name in calls
                 if hasattr(getattr(torch.ops, namespace), name)]  # fmt: skip
    for index in range(count):
        namespace, name = functions[index % len(functions)]
        arguments = [_copy(argument) for argument in random.choice(calls[name])]
        schema = getattr(getattr(torch.ops, namespace), name).default._schema
        changes = []
        for position in random.sample(range(len(arguments)), min(len(arguments), random.choice((1, 1, 2, 3)))):
            argument = arguments[position]
            if isinstance(argument, Tensor):
                what = random.choice(list(CHANGES))
                arguments[position] = CHANGES[what](argument)
            else:
                arguments[position] = random.choice(OTHERS[type(argument)])
                what = f"= {_shown(arguments[position])}"
            changes.append(f"{schema.arguments[position].name} {what}")
        yield Case(f"{namespace}::{name}", ", ".join(changes), partial(_call, namespace, name, arguments))


def _call(namespace: str, name: str, arguments: Arguments, folder: Path) -> Outcome:
    try:
        getattr(getattr(torch.ops, namespace), name)(*arguments)
    except Exception:
        return Outcome()
    gc.collect()  # damaged memory shows when it is freed
    return Outcome()


def recorded_calls() -> dict[str, list[Arguments]]:
    """Return real calls of the operators, from small runs on this CPU."""
    torch.manual_seed(0)
    recorder = _Recorder()
    ve, vp, cld = (sf.create(BASES[name]).eval() for name in ("ve", "vp", "cld"))
    images = torch.rand(2, 1, 8, 8)
    mask = torch.ones(8, 8, dtype=torch.bool)
    mask[:4] = False
    with recorder:
        sf.Sampler(ve, solver="pc", steps=2).sample(2)
        sf.Sampler(vp, solver="unipc", steps=3).sample(2)
        sf.Sampler(cld, solver="sscs", steps=2).sample(2)
        sf.likelihood(vp, (images * 255).byte(), steps=1)
        sf.inpaint(ve, images, mask, samples=1, solver="pc", steps=2)
        sf.inpaint(ve, images, mask, samples=1, steps=2, method="pigdm")
    calls = recorder.calls
    for state, output, ids, coefficients, control, counter, offset, per_sample, seed, precise in calls["langevin"]:
        row = [ids, coefficients, control, counter, offset]
        norms = torch.ops.scoresde_fast.langevin_norms(output, *row, seed, precise)
        calls.setdefault("langevin_norms", []).append([output, *row, seed, precise])
        calls.setdefault("langevin_step", []).append([state, output, norms, *row, per_sample, seed, precise])
    return calls


def _copy(argument: Any) -> Any:
    return argument.detach().clone() if isinstance(argument, Tensor) else argument


def _filled(tensor: Tensor, value: float) -> Tensor:
    """Return a tensor of one value, as far as its type has it."""
    if tensor.is_floating_point():
        return torch.full_like(tensor, value)
    number = int(value) if isfinite(value) and abs(value) < 2**63 else -(2**63)
    return torch.full(tensor.shape, number, dtype=torch.int64).to(tensor.dtype)


def _shown(value: Any) -> str:
    return f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else repr(value)[:40]
