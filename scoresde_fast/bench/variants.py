# SPDX-License-Identifier: Apache-2.0
"""Variants of the sampling benchmark: implementations of one run, from plain PyTorch to our full sampler.

`VARIANTS` lists them. The ``build`` function of a variant does the untimed preparation and returns a function that runs
the whole sampling loop and returns the images.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.bench.baselines import original, tuned
from scoresde_fast.bench.workload import Workload
from scoresde_fast.devices import Precision, arithmetic
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.sampler import Sampler
from scoresde_fast.sdes import Array
from scoresde_fast.solvers.table import PairRow, Row

Run = Callable[[], Tensor]
EXACT_DB, TF32_DB, HALF_DB = 60.0, 40.0, 30.0
"""Minimum PSNR against eager float32 that variants promise: exact ones, with TF32, and in 16 bits."""
EAGER: dict[str, Any] = {"compile": False, "capture": False}


@dataclass(frozen=True)
class Variant:
    """One implementation of the sampling run.

    Attributes:
        name: label in charts and tables.
        what: short description.
        build: prepares the run of a workload.
        stated_db: minimum PSNR of its images against those of the first variant.
        devices: device types on which it is measured.
        half: whether it computes in 16 bits.
        compiled: whether it uses PyTorch's compiler, which takes minutes.
        ours: whether it uses this package's sampler.
        series: whether it is also measured at several batch sizes.
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


def _eager(precision: Precision, workload: Workload) -> Run:
    return partial(run_plain, original(workload.model.network), workload, precision)


def _tuned(name: str, what: str, dtype: torch.dtype, compile: Any = None, fir: bool = False, **more: Any) -> Variant:
    """Return a variant of the tuned baseline; ``fir`` selects FIR filters as sums of slices."""

    def build(workload: Workload) -> Run:
        network = tuned(workload.model.network, dtype, compile=compile, sliced_fir=fir)
        return partial(run_plain, network, workload, "fp32")  # the network itself computes in ``dtype``

    half = dtype != torch.float32
    stated_db = HALF_DB if half else EXACT_DB
    return Variant(name, what, build, stated_db, half=half, compiled=compile is not None, **more)


def _ours(name: str, what: str, precision: Precision, options: dict[str, Any] | None = None, **more: Any) -> Variant:
    """Return a variant that uses `Sampler` with this precision and these options; by default eager."""
    chosen = {"precision": precision, **EAGER, **(options or {})}

    def build(workload: Workload) -> Run:
        sampler = Sampler(copy.deepcopy(workload.model), **workload.sampler_options(), **chosen)
        return lambda: sampler.sample(workload.seeds)

    stated_db = {"fp32": EXACT_DB, "tf32": TF32_DB}.get(precision, HALF_DB)
    half, compiled = precision in ("bf16", "fp16"), chosen["compile"] is True
    return Variant(name, what, build, stated_db, half=half, compiled=compiled, ours=True, **more)


