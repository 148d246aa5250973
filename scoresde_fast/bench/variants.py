# SPDX-License-Identifier: Apache-2.0
"""The variants of the waterfall: ways to do one workload, from plain PyTorch to everything this package does.

To change what is shown, change `VARIANTS`.  A builder takes the workload and returns a callable that runs the whole
sampling loop and returns the images; what it makes ready before that is not timed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from scoresde_fast.bench.baseline import original, tuned
from scoresde_fast.bench.plain_loop import run_plain
from scoresde_fast.bench.workload import Workload
from scoresde_fast.devices import Precision, arithmetic
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sampler import Sampler

Run = Callable[[], Tensor]
EXACT_DB, TF32_DB, HALF_DB = 60.0, 40.0, 30.0
"""The least peak signal-to-noise ratio that a line states for its precision, against eager float32."""


@dataclass(frozen=True)
class Variant:
    """One way to sample.

    Attributes:
        name: as charts and tables show it.
        what: one sentence on what is done.
        build: the workload -> what runs it.
        stated_db: the least PSNR of its images against those of the first line.
        devices: the device types it makes sense on.
        half: computes in 16 bits.
        compiled: runs PyTorch's compiler, which takes minutes.
        ours: is this package's.
        series: is also measured against the batch size.
    """

    name: str
    what: str
    build: Callable[[Workload], Run]
    stated_db: float = EXACT_DB
    devices: tuple[str, ...] = ("cpu", "cuda")
    half: bool = False
    compiled: bool = False
    ours: bool = False
    series: bool = False


def _eager(precision: Precision) -> Callable[[Workload], Run]:
    return lambda workload: _plain(original(workload.model.network), workload, precision)


def _peer(
    dtype: torch.dtype, compile: dict[str, Any] | None = None, *, sliced_fir: bool = False
) -> Callable[[Workload], Run]:
    def build(workload: Workload) -> Run:
        network = tuned(workload.model.network, dtype, compile=compile, sliced_fir=sliced_fir)
        return _plain(network, workload, "fp32")

    return build


def _plain(network: nn.Module, workload: Workload, precision: Precision) -> Run:
    def run() -> Tensor:
        with arithmetic(precision, workload.device):  # cuDNN's search for its fastest algorithm, too
            return run_plain(network, workload)

    return run


class Unfolded(nn.Module):
    """Hides that a network can be folded: it runs as a user's own would."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.network(x, labels)


