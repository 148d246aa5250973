# SPDX-License-Identifier: Apache-2.0
"""Results of the official code, recorded in tests/golden; its README describes the files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from scoresde_fast.checkpoints import load
from scoresde_fast.model import ScoreModel

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
NETWORKS = (
    *("ve_ncsnpp", "ve_ncsnpp_discrete", "ve_ncsnpp_skip", "vp_ddpm", "vp_ddpmpp", "vp_ddpmpp_discrete"),
    *("subvp_ncsnpp", "cld_cifar10", "cld_vpsde_mixed"),
)


def checkpoint(name: str) -> Path:
    """Return the recorded checkpoint of a network, in the repository or beside it; skip the test if there is none."""
    inside, beside = GOLDEN / f"{name}.pth", GOLDEN.parents[2] / "shared" / "golden" / f"{name}.pth"
    for path in (inside, beside):
        if path.is_file():
            return path
    pytest.skip(f"{name}.pth (5.6 MB) is neither in the repository nor at {beside}")


@cache
def recorded(name: str) -> dict[str, NDArray[np.float32]]:
    """Return the arrays of a recorded file."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return dict(arrays)


@cache
def model(name: str, weights: str) -> ScoreModel:
    """Return the model of a recorded checkpoint with its ``raw`` or ``ema`` weights."""
    return load(checkpoint(name), config=GOLDEN / f"{name}.json", ema=weights == "ema")


def recorded_inputs(arrays: dict[str, NDArray[np.float32]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the states, labels and times; labels of CLD networks are the times."""
    if "u" in arrays:
        t = torch.from_numpy(arrays["t"])
        return torch.from_numpy(arrays["u"]), t.float(), t
    x, labels, t = (torch.from_numpy(arrays[key]) for key in ("x_in", "labels", "t"))
    return x, labels, t


def relative_error(ours: torch.Tensor, theirs: NDArray[np.float32]) -> float:
    """Return the largest difference relative to the largest recorded value."""
    assert ours.shape == theirs.shape
    assert ours.dtype == torch.float32
    return float(np.abs(ours.numpy() - theirs).max() / np.abs(theirs).max())


def assert_close(actual: object, expected: np.ndarray, relative: float, *operands: np.ndarray) -> None:
    """Assert equality within ``relative`` of the largest expected value or operand.

    ``operands`` are float32 values that the official code subtracted: the difference is only as accurate as these.
    """
    actual = np.asarray(actual, dtype=np.float64)
    scale = max(np.abs(values).max() for values in (expected, *operands))
    assert np.abs(actual - expected).max() <= relative * scale