def _unfolded(workload: Workload) -> Run:
    model = workload.model
    plain = ScoreFunction(
        Unfolded(model.network),
        model.parametrisation,
        model.image_shape,
        model.data_range,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the network cannot be folded, as intended
        sampler = Sampler(plain, **workload.sampler_options(), precision="fp32", **EAGER)
    return lambda: sampler.sample(workload.seeds)


class Unfolded(nn.Module):
    """Wraps a network so that it cannot be folded, like a user's own network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return self.network(x, labels)


FP32, BF16 = torch.float32, torch.bfloat16
GPU, CPU = ("cuda",), ("cpu",)
AUTO = {"compile": "auto", "capture": "auto"}
COMPILED, CAPTURED = {"compile": True}, {"capture": True}
TUNED = "channels_last, SDPA"
FROZEN = {"options": {"freezing": True, "max_autotune": True}}
AUTOTUNED = {"options": {"max_autotune": True, "triton.cudagraphs": True, "coordinate_descent_tuning": False}}
"""The mode "max-autotune" without coordinate descent, which takes many more minutes."""

VARIANTS: tuple[Variant, ...] = (
    Variant(
        "eager float32",
        "the arithmetic of the official code: NCHW, einsum attention, time embedding at every call, host scalars",
        partial(_eager, "fp32"),
        series=True,
    ),
    Variant("eager TF32", "the same with TF32 matrix products and convolutions", partial(_eager, "tf32"), TF32_DB, GPU),
    _tuned("eager float32, channels_last", "channels_last and fused attention (SDPA)", FP32, devices=CPU, series=True),
    _tuned("autocast bf16, channels_last", "autocast to bfloat16, 16-bit weights, channels_last, SDPA", BF16),
    _tuned("torch.compile float32", f"with freezing and autotuning, {TUNED}", FP32, FROZEN, devices=CPU),
    _tuned("torch.compile bf16", f"with freezing and autotuning, bfloat16, {TUNED}", BF16, FROZEN, devices=CPU),
    _tuned("torch.compile max-autotune bf16", f"with its CUDA graphs, bfloat16, {TUNED}", BF16, AUTOTUNED, devices=GPU),
    _tuned(
        "torch.compile max-autotune bf16, fused FIR",
        "the same, with FIR filters as sums of slices, which the compiler fuses into one kernel",
        BF16,
        AUTOTUNED,
        fir=True,
        devices=GPU,
    ),
    _tuned(
        "torch.compile reduce-overhead bf16",
        f"with its CUDA graphs, bfloat16, {TUNED}",
        BF16,
        {"mode": "reduce-overhead"},
        devices=GPU,
        series=True,
    ),
    Variant(
        "ours: fused operations",
        "the plain network with fused norms and filters, a fused solver step, and parallel workers on CPU cores",
        _unfolded,
        ours=True,
        series=True,
    ),
    _ours("ours: folded float32", "the folded network", "fp32", series=True),
    _ours("ours: folded TF32", "the folded network", "tf32", devices=GPU),
    _ours("ours: folded bf16", "the folded network in bfloat16", "bf16"),
    _ours("ours: folded, compiled float32", "the folded network compiled", "fp32", COMPILED, devices=CPU),
    _ours("ours: folded, compiled bf16", "the folded network compiled", "bf16", COMPILED, devices=GPU),
    _ours(
        "ours: folded, captured bf16",
        "the folded network, one step captured as a CUDA graph and replayed",
        "bf16",
        CAPTURED,
        devices=GPU,
    ),
    _ours(
        "ours: folded, compiled, captured bf16",
        "the folded network compiled, one step captured and replayed",
        "bf16",
        COMPILED | CAPTURED,
        devices=GPU,
    ),
    _ours("ours: auto", "Sampler's own precision, compiler and capture", "auto", AUTO, devices=GPU, series=True),
    _ours(
        "ours: strict",
        "the same, with images that do not depend on the batch size",
        "auto",
        AUTO | {"strict": True},
        devices=GPU,
    ),
)


@torch.inference_mode()
def run_plain(network: Callable[[Tensor, Tensor], Tensor], workload: Workload, precision: Precision) -> Tensor:
    """Sample the workload's images in plain PyTorch, with Python floats as coefficients.

    The noise is `scoresde_fast.noise.Noise`, so that all variants draw the same images. It is cheaper than
    ``torch.randn_like``, and the coefficients are computed before the run: both favour the baselines.

    Returns:
        (B, C, H, W) float32 in [0, 1].

    Raises:
        ValueError: a row combines earlier outputs or a saved state, which this loop does not keep.
    """
    model, rows, times = workload.model, workload.table.rows, workload.table.times
    p = model.parametrisation
    columns = (p.labels(times).tolist(), p.output_scale(times).tolist(), p.state_scale(times).tolist())
    with arithmetic(precision, workload.device):  # also enables cuDNN's search for the fastest algorithm
        noise = Noise(0, torch.tensor(workload.seeds, device=workload.device))
        x = model.prior(noise.normal(0, model.state_shape))
        for row, draw, label, output_scale, state_scale in zip(rows, workload.table.draws, *columns, strict=True):
            if row.save or np.any(row.saved) or any(np.any(factor) for factor in row.outputs[1:]):
                raise ValueError(f"the plain loop cannot run {row}: choose a solver without past outputs")
            z = None if draw is None else noise.normal(draw, model.state_shape)
            score = None
            if row.derive is not None:
                torch.compiler.cudagraph_mark_step_begin()
                score = output_scale * network(x, torch.full((len(x),), label, device=workload.device)).float()
                if state_scale:
                    score = score + state_scale * x.chunk(model.sde.parts, dim=1)[-1]
            x = _pair_step(row, x, score, z) if isinstance(row, PairRow) else _step(row, x, score, z)
        return model.to_images(x.chunk(model.sde.parts, dim=1)[0])


def _step(row: Row, x: Tensor, score: Tensor | None, z: Tensor | None) -> Tensor:
    assert row.derive is not None and score is not None  # other rows save a state, which `run_plain` rejects
    if row.langevin is not None:
        assert z is not None
        size = row.langevin * (_norms(z) / _norms(score)) ** 2
        return x + size * score + (2 * size).sqrt() * z
    from_state, from_score = row.derive
    derived = from_score * score if from_state == 0 else from_state * x + from_score * score
    x = row.state * x + row.outputs[0] * derived
    return x if z is None else x + row.noise * z


def _pair_step(row: PairRow, u: Tensor, score: Tensor | None, z: Tensor | None) -> Tensor:
    """Update position and velocity with one product and one sum at a time, as a user would write it."""
    state: Array = np.asarray(row.state)
    gain: Array = np.zeros(2)
    if row.derive is not None:
        state = state + row.outputs[0] @ row.derive[0]
        gain = row.outputs[0] @ row.derive[1]
    x, v = u.chunk(2, dim=1)
    halves = []
    for to_x, to_v, to_score, noise in zip(*state.T.tolist(), gain.tolist(), row.noise.tolist(), strict=True):
        half = to_x * x + to_v * v
        if score is not None and to_score:
            half = half + to_score * score
        if z is not None:
            for factor, field in zip(noise, z.chunk(2, dim=1), strict=True):
                half = half + factor * field if factor else half
        halves.append(half)
    return torch.cat(halves, dim=1)


def _norms(x: Tensor) -> Tensor:
    """Return the norm of each sample, (B, 1, 1, 1)."""
    return torch.linalg.vector_norm(x, dim=(1, 2, 3), keepdim=True)