def _unfolded(workload: Workload) -> Run:
    model = workload.model
    plain = ScoreFunction(
        Unfolded(model.network),
        model.parametrisation,
        model.image_shape,
        centered=model.centered,
        is_image=model.is_image,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it cannot be folded is what is wanted
        sampler = Sampler(plain, **workload.sampler_options(), precision="fp32", compile=False, capture=False)
    return _sampling(sampler, workload)


def _ours(**options: Any) -> Callable[[Workload], Run]:
    def build(workload: Workload) -> Run:
        return _sampling(Sampler(copy.deepcopy(workload.model), **workload.sampler_options(), **options), workload)

    return build


def _sampling(sampler: Sampler, workload: Workload) -> Run:
    return lambda: sampler.sample(workload.seeds)


def _ours_variant(name: str, what: str, stated_db: float, options: dict[str, Any], **more: Any) -> Variant:
    compiled = bool(options.get("compile")) and options["compile"] != "auto"
    half = options["precision"] in ("bf16", "fp16")
    return Variant(name, what, _ours(**options), stated_db, half=half, compiled=compiled, ours=True, **more)


STEPWISE = {"compile": False, "capture": False}
FROZEN = {"options": {"freezing": True, "max_autotune": True}}
AUTOTUNED = {"options": {"max_autotune": True, "triton.cudagraphs": True, "coordinate_descent_tuning": False}}
"""The mode "max-autotune" without its coordinate descent, which takes many minutes more."""
GPU, CPU = ("cuda",), ("cpu",)

VARIANTS: tuple[Variant, ...] = (
    Variant(
        "eager float32",
        "the original's arithmetic: NCHW, einsum attention, time embedding at every call, host scalars",
        _eager("fp32"),
        series=True,
    ),
    Variant("eager TF32", "the same with TF32 matrix products and convolutions", _eager("tf32"), TF32_DB, GPU),
    Variant(
        "eager float32, channels_last",
        "channels_last and fused attention (SDPA)",
        _peer(torch.float32),
        devices=CPU,
        series=True,
    ),
    Variant(
        "autocast bf16, channels_last",
        "autocast to bfloat16, 16-bit weights, channels_last, SDPA",
        _peer(torch.bfloat16),
        HALF_DB,
        half=True,
    ),
    Variant(
        "torch.compile float32",
        "torch.compile with freezing and autotuning, channels_last, SDPA",
        _peer(torch.float32, FROZEN),
        devices=CPU,
        compiled=True,
    ),
    Variant(
        "torch.compile bf16",
        "torch.compile with freezing and autotuning, bfloat16, channels_last, SDPA",
        _peer(torch.bfloat16, FROZEN),
        HALF_DB,
        CPU,
        half=True,
        compiled=True,
    ),
    Variant(
        "torch.compile max-autotune bf16",
        "torch.compile(max-autotune) with its CUDA graphs, bfloat16, channels_last, SDPA",
        _peer(torch.bfloat16, AUTOTUNED),
        HALF_DB,
        GPU,
        half=True,
        compiled=True,
    ),
    Variant(
        "torch.compile max-autotune bf16, fused FIR",
        "the same, with FIR filters as sums of slices, which the compiler makes one kernel of",
        _peer(torch.bfloat16, AUTOTUNED, sliced_fir=True),
        HALF_DB,
        GPU,
        half=True,
        compiled=True,
    ),
    Variant(
        "torch.compile reduce-overhead bf16",
        "torch.compile(reduce-overhead) with its CUDA graphs, bfloat16, channels_last, SDPA",
        _peer(torch.bfloat16, {"mode": "reduce-overhead"}),
        HALF_DB,
        GPU,
        half=True,
        compiled=True,
        series=True,
    ),
    Variant(
        "ours: fused operations",
        "the plain network with fused norms and filters, one operation a step, steps side by side on CPU cores",
        _unfolded,
        ours=True,
        series=True,
    ),
    _ours_variant(
        "ours: folded float32", "the folded network", EXACT_DB, {"precision": "fp32"} | STEPWISE, series=True
    ),
    _ours_variant("ours: folded TF32", "the folded network", TF32_DB, {"precision": "tf32"} | STEPWISE, devices=GPU),
    _ours_variant("ours: folded bf16", "the folded network in bfloat16", HALF_DB, {"precision": "bf16"} | STEPWISE),
    _ours_variant(
        "ours: folded, compiled float32",
        "the folded network compiled",
        EXACT_DB,
        {"precision": "fp32", "compile": True, "capture": False},
        devices=CPU,
    ),
    _ours_variant(
        "ours: folded, compiled bf16",
        "the folded network compiled",
        HALF_DB,
        {"precision": "bf16", "compile": True, "capture": False},
        devices=GPU,
    ),
    _ours_variant(
        "ours: folded, captured bf16",
        "the folded network, one step captured as a CUDA graph and replayed",
        HALF_DB,
        {"precision": "bf16", "compile": False, "capture": True},
        devices=GPU,
    ),
    _ours_variant(
        "ours: folded, compiled, captured bf16",
        "the folded network compiled, one step captured and replayed",
        HALF_DB,
        {"precision": "bf16", "compile": True, "capture": True},
        devices=GPU,
    ),
    _ours_variant(
        "ours: auto",
        "what Sampler chooses here for precision, compiler and capture",
        HALF_DB,
        {"precision": "auto", "compile": "auto", "capture": "auto"},
        devices=GPU,
        series=True,
    ),
    _ours_variant(
        "ours: strict",
        "what Sampler chooses, with images that do not depend on the batch size",
        HALF_DB,
        {"precision": "auto", "compile": "auto", "capture": "auto", "strict": True},
        devices=GPU,
    ),
)
