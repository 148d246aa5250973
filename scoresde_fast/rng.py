# SPDX-License-Identifier: Apache-2.0
"""The noise contract: every normal number of a run is a pure function of (run seed, sample id, draw, element).

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns

    key     = (run seed low, run seed high)
    counter = (element // 4, draw, sample id low, sample id high)

into four 32-bit words; the Box-Muller transform turns those into the normals of four neighbouring elements.
``csrc/core/philox.h`` and ``csrc/core/box_muller.h`` are the same contract in C++.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
KEY_STEPS = (0x9E3779B9, 0xBB67AE85)

Words = tuple[Tensor, Tensor, Tensor, Tensor]


def split64(value: int) -> tuple[int, int]:
    """Return the (low, high) 32-bit words of a 64-bit integer, of a negative one in two's complement."""
    return value & WORD, (value >> 32) & WORD


def philox(counter: Tensor, key: tuple[int, int], rounds: int = 10) -> Tensor:
    """Philox4x32: ``counter`` (..., 4) int64 of words in [0, 2^32) -> (..., 4) int64 of words in [0, 2^32)."""
    c0, c1, c2, c3 = counter.unbind(-1)
    return torch.stack(philox_words((c0, c1, c2, c3), key, rounds), dim=-1)


def philox_words(counter: Words, key: tuple[int, int], rounds: int = 10) -> Words:
    """`philox` on four separate words, which broadcast: element and sample axes need not be expanded."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + KEY_STEPS[0]) & WORD, (k1 + KEY_STEPS[1]) & WORD
    return c0, c1, c2, c3


def _multiply(word: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """The high and low words of a 32 x 32 bit product.

    Both multipliers exceed 2^31: with 2^32 subtracted, the product fits int64, and the word itself is missing from the
    high half.
    """
    product = word * (multiplier - 2**32)
    return (product >> 32) + word, product & WORD


def box_muller(radius_word: Tensor, angle_word: Tensor) -> tuple[Tensor, Tensor]:
    """Two int64 words in [0, 2^32) -> two independent standard normals (float32), of the words' broadcast shape.

    u = ((word >> 8) + 1/2) 2^-24 lies in (0, 1); r = sqrt(-2 ln u0); the normals are r cos(2 pi u1) and r sin(2 pi u1).
    The angle is taken in (-pi, pi): u1 - 1 for u1 > 1/2, which is the same point of the circle and keeps the small
    sines near a half turn exact. u is exact in float64, and everything is evaluated in float64 and rounded once: the
    result is the correctly rounded normal except for ties, and a careful backend agrees to 2 ulp or better.
    """
    radius = _uniform(radius_word).log_().mul_(-2.0).sqrt_()
    turns = _uniform(angle_word)
    angle = (turns - (turns > 0.5).double()).mul_(2.0 * math.pi)
    return (radius * angle.cos()).float(), (radius * angle.sin()).float()


def _uniform(word: Tensor) -> Tensor:
    return (word >> 8).double().add_(0.5).mul_(2.0**-24)


def field_words(sample_ids: Tensor, run_seed: int, draw: int, elements: int) -> Words:
    """Return the four words of the field ``draw`` of each sample: (B, calls) int64, calls = ceil(elements / 4)."""
    calls = torch.arange((elements + 3) // 4, device=sample_ids.device)
    low, high = (sample_ids & WORD)[:, None], (sample_ids >> 32 & WORD)[:, None]
    return philox_words((calls, calls.new_full((), draw), low, high), split64(run_seed))


def standard_normals(sample_ids: Tensor, run_seed: int, draw: int, elements: int) -> Tensor:
    """Return the normal field ``draw`` of each sample: (B,) int64 -> (B, elements) float32 on the same device."""
    w0, w1, w2, w3 = field_words(sample_ids, run_seed, draw, elements)
    normals = torch.stack((*box_muller(w0, w1), *box_muller(w2, w3)), dim=-1)
    return normals.flatten(1)[:, :elements].contiguous()


def random_signs(sample_ids: Tensor, run_seed: int, draw: int, elements: int) -> Tensor:
    """Return the field ``draw`` of signs, like `standard_normals`: 1 or -1 where the word's top bit is 0 or 1."""
    words = torch.stack(field_words(sample_ids, run_seed, draw, elements), dim=-1).flatten(1)[:, :elements]
    return (1 - 2 * (words >> 31)).float()


def uniforms(sample_ids: Tensor, run_seed: int, draw: int, elements: int) -> Tensor:
    """Return the field ``draw`` of numbers in (0, 1), like `standard_normals` but float64: the u of each word."""
    words = torch.stack(field_words(sample_ids, run_seed, draw, elements), dim=-1).flatten(1)[:, :elements]
    return _uniform(words)
