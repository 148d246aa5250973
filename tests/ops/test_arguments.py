# SPDX-License-Identifier: Apache-2.0
"""Arguments of the C++ operators, called directly: the sentences with which they refuse them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde_fast import _extension
from scoresde_fast.ops.step_table import DOT_WIDTH, LEVEL_WIDTH, PAIR_WIDTH, WIDTH

pytestmark = pytest.mark.skipif(_extension.why_missing is not None, reason="there is no extension")

X = torch.ones(2, 8, 4, 4)
LAST = X.to(memory_format=torch.channels_last)
IDS = torch.arange(2)
CONTROL = torch.zeros(3, 3, dtype=torch.int32)
EMPTIED = torch.ones(2, 8, 4, 4)
EMPTIED.untyped_storage().resize_(0)
UNALIGNED = torch.frombuffer(bytearray(4 * X.numel() + 1), dtype=torch.float32, offset=1).view(X.shape)


def table(width: int) -> dict[str, Any]:
    return {"coefficients": torch.ones(3, width), "control": CONTROL, "counter": None, "offset": 0, "run_seed": 0}


def slots(slot: int) -> Tensor:
    return torch.tensor([[0, slot, 0]] * 3, dtype=torch.int32)


STEP = {"saved": None, "history": None, "network_output": None, "sample_ids": None, "earlier": 0, "precise": False}
LANGEVIN = {"state": X, "network_output": X, "sample_ids": IDS, **table(WIDTH), "per_sample": True, "precise": False}
SAVED = {
    "source": X, "shift": None, "statistics": torch.ones(2, 4, 2), "weight": torch.ones(8), "bias": torch.ones(8),
    "groups": 4, "scale": 1.0, "joined": False, "silu": True,
}  # fmt: skip
VALID: dict[str, dict[str, Any]] = {
    "affine_step": {"state": X, **STEP, **table(WIDTH)},
    "affine_step_pair": {"state": X, **STEP, **table(PAIR_WIDTH)},
    "langevin": LANGEVIN,
    "langevin_step": {**LANGEVIN, "norms": torch.ones(2, 2)},
    "langevin_norms": {name: value for name, value in LANGEVIN.items() if name not in ("state", "per_sample")},
    "project": {
        "state": X, "known": X, "mask": X.bool(), "sample_ids": IDS, **table(LEVEL_WIDTH), "pairs": False,
        "precise": False,
    },
    "hutchinson_dot": {
        "divergence": torch.zeros(2).double(), "tangent": X, "sample_ids": IDS,
        **table(DOT_WIDTH), "draw": 0, "signs": True, "precise": False,
    },
    "normal": {"sample_ids": IDS, "run_seed": 0, "draw": 0, "elements": 3, "precise": False},
    "rademacher": {"sample_ids": IDS, "run_seed": 0, "draw": 0, "elements": 3},
    "fir_resample": {"x": X, "taps": [1.0, 3.0, 3.0, 1.0], "direction": "up", "offset": 1, "gain": 4.0},
    "group_norm_silu": {
        "x": X, "weight": torch.ones(8), "bias": torch.ones(8), "groups": 4, "eps": 1e-6, "shift": None,
        "residual": None, "scale": 1.0, "silu": True, "resample": "none", "taps": [],
    },
    "group_norm_silu_backward": {"grad_y": X, "grad_h": None, **SAVED},
    "group_norm_silu_tangent": {"tangent": X, **SAVED},
    "winograd_convolution": {
        "x": LAST, "weight": torch.ones(36, 1, 8, 16), "bias": torch.ones(16),
        "residual": torch.ones(2, 16, 4, 4).to(memory_format=torch.channels_last), "scale": 1.0,
    },
}  # fmt: skip
"""Arguments that each operator takes."""

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    # Values inside tensors, which are read on the host.
    ("affine_step", {"history": X[None], "control": slots(-(2**31))}, "the slot in row 0 of control is -2147483648"),
    ("affine_step_pair", {"history": X[None], "control": slots(-100)}, "row 0 of control is -100; it must"),
    ("affine_step", {"counter": torch.tensor([-1000])}, "counter is -1000; counter [+] offset must be at least 0"),
    ("project", {"counter": torch.tensor([-(2**63)])}, "counter is -9223372036854775808"),
    ("hutchinson_dot", {"counter": torch.tensor([-3]).int()}, "counter is -3"),
    ("langevin", {"counter": torch.tensor([-3]).int()}, "counter is -3"),
    # Tables.
    ("affine_step", {"control": CONTROL[:2]}, r"control is int32 of shape \(2, 3\) .* it must be \(3, 3\)"),
    ("affine_step", {"control": CONTROL[:, :2].contiguous()}, r"control is int32 of shape \(3, 2\)"),
    ("project", {"control": CONTROL[:0]}, r"control is int32 of shape \(0, 3\)"),
    ("langevin_norms", {"control": CONTROL.long()}, "control is int64 .* must be contiguous int32"),
    ("langevin_step", {"coefficients": torch.ones(3, WIDTH - 1)}, r"\(3, 9\).* it must be \(rows, 10\)"),
    ("affine_step_pair", {"coefficients": torch.ones(0, PAIR_WIDTH)}, "with at least one row"),
    ("hutchinson_dot", {"coefficients": torch.ones(6)}, r"coefficients is float32 of shape \(6,\)"),
    ("affine_step", {"offset": -1}, "offset is -1; it must be from 0 to 2"),
    ("project", {"offset": 2**63 - 1}, "offset is 9223372036854775807; it must be from 0 to 2"),
    ("affine_step", {"counter": torch.zeros(0).long()}, r"counter is int64 of shape \(0,\) .* it must be one int32 or"),
    ("affine_step", {"counter": torch.zeros(1)}, "counter is float32 .* it must be one int32 or int64"),
    # Steps.
    ("affine_step", {"state": X[0, 0, 0, 0]}, "state has no dimensions"),
    ("affine_step", {"state": X.mT}, r"state is .* strides \(128, 16, 1, 4\); it must be contiguous float32"),
    ("affine_step", {"state": EMPTIED}, "state is float32 .*, but its storage holds only 0 elements"),
    ("affine_step", {"network_output": UNALIGNED}, "network_output is .* not aligned to 4 bytes; copy it"),
    ("affine_step", {"network_output": X.double()}, "network_output is float64 .* float32, bfloat16 or float16"),
    ("affine_step", {"network_output": X[:, :4].contiguous()}, r"\(2, 4, 4, 4\).* the shape of state"),
    ("affine_step_pair", {"network_output": X}, "it must have the shape of half of the channels of state"),
    ("affine_step_pair", {"state": X[:, :7].contiguous()}, r"a pair must be \(B, 2C, ...\)"),
    ("affine_step", {"saved": X.flatten(1)}, r"saved is float32 of shape \(2, 128\) .* the shape of state"),
    ("affine_step", {"earlier": 1}, "earlier is 1; without a history it must be 0"),
    ("affine_step", {"earlier": 2, "history": X[None]}, "it must hold at least 2 and fewer than"),
    ("affine_step", {"earlier": 4, "history": torch.ones(4, *X.shape)}, "earlier is 4; it must be from 0 to 3"),
    ("affine_step", {"earlier": 2**32 + 1, "history": X[None]}, "earlier is 4294967297"),
    ("affine_step", {"sample_ids": torch.arange(1)}, r"sample_ids is int64 of shape \(1,\).* it must be \(2,\)"),
    ("langevin", {"state": X[:1]}, "network_output is .* it must have the shape of state"),
    ("langevin_step", {"norms": torch.ones(4)}, r"norms is .*\(4,\).* it must be \(2, 2\)"),
    ("project", {"mask": X.bool()[:1]}, "mask is bool .* it must have the shape of known"),
    ("project", {"known": torch.ones(2, 3, 4, 4), "mask": torch.ones(2, 3, 4, 4).bool()}, "means over equal blocks"),
    ("project", {"known": X[:, :0], "mask": X[:, :0].bool()}, "known is .* it must hold the means over equal blocks"),
    ("project", {"pairs": True}, "with two halves"),
    # Noise.
    ("hutchinson_dot", {"divergence": torch.zeros(3).double()}, r"divergence is .* it must be \(2,\)"),
    ("hutchinson_dot", {"draw": 2**32}, "draw is 4294967296; it must be from 0 to 4294967295"),
    ("normal", {"draw": -1}, "draw is -1"),
    ("normal", {"elements": -5}, "elements is -5; it must be from 0 to 17179869183"),
    ("rademacher", {"elements": 2**62}, "elements is 4611686018427387904"),
    ("rademacher", {"sample_ids": torch.tensor(3)}, "sample_ids has no dimensions"),
    ("normal", {"sample_ids": torch.zeros(2, 3).long()}, r"sample_ids is int64 of shape \(2, 3\)"),
    # The network's operations.
    ("fir_resample", {"x": X.long()}, "x is int64 .* float32, bfloat16, float16 or float64"),
    ("fir_resample", {"x": torch.ones(2, 4)}, "it must have four dimensions"),
    ("fir_resample", {"x": torch.empty(2**40, 0, 2**40, 1)}, "x is too large"),
    ("fir_resample", {"x": X[..., :3].contiguous(), "direction": "down"}, "only even heights and widths"),
    ("fir_resample", {"direction": "left"}, "direction is 'left'; it must be 'up' or 'down'"),
    ("fir_resample", {"taps": [1.0] * 13}, "taps has 13 values; it must have 2 to 12"),
    ("fir_resample", {"taps": [1.0, -1.0]}, "taps has the sum 0; it must be finite and other than 0"),
    ("fir_resample", {"taps": [1.0, float("nan")]}, "taps has the sum nan"),
    ("fir_resample", {"offset": 4}, "offset is 4; it must be from 0 to 3"),
    ("group_norm_silu", {"groups": 0}, "groups is 0; it must be a positive divisor of the 8 channels of x"),
    ("group_norm_silu", {"resample": "left"}, "resample is 'left'; it must be 'none', 'up' or 'down'"),
    ("group_norm_silu", {"resample": "up"}, "taps has 0 values"),
    ("group_norm_silu", {"shift": torch.ones(1, 8)}, r"shift is .*\(8,\) or the same for each sample"),
    ("group_norm_silu", {"residual": LAST}, "residual is .* it must have dtype, shape and memory format of x"),
    ("group_norm_silu_backward", {"statistics": torch.ones(2, 4)}, r"statistics is .* it must be \(2, 4, 2\)"),
    ("group_norm_silu_tangent", {"statistics": torch.ones(2, 1, 2)}, r"statistics is .* it must be \(2, 4, 2\)"),
    ("group_norm_silu_backward", {"weight": torch.ones(1)}, r"weight is .*; for 8 channels it must be .* \(8,\)"),
    ("group_norm_silu_tangent", {"bias": torch.ones(0)}, "bias is .*; for 8 channels"),
    ("group_norm_silu_backward", {"shift": torch.ones(2, 1)}, "shift is .*; for 8 channels"),
    ("group_norm_silu_backward", {"grad_h": X.half()}, "grad_h is float16 .* memory format of source"),
    ("group_norm_silu_tangent", {"tangent": X[:1]}, "tangent is .* shape and memory format of source"),
    ("group_norm_silu_backward", {"source": X[0]}, "source is .* it must have four dimensions"),
    ("winograd_convolution", {"x": X}, "x is .* it must be channels_last"),
    ("winograd_convolution", {"weight": torch.ones(36, 1, 16, 16)}, r"it must be \(36, K / 16, 8, 16\)"),
    ("winograd_convolution", {"bias": torch.ones(8)}, r"bias is .* it must be \(16,\)"),
    ("winograd_convolution", {"residual": LAST}, "residual is .* it must be channels_last like the result"),
]  # fmt: skip


def call(operator: str, **arguments: Any) -> Any:
    """Call an operator of the extension with arguments by name."""
    overload = getattr(torch.ops.scoresde_fast_C, operator).default
    return overload(*(arguments[parameter.name] for parameter in overload._schema.arguments))


@pytest.mark.parametrize("operator", VALID)
def test_valid_arguments(operator: str) -> None:
    """The arguments that the refused ones change by one are taken."""
    copies = {name: value.clone() if isinstance(value, Tensor) else value for name, value in VALID[operator].items()}
    call(operator, **copies)


def test_every_operator_has_refusals() -> None:
    """The table refuses an argument of every operator of the extension."""
    names = {
        name.partition("::")[2]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("scoresde_fast_C::")
    }
    assert names == set(VALID) == {operator for operator, _, _ in REFUSED}


@pytest.mark.parametrize(("operator", "changed", "sentence"), REFUSED)
def test_refused_arguments(operator: str, changed: dict[str, Any], sentence: str) -> None:
    """The sentence names the argument, its value and what is allowed; nothing is read or written out of bounds."""
    with pytest.raises(RuntimeError, match=sentence):
        call(operator, **{**VALID[operator], **changed})
