# SPDX-License-Identifier: Apache-2.0
"""The lines of the waterfall: ways to do one job, from plain PyTorch to everything this package does.

To change what is shown, change `LINES`.  A builder takes the job and returns a callable that runs the whole sampling
loop and returns the images; what it makes ready before that is not timed.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoresde_fast.bench.baseline import original, tuned
from scoresde_fast.bench.job import Job
from scoresde_fast.bench.plain_loop import run_plain
from scoresde_fast.model import ScoreFunction
from scoresde_fast.precision import Precision, arithmetic
from scoresde_fast.sampler import Sampler

Run = Callable[[], Tensor]
EXACT_DB, TF32_DB, HALF_DB = 60.0, 40.0, 30.0
"""The least peak signal-to-noise ratio that a line states for its precision, against eager float32."""


@dataclass(frozen=True)
class Line:
    """One way to sample.

    Attributes:
        name: as charts and tables show it.
        what: one sentence on what is done.
        build: the job -> what runs it.
        stated_db: the least PSNR of its images against those of the first line.
        devices: the device types it makes sense on.
        half: computes in 16 bits.
        compiled: runs PyTorch's compiler, which takes minutes.
        options: those of `Sampler` that it needs.
        ours: is this package's.
        series: is also measured against the batch size.
    """

    name: str
    what: str
    build: Callable[[Job], Run]
    stated_db: float = EXACT_DB
    devices: tuple[str, ...] = ("cpu", "cuda")
    half: bool = False
    compiled: bool = False
    options: tuple[str, ...] = ()
    ours: bool = False
    series: bool = False

    def missing(self) -> str | None:
        """Why it cannot run with this version, or None."""
        known = inspect.signature(Sampler).parameters
        absent = [option for option in self.options if option not in known]
        return f"this version's Sampler has no option {', '.join(map(repr, absent))}" if absent else None


def _eager(precision: Precision) -> Callable[[Job], Run]:
    return lambda job: _plain(original(job.model.network), job, precision)


def _peer(
    dtype: torch.dtype, compile: dict[str, Any] | None = None, *, sliced_fir: bool = False
) -> Callable[[Job], Run]:
    return lambda job: _plain(tuned(job.model.network, dtype, compile=compile, sliced_fir=sliced_fir), job, "fp32")


def _plain(network: nn.Module, job: Job, precision: Precision) -> Run:
    def run() -> Tensor:
        with arithmetic(precision, job.device):  # cuDNN's search for its fastest algorithm, too
            return run_plain(network, job)

    return run


class Unfolded(nn.Module):
    """Hides that a network can be folded: it runs as a user's own would."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.network(x, labels)


def _unfolded(job: Job) -> Run:
    model = job.model
    plain = ScoreFunction(
        Unfolded(model.network),
        model.parametrisation,
        model.image_shape,
        centered=model.centered,
        is_image=model.is_image,
    )
    slow: dict[str, Any] = {"precision": "fp32", "compile": False, "capture": False}
    known = inspect.signature(Sampler).parameters
    options = {name: value for name, value in slow.items() if name in known}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot be folded is what is wanted
        return _sampling(Sampler(plain, **job.sampler_options(), **options), job)


def _ours(**options: Any) -> Callable[[Job], Run]:
    def build(job: Job) -> Run:
        return _sampling(Sampler(copy.deepcopy(job.model), **job.sampler_options(), **options), job)

    return build


def _sampling(sampler: Sampler, job: Job) -> Run:
    return lambda: sampler.sample(job.seeds)


def _ours_line(name: str, what: str, stated_db: float, options: dict[str, Any], **more: Any) -> Line:
    compiled = bool(options.get("compile")) and options["compile"] != "auto"
    half = options["precision"] in ("bf16", "fp16")
    needed = tuple(options)
    return Line(
        name, what, _ours(**options), stated_db, half=half, compiled=compiled, options=needed, ours=True, **more
    )


STEPWISE = {"compile": False, "capture": False}
FROZEN = {"options": {"freezing": True, "max_autotune": True}}
AUTOTUNED = {"options": {"max_autotune": True, "triton.cudagraphs": True, "coordinate_descent_tuning": False}}
"""The mode "max-autotune" without its coordinate descent, which takes many minutes more."""
GPU, CPU = ("cuda",), ("cpu",)

