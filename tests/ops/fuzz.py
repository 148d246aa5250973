# SPDX-License-Identifier: Apache-2.0
"""A fuzzer of the operators: ``python -m tests.ops.fuzz CALLS FILE`` makes wild calls, found from the schemas alone.

Each call may return or raise an error of Python; what it may not do is end the process.  FILE holds the call that is
under way, so that a crash names it.  The last line of the output counts, for each operator, the calls that returned and
those that were refused.
"""

from __future__ import annotations

import json
import math
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any, TextIO
from zlib import crc32

import torch
from hypothesis import HealthCheck, Phase, given, reject, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import scoresde_fast.ops  # noqa: F401  (registers the operators)

NAMESPACES = ("scoresde_fast", "scoresde_fast_C")
REFUSALS = (
    RuntimeError,
    ValueError,
    TypeError,
    IndexError,
    AttributeError,
)  # AttributeError: None for a tensor in Python
ROOM = 8 * 2**30
"""Bytes that the fuzzer may allocate, so that a huge but valid size is refused and not waited for."""

DTYPES = ("float32", "bfloat16", "float16", "float64", "int64", "int32", "bool", "uint8", "complex64", "float8_e5m2")
INTS = (-(2**63), -(2**31) - 1, -(2**31), -1000, -100, -1, 0, 1, 2, 3, 7, 2**16, 2**31, 2**32, 2**40, 2**62, 2**63 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-300, 1e308, math.inf, -math.inf, math.nan)
SIZES = (4, 8, 3, 1, 2, 5, 7, 9, 16, 17, 33, 0)
HUGE = (2**31, 2**40, 2**62)


FORMS = {
    "affine_step_pair": (1,), "winograd_convolution": (1,), "winograd_convolution_transposed": (1,), "project": (2,),
    "hutchinson_dot": (3,), "convolution": (2, 3), "affine_step": (0,), "langevin": (0,), "langevin_norms": (0,),
    "langevin_step": (0,), "group_norm_silu": (0,),
}  # fmt: skip
"""Forms of `sizes` that suit an operator, so that more of its calls get past its checks; others take any."""


