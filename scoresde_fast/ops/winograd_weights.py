# SPDX-License-Identifier: Apache-2.0
"""The matrices of F(4x4, 3x3), and the weights of `scoresde_fast.ops.winograd_convolution`.

They are Toom and Cook's for the points 0, +-11/16, +-3/2 and infinity: their rounding errors are one to two times
those of the direct sum; the usual 0, +-1, +-2 lose four times as much.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from scoresde_fast.ops.derivatives import version

POINTS = (0.0, 11 / 16, -11 / 16, 3 / 2, -3 / 2)  # and infinity
TILE, PATCH, PANEL, LANES = 4, 6, 16, 8

_transposed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def _toom_cook() -> tuple[npt.NDArray[np.float64], ...]:
    """A^T (4, 6), G (6, 3), B^T (6, 6), exact in float64."""
    points = np.array(POINTS)
    evaluate = np.vander(points, TILE, increasing=True).T
    filters = np.vander(points, 3, increasing=True)
    patches = np.zeros((PATCH, PATCH))
    for index, point in enumerate(points):
        others = np.delete(points, index)
        filters[index] /= np.prod(point - others)
        patches[index, :-1] = np.poly(others)[::-1]
    patches[-1] = np.poly(points)[::-1]
    at_infinity = np.eye(TILE)[:, -1:], np.eye(3)[-1:]
    return np.hstack([evaluate, at_infinity[0]]), np.vstack([filters, at_infinity[1]]), patches


A_T, G, B_T = (torch.from_numpy(matrix) for matrix in _toom_cook())


def fits(weight: Tensor) -> bool:
    """Whether the operation has a convolution of this weight: (K, C, 3, 3), C a multiple of 8 and K of 16."""
    return weight.shape[2:] == (3, 3) and weight.shape[1] % LANES == 0 and weight.shape[0] % PANEL == 0


def winograd_weight(weight: Tensor) -> Tensor:
    """G g G^T of every filter: (K, C, 3, 3) -> (36, K / 16, C, 16), float32 (float64 of float64).

    Raises:
        ValueError: the shape is not one that `fits`.
    """
    if not fits(weight):
        raise ValueError(
            f"the weight has shape {tuple(weight.shape)}; it must be (K, C, 3, 3), C a multiple of {LANES} and K of "
            f"{PANEL}: use torch's convolution for others"
        )
    channels_out, channels_in = weight.shape[:2]
    square = torch.kron(G, G).to(weight.device)
    transformed = square @ weight.detach().double().flatten(2).permute(2, 0, 1).flatten(1)
    panels = transformed.view(PATCH**2, channels_out // PANEL, PANEL, channels_in).transpose(2, 3)
    return panels.to(torch.promote_types(weight.dtype, torch.float32)).contiguous()


def winograd_filters(weight: Tensor) -> Tensor:
    """The filters that `winograd_weight` made this of, to its rounding: (36, K / 16, C, 16) -> (K, C, 3, 3)."""
    back = torch.linalg.pinv(G)
    points = weight.detach().double().transpose(2, 3).flatten(1)
    filters = (torch.kron(back, back).to(weight.device) @ points).T
    return filters.reshape(weight.shape[1] * PANEL, weight.shape[2], 3, 3).to(weight.dtype)


def transposed_weight(weight: Tensor) -> Tensor:
    """The weight of the transposed convolution: (36, K / 16, C, 16) -> (36, ceil(C / 16), K, 16).

    The filters are flipped and the channels exchanged; C is filled up with zeros to a multiple of 16.  It is made once
    and kept as long as ``weight`` is, unless that is written.
    """
    kept: tuple[int, Tensor] | None = _transposed.get(weight)
    if kept is None or kept[0] != version(weight):
        filters = winograd_filters(weight).flip(2, 3).transpose(0, 1)
        filled = F.pad(filters, (0, 0, 0, 0, 0, 0, 0, -len(filters) % PANEL))
        kept = _transposed[weight] = version(weight), winograd_weight(filled)
    return kept[1]