LINES: tuple[Line, ...] = (
    Line(
        "eager float32",
        "the original's arithmetic: NCHW, einsum attention, time embedding at every call, host scalars",
        _eager("fp32"),
        series=True,
    ),
    Line("eager TF32", "the same with TF32 matrix products and convolutions", _eager("tf32"), TF32_DB, GPU),
    Line(
        "eager float32, channels_last",
        "channels_last and fused attention (SDPA)",
        _peer(torch.float32),
        devices=CPU,
        series=True,
    ),
    Line(
        "autocast bf16, channels_last",
        "autocast to bfloat16, 16-bit weights, channels_last, SDPA",
        _peer(torch.bfloat16),
        HALF_DB,
        half=True,
    ),
    Line(
        "torch.compile float32",
        "torch.compile with freezing and autotuning, channels_last, SDPA",
        _peer(torch.float32, FROZEN),
        devices=CPU,
        compiled=True,
    ),
    Line(
        "torch.compile bf16",
        "torch.compile with freezing and autotuning, bfloat16, channels_last, SDPA",
        _peer(torch.bfloat16, FROZEN),
        HALF_DB,
        CPU,
        half=True,
        compiled=True,
    ),
    Line(
        "torch.compile max-autotune bf16",
        "torch.compile(max-autotune) with its CUDA graphs, bfloat16, channels_last, SDPA",
        _peer(torch.bfloat16, AUTOTUNED),
        HALF_DB,
        GPU,
        half=True,
        compiled=True,
    ),
    Line(
        "torch.compile max-autotune bf16, fused FIR",
        "the same, with FIR filters as sums of slices, which the compiler makes one kernel of",
        _peer(torch.bfloat16, AUTOTUNED, sliced_fir=True),
        HALF_DB,
        GPU,
        half=True,
        compiled=True,
    ),
    Line(
        "torch.compile reduce-overhead bf16",
        "torch.compile(reduce-overhead) with its CUDA graphs, bfloat16, channels_last, SDPA",
        _peer(torch.bfloat16, {"mode": "reduce-overhead"}),
        HALF_DB,
        GPU,
        half=True,
        compiled=True,
        series=True,
    ),
    Line(
        "ours: fused operations",
        "the plain network with fused norms and filters, one operation a step, steps side by side on CPU cores",
        _unfolded,
        ours=True,
        series=True,
    ),
    _ours_line("ours: folded float32", "the folded network", EXACT_DB, {"precision": "fp32"} | STEPWISE, series=True),
    _ours_line("ours: folded TF32", "the folded network", TF32_DB, {"precision": "tf32"} | STEPWISE, devices=GPU),
    _ours_line("ours: folded bf16", "the folded network in bfloat16", HALF_DB, {"precision": "bf16"} | STEPWISE),
    _ours_line(
        "ours: folded, compiled float32",
        "the folded network compiled",
        EXACT_DB,
        {"precision": "fp32", "compile": True, "capture": False},
        devices=CPU,
    ),
    _ours_line(
        "ours: folded, compiled bf16",
        "the folded network compiled",
        HALF_DB,
        {"precision": "bf16", "compile": True, "capture": False},
        devices=GPU,
    ),
    _ours_line(
        "ours: folded, captured bf16",
        "the folded network, one step captured as a CUDA graph and replayed",
        HALF_DB,
        {"precision": "bf16", "compile": False, "capture": True},
        devices=GPU,
    ),
    _ours_line(
        "ours: folded, compiled, captured bf16",
        "the folded network compiled, one step captured and replayed",
        HALF_DB,
        {"precision": "bf16", "compile": True, "capture": True},
        devices=GPU,
    ),
    _ours_line(
        "ours: auto",
        "what Sampler chooses here for precision, compiler and capture",
        HALF_DB,
        {"precision": "auto", "compile": "auto", "capture": "auto"},
        devices=GPU,
        series=True,
    ),
    _ours_line(
        "ours: strict",
        "what Sampler chooses, with images that do not depend on the batch size",
        HALF_DB,
        {"precision": "auto", "compile": "auto", "capture": "auto", "strict": True},
        devices=GPU,
    ),
)
