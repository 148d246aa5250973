# SPDX-License-Identifier: Apache-2.0
"""The noise contract: each normal of a run is a pure function of (run seed, sample id, draw, element).

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps

    key     = (run seed low, run seed high)
    counter = (element // 4, draw, sample id low, sample id high)

to four 32-bit words, and the Box-Muller transform maps these to the normals of four neighbouring elements.
``csrc/core/philox.h`` and ``csrc/core/box_muller.h`` implement the same contract in C++.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def split64(value: int) -> tuple[int, int]:
    """Return the (low, high) 32-bit words of a 64-bit integer; negative integers are in two's complement."""
    return value & WORD, (value >> 32) & WORD


def philox(counter: Sequence[Tensor], key: tuple[int, int], rounds: int = 10) -> Words:
    """Return Philox4x32 of the counter's four words: int64 in [0, 2^32), which broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """Return the high and low words of a 32 x 32 bit product.

    The multipliers exceed 2^31.  Subtracting 2^32 makes the product fit int64 and its high word too small by ``word``.
    """
    product = word * (multiplier - 2**32)
    return (product >> 32) + word, product & WORD


def box_muller(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """Return two independent standard normals (float32) for two int64 words in [0, 2^32), which broadcast.

    u = ((word >> 8) + 1/2) 2^-24 is in (0, 1).  With r = sqrt(-2 ln u0), the normals are r cos(2 pi u1) and
    r sin(2 pi u1).  For u1 > 1/2 the angle uses u1 - 1, the same point of the circle, so that small sines near a full
    turn are exact.  u is exact in float64, and the result is computed in float64 and rounded once.  It is correctly
    rounded except for ties; the precise form of other backends agrees to 2 ulp or better.
    """
    radius = _uniform(radius_word).log_().mul_(-2.0).sqrt_()
    turns = _uniform(angle_word)
    angle = (turns - (turns > 0.5).double()).mul_(2.0 * math.pi)
    return (radius * angle.cos()).float(), (radius * angle.sin()).float()


def _uniform(word: Tensor) -> Tensor:
    return (word >> 8).double().add_(0.5).mul_(2.0**-24)


def _call_words(sample_ids: Tensor, run_seed: int, draw: int, elements: int) -> Words:
    """Return the four words of each Philox call: (B, calls) int64 each, with calls = ceil(elements / 4)."""
    calls = torch.arange((elements + 3) // 4, device=sample_ids.device)
    low, high = (sample_ids & WORD)[:, None], (sample_ids >> 32 & WORD)[:, None]
    return philox((calls, calls.new_full((), draw), low, high), split64(run_seed))


def _by_element(by_call: Words, elements: int) -> Tensor:
    """Interleave the four values of each call, (B, calls) each, to (B, elements)."""
    return torch.stack(by_call, dim=-1).flatten(1)[:, :elements]


def standard_normals(sample_ids: Tensor, run_seed: int, draw: int, elements: int) -> Tensor:
    """Return the standard normals of a draw for each sample: (B,) int64 -> (B, elements) float32 on the same device."""
    w0, w1, w2, w3 = _call_words(sample_ids, run_seed, draw, elements)
    return _by_element((*box_muller(w0, w1), *box_muller(w2, w3)), elements).contiguous()


def random_signs(sample_ids: Tensor, run_seed: int, draw: int, elements: int) -> Tensor:
    """Return random signs like `standard_normals`: 1 if the top bit of the word is 0, else -1."""
    words = _by_element(_call_words(sample_ids, run_seed, draw, elements), elements)
    return (1 - 2 * (words >> 31)).float()


def uniforms(sample_ids: Tensor, run_seed: int, draw: int, elements: int) -> Tensor:
    """Return uniform numbers in (0, 1) like `standard_normals`, but in float64: u of each word, see `box_muller`."""
    return _uniform(_by_element(_call_words(sample_ids, run_seed, draw, elements), elements))