@dataclass(frozen=True)
class TensorOf:
    """A tensor of zeros and the given values, repeated; ``kind`` says what is unusual about it."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    kind: str = "contiguous"
    values: tuple[float, ...] = (1.0, 0.5, -2.0)

    def make(self) -> Tensor:
        """Return the tensor.

        Raises:
            RuntimeError, TypeError, ValueError: PyTorch has no such tensor.
        """
        return KINDS[self.kind](self)

    def plain(self) -> Tensor:
        """Return the tensor, contiguous."""
        count = math.prod(self.shape)
        dtype = getattr(torch, self.dtype)
        if count == 0:
            return torch.empty(self.shape, dtype=dtype)
        wide = torch.tensor(self.values, dtype=torch.float64 if dtype.is_floating_point else torch.int64)
        return wide.repeat(count // len(wide) + 1)[:count].to(dtype).reshape(self.shape)


def _unaligned(spec: TensorOf) -> Tensor:
    plain = spec.plain()
    buffer = bytearray(plain.nbytes + 1)
    return torch.frombuffer(buffer, dtype=plain.dtype, offset=1, count=plain.numel()).view(plain.shape)


def _emptied(spec: TensorOf, share: int) -> Tensor:
    plain = spec.plain()
    plain.untyped_storage().resize_(plain.nbytes // share if share else 0)
    return plain


def _bytes_as_bool(spec: TensorOf) -> Tensor:
    return torch.full(spec.shape, 5, dtype=torch.uint8).view(torch.bool)


KINDS: dict[str, Callable[[TensorOf], Tensor]] = {
    "contiguous": TensorOf.plain,
    "channels_last": lambda spec: spec.plain().contiguous(memory_format=torch.channels_last),
    "transposed": lambda spec: spec.plain().mT.contiguous().mT,
    "expanded": lambda spec: torch.ones(1, dtype=getattr(torch, spec.dtype)).expand(spec.shape),
    "sliced": lambda spec: torch.stack([spec.plain()] * 2, dim=-1)[..., 0],
    "offset": lambda spec: torch.stack([spec.plain()] * 2)[1],
    "unaligned": _unaligned,
    "emptied": lambda spec: _emptied(spec, 0),
    "cut": lambda spec: _emptied(spec, 2),
    "bytes as bool": _bytes_as_bool,
    "meta": lambda spec: spec.plain().to("meta"),
    "requires_grad": lambda spec: spec.plain().requires_grad_(),
    "parameter": lambda spec: torch.nn.Parameter(spec.plain()),
    "negative view": lambda spec: torch._neg_view(spec.plain()),
    "zero tensor": lambda spec: torch._efficientzerotensor(spec.shape, dtype=getattr(torch, spec.dtype)),
    "sparse": lambda spec: spec.plain().to_sparse(),
    "quantized": lambda spec: torch.quantize_per_tensor(spec.plain(), 0.1, 0, torch.qint8),
}
"""How a tensor is made, by what is unusual about it."""


@dataclass(frozen=True)
class SameAs:
    """The argument with this index again, so that two arguments share memory."""

    index: int


@dataclass(frozen=True)
class Call:
    """A call of an operator; its ``repr`` can be made again by ``make``."""

    operator: str
    arguments: tuple[Any, ...]

    def made_arguments(self) -> list[Any]:
        """Return the arguments; raise one of `REFUSALS` if PyTorch has no such tensor."""
        made: list[Any] = []
        for argument in self.arguments:
            if isinstance(argument, SameAs):
                made.append(made[argument.index % len(made)] if made else None)
            else:
                made.append(argument.make() if isinstance(argument, TensorOf) else argument)
        return made

    def make(self) -> Any:
        """Make the call and return its result."""
        return overload(self.operator)(*self.made_arguments())


@dataclass(frozen=True)
class Sizes:
    """Sizes that the arguments of one call share, so that many calls are valid or almost valid."""

    form: int
    batch: int
    channels: int
    height: int
    width: int
    panels: int
    groups: int
    rows: int
    ring: int
    blocks: tuple[int, int, int]
    doubled: bool
    layout: str
    dtype: str
    kinds: tuple[str, ...]

    @property
    def image(self) -> tuple[int, ...]:
        return (self.batch, self.channels, self.height, self.width)

    @property
    def state(self) -> tuple[int, ...]:
        return (self.batch, self.channels * (1 + self.doubled), self.height, self.width)

    @property
    def result(self) -> tuple[int, ...]:
        channels = (self.channels, 16 * self.panels, self.panels, self.panels)[self.form]
        return (self.batch, channels, self.height, self.width)


@st.composite
def sizes(draw: st.DrawFn, operator: str) -> Sizes:
    """Draw the sizes of a call; ``form`` selects among the tables, and among the operators that share names."""
    form = draw(st.sampled_from(FORMS.get(operator.split("::")[1], (0, 1, 2, 3))))
    in_cpp = f"scoresde_fast_C::{operator.split('::')[1]}" in operators()
    kinds = tuple(kind for kind in KINDS if in_cpp or kind not in ("emptied", "cut"))  # PyTorch itself does not check
    channels = draw(st.sampled_from((8, 16, 24) if form == 1 else (1, 2, 3, 4, 6, 8, 12, 0)))
    groups = draw(st.sampled_from([n for n in range(1, channels + 1) if channels % n == 0] or [1]))
    height, width = draw(st.sampled_from(SIZES)), draw(st.sampled_from(SIZES))
    of_channels, down, across = (
        draw(st.sampled_from([n for n in (1, 2, 4) if size % n == 0])) for size in (channels, height, width)
    )
    return Sizes(
        form, draw(st.sampled_from((2, 1, 3, 5, 7, 0))), channels, height, width, draw(st.integers(0, 3)), groups,
        draw(st.integers(1, 4)), draw(st.integers(1, 4)), (of_channels, down, across),
        form == 1 or (form == 2 and draw(st.booleans())),
        "channels_last" if form == 1 else draw(st.sampled_from(("contiguous", "channels_last"))),
        draw(st.sampled_from(("float32", "float32", "bfloat16", "float16"))), kinds,
    )  # fmt: skip


def usual(name: str, s: Sizes) -> st.SearchStrategy[Any] | None:
    """Return a strategy for what an argument of this name usually is, or None for an unknown name."""
    just = st.just
    small = st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(0, 1))
    scaled = {"eps": 1e-6, "scale": 0.7, "gain": 4.0}
    if name in scaled:
        return just(scaled[name])
    taps = st.lists(st.floats(0.5, 2.0), min_size=2, max_size=12)
    weights = [
        TensorOf((s.channels,)),
        TensorOf((36, s.panels, s.channels, 16)),
        TensorOf((s.panels, s.channels, 3, 3), s.dtype, s.layout),
        TensorOf((s.panels, s.channels, 1, 1), s.dtype, s.layout),
    ]
    known = tuple(size // block for size, block in zip(s.image[1:], s.blocks, strict=True))
    like_image = TensorOf(s.image, s.dtype, s.layout)
    return {
        "x": just(like_image),
        "y": just(TensorOf(s.result, s.dtype, s.layout)),
        "source": just(like_image),
        "grad_y": just(like_image),
        "grad_h": just(like_image),
        "tangent": just(like_image),
        "residual": just(TensorOf(s.result, s.dtype, s.layout)),
        "state": just(TensorOf(s.state)),
        "saved": just(TensorOf(s.state)),
        "history": just(TensorOf((s.ring, *s.state))),
        "network_output": just(TensorOf(s.image, s.dtype)),
        "known": just(TensorOf((s.batch, *known))),
        "mask": just(TensorOf((s.batch, *known), "bool", values=(1, 0, 1))),
        "norms": just(TensorOf((s.batch, 2), values=(1.0, 2.0))),
        "divergence": just(TensorOf((s.batch,), "float64")),
        "statistics": just(TensorOf((s.batch, s.groups, 2), values=(0.1, 1.0))),
        "weight": just(weights[s.form]),
        "bias": just(TensorOf(s.result[1:2])),
        "shift": st.sampled_from((TensorOf((s.channels,)), TensorOf((s.batch, s.channels)))),
        "sample_ids": just(TensorOf((s.batch,), "int64", values=(3, 7, 2**40))),
        "coefficients": just(TensorOf((s.rows, (10, 31, 5, 2)[s.form]))),
        "control": small.map(lambda values: TensorOf((s.rows, 3), "int32", values=values)),
        "counter": st.sampled_from(("int32", "int64")).map(lambda dtype: TensorOf((1,), dtype, values=(0,))),
        "offset": st.integers(0, s.rows - 1),
        "earlier": st.integers(0, min(3, s.ring)),
        "groups": just(s.groups),
        "elements": st.integers(0, 600),
        "draw": st.integers(0, 5),
        "run_seed": st.sampled_from(INTS),
        "taps": taps.map(lambda values: [1.0, 3.0, 3.0, 1.0] if len(values) % 2 else values),
        "direction": st.sampled_from(("up", "down")),
        "resample": st.sampled_from(("none", "up", "down")),
        "pairs": just(s.doubled),
    }.get(name)


def wild_tensors(s: Sizes) -> st.SearchStrategy[TensorOf]:
    """Return a strategy for tensors of any shape, dtype and kind."""
    shapes = st.one_of(
        st.sampled_from((s.image, s.state, s.result, (s.batch,), (s.channels,), (s.rows, 3), (1,), ())),
        st.lists(st.sampled_from(SIZES), max_size=6).map(tuple),
        st.tuples(st.sampled_from(HUGE), st.just(0), st.sampled_from(HUGE), st.integers(0, 2)),
        st.tuples(st.sampled_from(HUGE), st.just(0)),
    )
    values = st.lists(st.sampled_from((*FLOATS, *INTS)), min_size=1, max_size=4).map(tuple)
    return st.builds(TensorOf, shapes, st.sampled_from(DTYPES), st.sampled_from(s.kinds), values)


def wild(kind: str, usually: Any, s: Sizes) -> st.SearchStrategy[Any]:
    """Return a strategy for arguments of a type of the schema, including what the operator must refuse."""
    objects = st.sampled_from((None, "up", "", "x" * 1000, [], [1.0], 0, 1.5, True, 2**70))
    if "Tensor" in kind:
        choices: list[st.SearchStrategy[Any]] = [st.one_of(wild_tensors(s), st.integers(0, 8).map(SameAs), objects)]
        if isinstance(usually, TensorOf):
            # One thing about the usual tensor is changed.
            def changed(**fields: Any) -> TensorOf:
                return TensorOf(**{**vars(usually), **fields})

            ints = usually.dtype in ("int32", "int64", "bool")
            numbers = st.lists(st.sampled_from(INTS if ints else FLOATS), min_size=1, max_size=3).map(tuple)
            shape = usually.shape
            reshaped = [shape[:-1], (*shape, 1), (*shape, 2), shape[1:], (0, *shape[1:]), shape[::-1]]
            grown = [(*shape[:i], shape[i] + by, *shape[i + 1 :]) for i in range(len(shape)) for by in (1, -1)]
            others = st.sampled_from([size for size in (*reshaped, *grown) if min(size, default=0) >= 0])
            choices += [
                st.sampled_from(s.kinds).map(lambda kind: changed(kind=kind)),
                st.sampled_from(DTYPES).map(lambda dtype: changed(dtype=dtype)),
                *[others.map(lambda size: changed(shape=size))] * 2,
                numbers.map(lambda values: changed(values=values)),
            ]
        return st.one_of(choices)
    if kind == "int":
        return st.one_of(st.sampled_from(INTS), st.integers(-4, 40), objects)
    if kind == "float":
        return st.one_of(st.sampled_from(FLOATS), objects)
    if kind == "List[float]":
        return st.one_of(st.lists(st.sampled_from(FLOATS), max_size=14), objects)
    return objects


@st.composite
def calls(draw: st.DrawFn, operator: str) -> Call:
    """Draw the arguments of an operator: usual ones, of which none to all are then replaced by wild ones."""
    parameters, s = overload(operator)._schema.arguments, draw(sizes(operator))
    arguments: list[Any] = []
    for parameter in parameters:
        kind = str(parameter.type)
        optional = kind.startswith("Optional")
        strategy = usual(parameter.name, s)
        if strategy is None:
            strategy = st.booleans() if kind == "bool" else wild(kind, None, s)
        arguments.append(None if optional and draw(st.integers(0, 3)) == 0 else draw(strategy))
    for _ in range(draw(st.sampled_from((0, 1, 1, 1, 1, 1, 2, len(parameters))))):
        index = draw(st.integers(0, len(parameters) - 1))
        arguments[index] = draw(wild(str(parameters[index].type), arguments[index], s))
    return Call(operator, tuple(arguments))


def operators() -> list[str]:
    """Return the qualified names of every operator of the package and of its extension."""
    return sorted(name for name in torch._C._dispatch_get_all_op_names() if name.split("::")[0] in NAMESPACES)


def overload(operator: str) -> Any:
    """Return an operator by its qualified name."""
    return reduce(getattr, operator.split("::"), torch.ops).default


def limit_memory() -> None:
    """Make allocations of more than `ROOM` fail, where the system can; a sanitizer has an option of its own."""
    try:
        import resource

        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    if used < 2**40:  # a sanitizer reserves more
        resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main(count: int, under_way: Path) -> None:
    """Make at least ``count`` calls of all operators together; print for each how many returned and were refused."""
    limit_memory()
    torch.set_num_threads(2)
    warnings.simplefilter("ignore")
    outcomes = {}
    with under_way.open("w", encoding="utf-8") as file:
        for operator in operators():
            outcomes[operator] = fuzz(operator, -(-count // len(operators())), file)
    print(json.dumps(outcomes))


def fuzz(operator: str, count: int, under_way: TextIO) -> dict[str, int]:
    """Make ``count`` calls of an operator, each after writing it to the file."""
    outcomes = {"returned": 0, "refused": 0}

    @seed(crc32(operator.encode()))  # other calls for each operator, the same in every run
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(calls(operator))
    def make(call: Call) -> None:
        try:
            arguments = call.made_arguments()
        except REFUSALS:
            reject()  # draws others instead
        under_way.seek(0)
        under_way.truncate()
        under_way.write(repr(call))
        under_way.flush()
        try:
            overload(operator)(*arguments)
            outcomes["returned"] += 1
        except REFUSALS:
            outcomes["refused"] += 1

    make()
    return outcomes


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
