# SPDX-License-Identifier: Apache-2.0
"""Resampling and pyramid inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scoresde_fast.networks.blocks import Combine, Downsample, Upsample
from scoresde_fast.ops.fir_resample import fir_down, fir_up


@pytest.mark.parametrize("taps", [(1, 3, 3, 1), (1, 2, 1), (1, 1), (1, 2, 3, 4)], ids=str)
@pytest.mark.parametrize("size", [(8, 6), (5, 7)], ids=str)
def test_fir_resampling_agrees_with_upfirdn(taps: tuple[int, ...], size: tuple[int, int]) -> None:
    """Up- and downsampling agree with SciPy's upfirdn along each axis, cropped so that the image stays centred."""
    signal = pytest.importorskip("scipy.signal")
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    kernel = np.array(taps) / sum(taps)

    def axis(values: np.ndarray, dim: int, up: int, down: int) -> np.ndarray:
        length = values.shape[dim]
        # Padding of the official code: (K - 1) // 2 + 1 in front for up, (K - 1) // 2 for down.
        if up == 2:
            full = signal.upfirdn(2 * kernel, values, up=2, axis=dim)
            lead = len(taps) - 1 - ((len(taps) - 1) // 2 + 1)
            cropped = [
                full.take(i, dim) if i < full.shape[dim] else 0 * full.take(0, dim)
                for i in range(lead, lead + 2 * length)
            ]
            return np.stack(cropped, dim)
        full = signal.upfirdn(kernel, values, axis=dim)
        lead = len(taps) - 1 - (len(taps) - 1) // 2
        return full.take(range(lead, lead + length - (length % 2), 2), dim)

    up = axis(axis(x.numpy(), 2, 2, 1), 3, 2, 1)
    np.testing.assert_allclose(fir_up(x, taps).numpy(), up, atol=1e-12)
    if not any(n % 2 for n in size):
        np.testing.assert_allclose(fir_down(x, taps).numpy(), axis(axis(x.numpy(), 2, 1, 2), 3, 1, 2), atol=1e-12)


@pytest.mark.parametrize("taps", [None, (1, 3, 3, 1)], ids=["plain", "fir"])
def test_sizes_of_resampling_layers(taps: tuple[int, ...] | None) -> None:
    """With and without convolution, `Downsample` halves and `Upsample` doubles the size."""
    x = torch.randn(1, 4, 6, 6)
    for with_conv in (True, False):
        assert Downsample(4, 4, with_conv=with_conv, taps=taps)(x).shape == (1, 4, 3, 3)
        assert Upsample(4, 4, with_conv=with_conv, taps=taps)(x).shape == (1, 4, 12, 12)


def test_combine_methods() -> None:
    """``sum`` preserves the number of channels; ``cat`` doubles it, with the projection first."""
    pyramid, h = torch.randn(1, 3, 4, 4), torch.randn(1, 8, 4, 4)
    assert Combine(3, 8, "sum")(pyramid, h).shape == (1, 8, 4, 4)
    assert torch.equal(Combine(3, 8, "cat")(pyramid, h)[:, 8:], h)
