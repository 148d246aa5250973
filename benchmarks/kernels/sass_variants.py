# SPDX-License-Identifier: Apache-2.0
"""Variants of the Triton kernels that ``sass.py`` compiles: those that are launched most.

Most are for 3x32x32 images (CIFAR-10); others have all registers, large samples or odd sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from scoresde_fast.kernels import (
    affine_step,
    convolution,
    fir_resample,
    group_norm_attention,
    group_norm_silu,
    group_norm_silu_gradients,
    hutchinson_dot,
    langevin,
    normal,
    project,
)
from scoresde_fast.kernels.group_norm_plan import PIECE, plan_of
from scoresde_fast.kernels.noise import passes, tile

IMAGE = 3 * 32 * 32
ROW = {"p_coefficients": "*fp32", "p_control": "*i32", "p_counter": "*i64"}
ITEMSIZES = {"bf16": 2, "fp16": 2, "fp32": 4}


@dataclass(frozen=True)
class Variant:
    """One compiled form of a kernel.

    Attributes:
        label: operation and variant, as shown in the table of instructions.
        kernel: the ``triton.jit`` function.
        signature: run-time arguments in order, name -> Triton type ("*fp32", "*bf16", "i32", "i64").
        constants: ``constexpr`` arguments.
        elements: output elements of a program.
        aligned: arguments whose value is a multiple of 16.
        warps, stages, maxnreg: launch options.
        budget: maximum static instructions per element on sm_90, or None.
    """

    label: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    elements: int
    aligned: tuple[str, ...] = ()
    warps: int = 4
    stages: int = 3
    maxnreg: int | None = None
    budget: float | None = None


def variants() -> list[Variant]:
    """Return all variants of all kernels."""
    return [
        *_affine_step(),
        *_affine_step_pair(),
        *_convolution(),
        *_fir_resample(),
        *_group_norm_attention(),
        *_group_norm_silu(),
        *_group_norm_silu_in_pieces(),
        *_group_norm_silu_gradients(),
        *_hutchinson_dot(),
        *_langevin_norms(),
        *_langevin_step(),
        *_noise(),
        *_project(),
    ]


def _step(
    label: str,
    kernel: Any,
    pointers: dict[str, str],
    constants: dict[str, Any],
    *,
    elements: int,
    aligned: bool = True,
    warps: int = 4,
    budget: float | None = None,
) -> Variant:
    """Return a variant in which all other pointers are None, and all other run-time arguments int64."""
    names = [name for name in kernel.arg_names if not name.isupper()]
    absent = {name: None for name in names if name.startswith("p_") and name not in pointers}
    signature = {name: pointers.get(name, "i64") for name in names if name not in absent}
    multiples_of_16 = tuple(pointers) if aligned else ()
    return Variant(label, kernel, signature, absent | constants, elements, multiples_of_16, warps, budget=budget)


SCORE, IDS = {"p_output": "*bf16"}, {"p_ids": "*i64"}
REGISTERS = {"p_saved": "*fp32", "p_history": "*fp32", **SCORE, **IDS}


def _affine_step() -> Iterator[Variant]:
    for label, registers, elements, earlier, precise, budget in [
        ("no noise", {"p_output": "*fp32"}, IMAGE, 0, False, 8.0),
        ("fp32 score", {"p_output": "*fp32", **IDS}, IMAGE, 0, False, 45.0),
        ("bf16 score", SCORE | IDS, IMAGE, 0, False, 48.0),
        ("bf16 score, precise", SCORE | IDS, IMAGE, 0, True, None),
        ("noise alone", IDS, IMAGE, 0, False, 45.0),
        ("every register", REGISTERS, 3 * 256 * 256, 3, False, None),
        ("bf16 score, 3x16x16", SCORE | IDS, 3 * 16 * 16, 0, False, 48.0),
        ("bf16 score, 3x7x5", SCORE | IDS, 3 * 7 * 5, 0, False, None),
    ]:
        calls, _blocks, warps = tile(elements)
        yield _step(
            f"affine_step, {label}",
            affine_step.affine_step_kernel,
            {"p_state": "*fp32", **ROW, **registers},
            {"ELEMENTS": elements, "RING": max(earlier, 1), "EARLIER": earlier, "PRECISE": precise, "CALLS": calls},
            elements=4 * calls,
            aligned=elements % 4 == 0,
            warps=warps,
            budget=budget,
        )


def _affine_step_pair() -> Iterator[Variant]:
    for label, registers, half, earlier, precise, budget in [
        ("no noise", {"p_output": "*fp32"}, IMAGE, 0, False, 8.0),
        ("fp32 score", {"p_output": "*fp32", **IDS}, IMAGE, 0, False, 45.0),
        ("bf16 score", SCORE | IDS, IMAGE, 0, False, 48.0),
        ("bf16 score, precise", SCORE | IDS, IMAGE, 0, True, None),
        ("noise alone", IDS, IMAGE, 0, False, 45.0),
        ("every register", REGISTERS, IMAGE, 3, False, None),
        ("bf16 score, 3x7x5", SCORE | IDS, 3 * 7 * 5, 0, False, None),
    ]:
        calls, _blocks, warps = affine_step.pair_tile(half)
        yield _step(
            f"affine_step_pair, {label}",
            affine_step.affine_step_pair_kernel,
            {"p_state": "*fp32", **ROW, **registers},
            {"HALF": half, "RING": max(earlier, 1), "EARLIER": earlier, "PRECISE": precise, "CALLS": calls},
            elements=8 * calls,
            aligned=half % 4 == 0,
            warps=warps,
            budget=budget,
        )


def _langevin_norms() -> Iterator[Variant]:
    for kind, elements, precise in [
        ("fp32", IMAGE, False),
        ("bf16", IMAGE, False),
        ("bf16", 3 * 256 * 256, True),
        ("bf16", 3 * 7 * 5, False),
    ]:
        count, _parts = passes(elements)
        yield _step(
            f"langevin_norms, {kind} score, {elements} elements{', precise' if precise else ''}",
            langevin.langevin_norms_kernel,
            {"p_sums": "*fp32", "p_output": f"*{kind}", **IDS, **ROW},
            {"ELEMENTS": elements, "PRECISE": precise, "PASSES": count, "CALLS": 256},
            elements=1024 * count,
            aligned=elements % 4 == 0,
        )
    yield _step(
        "langevin_norms, sum of parts",
        langevin.add_parts_kernel,
        {"p_norms": "*fp32", "p_sums": "*fp32"},
        {"PARTS": 48, "BLOCK": 64},
        elements=2,
        aligned=False,
        warps=1,
    )


def _langevin_step() -> Iterator[Variant]:
    for label, kind, elements, per_sample, precise, budget in [
        ("fp32 score", "fp32", IMAGE, True, False, 45.0),
        ("bf16 score", "bf16", IMAGE, True, False, 48.0),
        ("bf16 score, batch norm", "bf16", IMAGE, False, False, 48.0),
        ("bf16 score, precise", "bf16", IMAGE, True, True, None),
        ("bf16 score, 3x7x5", "bf16", 3 * 7 * 5, True, False, None),
    ]:
        calls, _blocks, warps = tile(elements)
        yield _step(
            f"langevin_step, {label}",
            langevin.langevin_step_kernel,
            {"p_state": "*fp32", "p_output": f"*{kind}", "p_norms": "*fp32", **IDS, **ROW},
            {"ELEMENTS": elements, "PER_SAMPLE": per_sample, "PRECISE": precise, "CALLS": calls},
            elements=4 * calls,
            aligned=elements % 4 == 0,
            warps=warps,
            budget=budget,
        )
    yield _step(
        "langevin_step, means",
        langevin.mean_norms_kernel,
        {"p_means": "*fp32", "p_norms": "*fp32"},
        {"ROUNDS": 2, "BLOCK": 512},
        elements=2,
        aligned=False,
    )


def _hutchinson_dot() -> Iterator[Variant]:
    for kind, elements, signs in [
        ("bf16", IMAGE, True),
        ("bf16", IMAGE, False),
        ("fp32", 3 * 256 * 256, True),
        ("bf16", 3 * 7 * 5, True),
    ]:
        count, parts = passes(elements)
        sums = {"p_sums": "*fp64"} if parts > 1 else {}
        yield _step(
            f"hutchinson_dot, {kind} tangent, {elements} elements, {'signs' if signs else 'normals'}",
            hutchinson_dot.hutchinson_dot_kernel,
            {"p_divergence": "*fp64", **sums, "p_tangent": f"*{kind}", **IDS,
             "p_coefficients": "*fp32", "p_counter": "*i64"},
            {"ELEMENTS": elements, "SIGNS": signs, "PRECISE": False, "PASSES": count, "BLOCK": 1024},
            elements=1024 * count,
            aligned=elements % 4 == 0,
        )  # fmt: skip
    yield _step(
        "hutchinson_dot, sum of parts",
        hutchinson_dot.add_dots_kernel,
        {"p_divergence": "*fp64", "p_sums": "*fp64", "p_coefficients": "*fp32", "p_counter": "*i64"},
        {"PARTS": 48, "BLOCK": 64},
        elements=1,
        aligned=False,
        warps=1,
    )


def _noise() -> Iterator[Variant]:
    calls, _blocks, warps = tile(IMAGE)
    pointers, size = {"p_out": "*fp32", **IDS}, {"ELEMENTS": IMAGE, "CALLS": calls}
    for label, kernel, constants, budget in [
        ("normal, fast", normal.normal_kernel, {"PRECISE": False}, 40.0),
        ("normal, precise", normal.normal_kernel, {"PRECISE": True}, None),
        ("rademacher", normal.rademacher_kernel, {}, 20.0),
    ]:
        yield _step(label, kernel, pointers, size | constants, elements=4 * calls, warps=warps, budget=budget)


def _project() -> Iterator[Variant]:
    for label, image, block, pairs, precise, budget in [
        ("pixels", (3, 32, 32), (1, 1, 1), False, False, 45.0),
        ("gray", (3, 32, 32), (3, 1, 1), False, False, None),
        ("2x2", (3, 32, 32), (1, 2, 2), False, False, None),
        ("pixels, pairs", (3, 32, 32), (1, 1, 1), True, False, None),
        ("pixels, precise", (3, 32, 32), (1, 1, 1), False, True, None),
        ("pixels, 3x7x5", (3, 7, 5), (1, 1, 1), False, False, None),
    ]:
        means = math.prod(image) // math.prod(block)
        calls, _blocks, warps = tile(means)
        yield _step(
            f"project, {label}",
            project.project_kernel,
            {"p_state": "*fp32", "p_known": "*fp32", "p_mask": "*i1", **IDS, **ROW},
            {"MEANS": means, "HEIGHT": image[1], "WIDTH": image[2], "KC": block[0], "KH": block[1], "KW": block[2],
             "PAIRS": pairs, "PRECISE": precise, "CALLS": calls},
            elements=4 * calls * math.prod(block) * (1 + pairs),
            aligned=block == (1, 1, 1) and means % 4 == 0,
            warps=warps,
            budget=budget,
        )  # fmt: skip


def _convolution() -> Iterator[Variant]:
    """Yield all tiles with the channels of NCSN++: 3x3 and 1x1, padded stem and head, with and without residual."""
    for kind, tf32, (channels, outputs, side), join in [
        ("bf16", False, (256, 256, 3), True),
        ("bf16", False, (128, 128, 3), True),
        ("fp16", False, (256, 256, 3), False),
        ("fp32", True, (256, 256, 3), True),
        ("fp32", False, (256, 256, 3), True),
        ("bf16", False, (512, 256, 1), True),
        ("bf16", False, (8, 128, 3), False),
        ("bf16", False, (128, 8, 3), False),
    ]:
        pointers = {name: f"*{kind}" for name in ("p_y", "p_x", "p_weight", "p_bias", "p_residual")}
        pointers["p_bias"] = "*fp32"
        for chosen in convolution.candidates(channels, outputs, ITEMSIZES[kind], tf32):
            yield Variant(
                f"convolution, {side}x{side} {channels} to {outputs}{', join' if join else ''}, "
                f"{'tf32' if tf32 else kind}, tile {chosen.m}x{chosen.n}x{chosen.c}, {chosen.warps} warps",
                convolution.convolution_kernel,
                pointers | dict.fromkeys(("pixels", "height", "width"), "i32"),
                convolution.constants(chosen, channels, outputs, side, tf32)
                | {"SCALE": 0.5**0.5, "BIAS": True, "JOIN": join},
                elements=chosen.m * chosen.n,
                aligned=tuple(pointers),
                warps=chosen.warps,
                stages=chosen.stages,
            )


def _fir_resample() -> Iterator[Variant]:
    """Yield the shapes of NCSN++ on CIFAR-10 in bf16 and float32 and both formats, its pyramids, and an odd filter."""
    shapes = [(128, 32, False), (256, 16, False), (256, 8, False), (256, 4, True), (256, 8, True), (256, 16, True)]
    for kind in ("bf16", "fp32"):
        for channels, size, up in shapes:
            yield _resampling(channels, size, up, kind, True)
        # Rows of less than 16 bytes, such as 4 bf16 values, cannot use 16-byte accesses.
        shortest = 8 if kind == "bf16" else 4
        for channels, size, up in shapes:
            if size // (1 if up else 2) >= shortest:
                yield _resampling(channels, size, up, kind, False)
    for up in (True, False):
        yield _resampling(3, 16, up, "fp32", False)
        yield _resampling(128, 32, up, "bf16", True, taps=(1, 2, 1))


def _resampling(
    channels: int, size: int, up: bool, kind: str, channels_last: bool, taps: tuple[int, ...] = (1, 3, 3, 1)
) -> Variant:
    signature = {"p_x": f"*{kind}", "p_out": f"*{kind}"}
    if channels_last:
        kernel = fir_resample.fir_resample_channels_last_kernel
        constants, _programs = fir_resample.channels_last_launch(channels, size, size, up, ITEMSIZES[kind])
        elements = constants["BLOCK_P"] * constants["BLOCK_C"] * (4 if up else 2)
    else:
        kernel = fir_resample.fir_resample_kernel
        signature["planes"] = "i64"
        constants, _programs = fir_resample.contiguous_launch(512 * channels, size, size, up, ITEMSIZES[kind])
        elements = constants["BLOCK"] * constants["COLUMNS"] * 2
    row_taps = tuple(tap / sum(taps) for tap in taps)
    offset = len(taps) - 2 - (len(taps) - 1) // 2 if up else len(taps) // 2
    filters = {"COLUMN_TAPS": tuple((4.0 if up else 1.0) * tap for tap in row_taps), "ROW_TAPS": row_taps}
    return Variant(
        f"fir_resample, {'up' if up else 'down'} {channels}x{size}x{size} {kind}, "
        f"{'channels_last' if channels_last else 'NCHW'}{'' if len(taps) == 4 else f', {len(taps)} taps'}",
        kernel,
        signature,
        constants | filters | {"OFFSET": offset},
        elements,
        aligned=("p_x", "p_out"),
        warps=fir_resample.WARPS,
        maxnreg=fir_resample.max_registers(up, ITEMSIZES[kind]) if channels_last else None,
        budget=(16.0 if up else 55.0) if channels_last and len(taps) == 4 else None,
    )


def _group_norm_attention() -> Iterator[Variant]:
    """Yield the shapes of NCSN++ and DDPM: 256 channels at 16x16, 8x8 and 4x4, in channels_last."""
    for kind in ("bf16", "fp16"):
        for tokens in (256, 64, 16):
            plan = group_norm_attention.plan_of(tokens, 256, 32, 2, True, 1e-6, 0.5**0.5)
            pointers = {"p_n": f"*{kind}", "p_x": f"*{kind}", "p_weight": "*fp32", "p_bias": "*fp32"}
            yield Variant(
                f"group_norm_attention: normalise, {tokens} pixels, {kind}",
                group_norm_attention.normalise_tokens_kernel,
                pointers,
                plan.norm_constants,
                elements=tokens * plan.norm_constants["SLAB_CHANNELS"],
                aligned=tuple(pointers),
                warps=plan.norm_warps,
            )
            names = ("p_out", "p_x", "p_n", "p_score", "p_key_bias", "p_value", "p_bias")
            pointers = {name: "*fp32" if name in ("p_key_bias", "p_bias") else f"*{kind}" for name in names}
            yield Variant(
                f"group_norm_attention: attend, {tokens} pixels, {kind}",
                group_norm_attention.group_norm_attention_kernel,
                pointers | {"batch": "i32"},
                plan.attention_constants,
                elements=plan.tile.m * 256,
                aligned=tuple(pointers),
                warps=plan.tile.warps,
                stages=plan.tile.stages,
            )


IMAGES = {"p_x", "p_residual", "p_joined", "p_source", "p_y", "p_change", "p_grad_h", "p_out"}
"""Pointers of the GroupNorm kernels to the network's dtype; the others point to float32."""


