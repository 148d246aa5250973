# SPDX-License-Identifier: Apache-2.0
"""Launchers launch the variants that `benchmarks.kernels.sass` proves: constants, warps, stages and registers."""

from __future__ import annotations

import inspect
import math
import pkgutil
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

if find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)

from scoresde_fast.kernels.launch import Form

from benchmarks.kernels.sass_variants import Variant, variants
from scoresde_fast import kernels
from scoresde_fast.ops.step_table import CONTROL, DOT_WIDTH, LEVEL_WIDTH, PAIR_WIDTH, WIDTH

DTYPES = {
    "fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "i64": torch.int64,
    "i32": torch.int32, "i1": torch.bool,
}  # fmt: skip
OPTIONS = {"num_warps": 4, "num_stages": 3, "maxnreg": None, "enable_fp_fusion": True}
"""Triton's default options."""
BATCH = 512

Launch = tuple[str, dict[str, Any], dict[str, Any]]
"""A kernel's name, its constants and absent pointers, and its options."""


class Recorder:
    """Replaces a kernel and records its launches."""

    def __init__(self, kernel: Any, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        def launch(*arguments: Any, **named: Any) -> None:
            options = {name: named.pop(name, default) for name, default in OPTIONS.items()}
            bound = inspect.signature(self.kernel.fn).bind(*arguments, **named)
            bound.apply_defaults()
            constants = {name: value for name, value in bound.arguments.items() if name.isupper() or value is None}
            self.launches.append((self.kernel.fn.__name__, constants, options))

        return launch


class Arguments:
    """A launcher's arguments for a variant, without data."""

    def __init__(self, form: Variant) -> None:
        self.form, self.c = form, form.constants

    def tensor(self, pointer: str, *shape: int, kind: str | None = None, channels_last: bool = False) -> Tensor | None:
        """Return a tensor of the pointer's dtype; if the variant has no such pointer, of dtype ``kind``, or None."""
        dtype = self.form.signature.get(pointer, kind)
        if dtype is None:
            return None
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(shape, dtype=DTYPES[dtype.strip("*")], device="meta", memory_format=layout)

    def row(self, width: int) -> tuple[Any, ...]:
        """Return coefficients, control, counter and offset of a step operation."""
        coefficients = self.tensor("p_coefficients", 3, width, kind="fp32")
        return coefficients, self.tensor("p_control", 3, len(CONTROL), kind="i32"), self.counter, 0

    @property
    def counter(self) -> Tensor | None:
        return self.tensor("p_counter", 1, kind="i64")

    @property
    def ids(self) -> Tensor | None:
        return self.tensor("p_ids", BATCH, kind="i64")

    @property
    def elements(self) -> int:
        """Elements of a sample; a variant that adds up parts gets enough elements for them."""
        count: int = self.c["ELEMENTS"] if "ELEMENTS" in self.c else 4096 * self.c.get("PARTS", 1)
        return count

    @property
    def precise(self) -> bool:
        return bool(self.c.get("PRECISE", False))

    def image(self, pointer: str) -> Tensor | None:
        """Return an image of a GroupNorm kernel."""
        size = math.isqrt(self.c["PIXELS"])
        return self.tensor(pointer, 2, self.c["CHANNELS"], size, size, channels_last=self.c["CHANNEL_STRIDE"] == 1)

    def channels(self, *pointers: str) -> list[Tensor | None]:
        """Return vectors with a value for each channel."""
        return [self.tensor(pointer, self.c["CHANNELS"], kind="fp32") for pointer in pointers]


def affine_step(a: Arguments) -> tuple[Any, ...]:
    elements = a.c["ELEMENTS"]
    state, saved, output = (a.tensor(name, BATCH, elements) for name in ("p_state", "p_saved", "p_output"))
    history = a.tensor("p_history", a.c["RING"], BATCH, elements)
    return state, saved, history, output, a.tensor("p_ids", BATCH), *a.row(WIDTH), a.c["EARLIER"], 0, a.precise


def affine_step_pair(a: Arguments) -> tuple[Any, ...]:
    half = a.c["HALF"]
    state, saved = (a.tensor(name, BATCH, 2 * half) for name in ("p_state", "p_saved"))
    history, output = a.tensor("p_history", a.c["RING"], BATCH, 2 * half), a.tensor("p_output", BATCH, half)
    return state, saved, history, output, a.tensor("p_ids", BATCH), *a.row(PAIR_WIDTH), a.c["EARLIER"], 0, a.precise


def langevin_step(a: Arguments) -> tuple[Any, ...]:
    batch = a.c.get("ROUNDS", 1) * BATCH
    state, output = (a.tensor(name, batch, a.elements, kind="fp32") for name in ("p_state", "p_output"))
    norms, ids = a.tensor("p_norms", batch, 2), a.tensor("p_ids", batch, kind="i64")
    return state, output, norms, ids, *a.row(WIDTH), a.c.get("PER_SAMPLE", False), 0, a.precise


def langevin_norms(a: Arguments) -> tuple[Any, ...]:
    return a.tensor("p_output", BATCH, a.elements, kind="fp32"), a.ids, *a.row(WIDTH), 0, a.precise


def hutchinson_dot(a: Arguments) -> tuple[Any, ...]:
    tangent, coefficients = (
        a.tensor("p_tangent", BATCH, a.elements, kind="fp32"),
        a.tensor("p_coefficients", 3, DOT_WIDTH),
    )
    divergence, signs = a.tensor("p_divergence", BATCH), a.c.get("SIGNS", True)
    return divergence, tangent, a.ids, coefficients, a.counter, 0, 0, signs, 0, a.precise


def project(a: Arguments) -> tuple[Any, ...]:
    height, width, block = a.c["HEIGHT"], a.c["WIDTH"], (a.c["KC"], a.c["KH"], a.c["KW"])
    channels = a.c["MEANS"] * math.prod(block) // (height * width)
    state = a.tensor("p_state", BATCH, channels * (1 + a.c["PAIRS"]), height, width)
    means = channels // block[0], height // block[1], width // block[2]
    known, mask = (a.tensor(name, BATCH, *means) for name in ("p_known", "p_mask"))
    return state, known, mask, a.ids, *a.row(LEVEL_WIDTH), a.c["PAIRS"], 0, a.precise


def convolution(a: Arguments) -> tuple[Any, ...]:
    module = import_module("scoresde_fast.kernels.convolution")
    tile = module.Tile(a.c["BLOCK_M"], a.c["BLOCK_N"], a.c["BLOCK_C"], a.form.warps, a.form.stages)
    channels, outputs, side, tf32 = a.c["CHANNELS"], a.c["OUTPUTS"], a.c["SIDE"], a.c["PRECISION"] == "tf32"
    x = a.tensor("p_x", 2, channels, 32, 32, channels_last=True)
    assert x is not None and tile in module.candidates(channels, outputs, x.element_size(), tf32)
    weight = a.tensor("p_weight", outputs, channels, side, side, channels_last=True)
    residual = a.tensor("p_residual", 2, outputs, 32, 32, channels_last=True) if a.c["JOIN"] else None
    return x, weight, a.tensor("p_bias", outputs), residual, a.c["SCALE"], tf32, tile


def fir_resample(a: Arguments) -> tuple[Any, ...]:
    x = a.tensor("p_x", BATCH, a.c.get("C", 3), a.c["H"], a.c["W"], channels_last="C" in a.c)
    gain = 4.0 if a.c["UP"] else 1.0
    total = {0.125: 8, 0.25: 4}[a.c["ROW_TAPS"][0]]
    taps = [total * tap for tap in a.c["ROW_TAPS"]]
    return x, taps, "up" if a.c["UP"] else "down", a.c["OFFSET"], gain


def group_norm_attention(a: Arguments) -> tuple[Any, ...]:
    channels, size = a.c["CHANNELS"], math.isqrt(a.c["TOKENS"])
    x = a.tensor("p_x", BATCH, channels, size, size, channels_last=a.c["CHANNEL_STRIDE"] == 1)
    weight, bias, key_bias, out_bias = a.channels("p_norm_weight", "p_norm_bias", "p_key_bias", "p_out_bias")
    score, value = (a.tensor(name, channels, channels, kind="bf16") for name in ("p_score", "p_value"))
    groups = channels // a.c.get("GROUP_CHANNELS", 8)
    return x, weight, bias, groups, a.c.get("EPS", 1e-6), score, key_bias, value, out_bias, a.c.get("SCALE", 0.5**0.5)


def group_norm_silu(a: Arguments) -> tuple[Any, ...] | None:
    if "JOIN" not in a.c:
        return None  # a kernel that follows another one
    channels, groups = a.c["CHANNELS"], a.c["CHANNELS"] // a.c["GROUP"]
    shift = a.tensor("p_shift", 2, channels) if a.c["SHIFT"] else None
    residual = a.image("p_residual") if a.c["JOIN"] else None
    eps, silu, (weight, bias) = a.c.get("EPS", 1e-6), a.c.get("SILU", True), a.channels("p_weight", "p_bias")
    return a.image("p_x"), weight, bias, groups, eps, shift, residual, a.c["SCALE"], silu, "none", ()


def group_norm_silu_gradients(a: Arguments) -> tuple[Any, ...]:
    channels, groups = a.c["CHANNELS"], a.c["CHANNELS"] // a.c["GROUP"]
    change, source = a.image("p_change"), a.image("p_source")
    grad_h = a.image("p_grad_h") if a.c["GRAD_H"] else None
    statistics, (weight, bias) = a.tensor("p_statistics", 2, groups, 2), a.channels("p_weight", "p_bias")
    shift = a.tensor("p_shift", 2, channels)
    return (
        change, grad_h, source, shift, statistics, weight, bias, groups, a.c["SCALE"], False, a.c["SILU"],
        a.c["BACKWARD"],
    )  # fmt: skip


ARGUMENTS: dict[str, tuple[str, Callable[[Arguments], tuple[Any, ...] | None]]] = {
    "affine_step_kernel": ("affine_step", affine_step),
    "affine_step_pair_kernel": ("affine_step_pair", affine_step_pair),
    "langevin_norms_kernel": ("langevin_norms", langevin_norms),
    "add_parts_kernel": ("langevin_norms", langevin_norms),
    "langevin_step_kernel": ("langevin_step", langevin_step),
    "mean_norms_kernel": ("langevin_step", langevin_step),
    "convolution_kernel": ("convolution", convolution),
    "fir_resample_kernel": ("fir_resample", fir_resample),
    "fir_resample_channels_last_kernel": ("fir_resample", fir_resample),
    "normalise_tokens_kernel": ("group_norm_attention", group_norm_attention),
    "group_norm_attention_kernel": ("group_norm_attention", group_norm_attention),
    "group_norm_silu_kernel": ("group_norm_silu", group_norm_silu),
    "group_moments_kernel": ("group_norm_silu", group_norm_silu),
    "group_statistics_kernel": ("group_norm_silu", group_norm_silu),
    "group_apply_kernel": ("group_norm_silu", group_norm_silu),
    "gradient_sums_kernel": ("differentiate", group_norm_silu_gradients),
    "gradient_apply_kernel": ("differentiate", group_norm_silu_gradients),
    "hutchinson_dot_kernel": ("hutchinson_dot", hutchinson_dot),
    "add_dots_kernel": ("hutchinson_dot", hutchinson_dot),
    "normal_kernel": ("normal", lambda a: (a.ids, 0, 0, a.elements, a.precise)),
    "project_kernel": ("project", project),
    "rademacher_kernel": ("rademacher", lambda a: (a.ids, 0, 0, a.elements)),
}
"""The launcher of each kernel, in the kernel's module, and its arguments."""
MODULES = [import_module(f"scoresde_fast.kernels.{module.name}") for module in pkgutil.iter_modules(kernels.__path__)]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_launchers_launch_the_proved_variants(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the shape of each variant of a module's kernels, the launcher launches that variant."""
    module_variants = [variant for variant in variants() if variant.kernel.fn.__module__ == module.__name__]
    launches: list[Launch] = []
    for kernel in {variant.kernel.fn.__name__: variant.kernel for variant in module_variants}.values():
        monkeypatch.setattr(module, kernel.fn.__name__, Recorder(kernel, launches))

    def launch(form: Form, programs: int, *tensors: Tensor) -> None:
        Recorder(form.kernel, launches)[(programs,)](*tensors, **form.constants, **form.options)

    monkeypatch.setattr(Form, "launch", launch)
    for variant in module_variants:
        launcher, make = ARGUMENTS[variant.kernel.fn.__name__]
        arguments = make(Arguments(variant))
        if arguments is not None:
            getattr(module, launcher)(*arguments)
    for variant in module_variants:
        options = OPTIONS | {"num_warps": variant.warps, "num_stages": variant.stages, "maxnreg": variant.maxnreg}
        assert (variant.kernel.fn.__name__, variant.constants, options) in launches, variant.label


def test_every_kernel_has_a_variant() -> None:
    """No kernel is launched without a proof."""
    defined = {name for module in MODULES for name in vars(module) if name.endswith("_kernel")}
    assert defined == {variant.kernel.fn.__name__ for variant in variants()} == set(ARGUMENTS)