def _pointers(kernel: Any, kind: str) -> dict[str, str]:
    names = [name for name in kernel.arg_names if name.startswith("p_")]
    return {name: f"*{kind}" if name in IMAGES else "*fp32" for name in names}


def _group_norm_silu() -> Iterator[Variant]:
    """Yield the shapes of NCSN++ on CIFAR-10, channels_last, with a time bias and with a residual."""
    shapes = [(128, 32), (256, 32), (384, 32), (256, 16), (384, 16), (512, 16), (256, 8), (512, 8), (256, 4), (512, 4)]
    for channels, size in shapes:
        for kind, itemsize in (("bf16", 2), ("fp32", 4)):
            for join in (False, True):
                plan = plan_of(channels, size * size, min(channels // 4, 32), itemsize, True, 2 if join else 1)
                form = group_norm_silu.form_of(plan, join, 0 if join else 2, 0.5**0.5 if join else 1.0, 1e-6, True)
                if form is None:
                    continue
                pointers = _pointers(form.kernel, kind)
                yield Variant(
                    f"group_norm_silu: {channels} @ {size}^2, {'join' if join else 'shift'}, {kind}",
                    form.kernel,
                    pointers,
                    form.constants,
                    elements=plan.pixels * plan.slab,
                    aligned=tuple(pointers),
                    warps=form.options["num_warps"],
                    maxnreg=form.options["maxnreg"],
                )


def _group_norm_silu_in_pieces() -> Iterator[Variant]:
    """Yield channels_last images of NCSN++ too large for registers: the widest of CIFAR-10, and those of FFHQ."""
    kernels = (
        group_norm_silu.group_moments_kernel,
        group_norm_silu.group_statistics_kernel,
        group_norm_silu.group_apply_kernel,
    )
    for channels, size in ((384, 32), (256, 64), (128, 256)):
        for kind, itemsize in (("bf16", 2), ("fp32", 4)):
            for join in (False, True):
                plan = plan_of(channels, size * size, min(channels // 4, 32), itemsize, True, 2 if join else 1)
                if plan.fits(plan.slab):
                    continue
                name, shift, scale = ("join", 0, 0.5**0.5) if join else ("shift", 2, 1.0)
                elements_made = plan.piece(PIECE) * plan.slab, 1, plan.piece(PIECE // 2) * plan.slab
                forms = group_norm_silu.launch_forms(plan, join, shift, scale, 1e-6, True)
                for kernel, (constants, warps), elements in zip(kernels, forms, elements_made, strict=True):
                    pointers = _pointers(kernel, kind)
                    yield Variant(
                        f"group_norm_silu, {kernel.__name__}: {channels} @ {size}^2, {name}, {kind}",
                        kernel,
                        pointers,
                        constants,
                        elements,
                        aligned=tuple(pointers) if IMAGES & set(pointers) else (),
                        warps=warps,
                    )


def _group_norm_silu_gradients() -> Iterator[Variant]:
    """Yield the shapes of NCSN++ on CIFAR-10, channels_last."""
    for channels, size in ((128, 32), (256, 32), (384, 32), (256, 16), (256, 8), (256, 4)):
        for kind, itemsize in (("bf16", 2), ("fp32", 4)):
            for backward in (False, True):
                plan = plan_of(channels, size * size, min(channels // 4, 32), itemsize, True, 0)
                rows = plan.piece(PIECE // 2)
                constants = {**plan.image, "SHIFT": 2, "SCALE": 1.0, "SILU": True, "BACKWARD": backward,
                             "GRAD_H": backward, "ROWS": rows}  # fmt: skip
                for kernel, more in (
                    (group_norm_silu_gradients.gradient_sums_kernel, {}),
                    (group_norm_silu_gradients.gradient_apply_kernel, {"OUT_SCALE": 1.0}),
                ):
                    pointers = _pointers(kernel, kind)
                    yield Variant(
                        f"group_norm_silu_{'backward' if backward else 'tangent'} {kernel.__name__}: "
                        f"{channels} @ {size}^2, {kind}",
                        kernel,
                        pointers,
                        constants | more,
                        elements=rows * plan.slab,
                        aligned=tuple(pointers),
                    )
