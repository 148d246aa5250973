# SPDX-License-Identifier: Apache-2.0
"""``kernels/noise.py`` in Triton's interpreter: Philox words bit for bit, and both forms of Box-Muller."""

from __future__ import annotations

import math
from importlib.util import find_spec
from typing import Any

import pytest
import torch

from scoresde_fast import rng
from scoresde_fast.ops import affine_step
from scoresde_fast.ops.checks import signed64
from scoresde_fast.ops.registration import INTERPRETED
from scoresde_fast.ops.step_table import WIDTH
from scoresde_fast.rng import WORD, box_muller, split64
from tests.support.steps import RUN_SEED, SAMPLE_IDS, random_table

if not INTERPRETED or find_spec("triton") is None:
    pytest.skip("the kernels are interpreted only with Triton and TRITON_INTERPRET=1", allow_module_level=True)

import triton
import triton.language as tl
from scoresde_fast.kernels.noise import box_muller_fast, box_muller_precise, philox


@triton.jit
def _pairs_kernel(
    p_first: Any, p_second: Any, p_radius: Any, p_angle: Any, PRECISE: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    at = tl.arange(0, BLOCK)
    radius, angle = tl.load(p_radius + at).to(tl.uint32), tl.load(p_angle + at).to(tl.uint32)
    first, second = box_muller_precise(radius, angle) if PRECISE else box_muller_fast(radius, angle)
    tl.store(p_first + at, first)
    tl.store(p_second + at, second)


@triton.jit
def _words_kernel(p_words: Any, p_calls: Any, draw: Any, sample_id: Any, run_seed: Any, BLOCK: tl.constexpr) -> None:
    at = tl.arange(0, BLOCK)
    call = tl.load(p_calls + at).to(tl.uint32)
    words = philox(call, draw.to(tl.uint32), sample_id.to(tl.int64), run_seed.to(tl.int64))
    for k in tl.static_range(4):
        tl.store(p_words + k * BLOCK + at, words[k].to(tl.int64))


def test_philox() -> None:
    """The four words equal the contract's for the extreme values of call, draw, sample id and key."""
    calls = torch.tensor([0, 1, 2**31, 2**32 - 1])
    for draw, sample, seed in [(0, 0, 0), (2**32 - 1, 2**63 - 1, RUN_SEED), (5, 2**32 + 7, 2**64 - 1)]:
        words = torch.empty(4, 4, dtype=torch.int64)
        _words_kernel[(1,)](words, calls, draw, sample, signed64(seed), BLOCK=4)
        counter = (calls, torch.tensor(draw), torch.tensor(sample & WORD), torch.tensor(sample >> 32))
        assert torch.equal(words, torch.stack(rng.philox(counter, split64(seed))))


@pytest.mark.parametrize("precise", [True, False], ids=["precise", "fast"])
def test_box_muller(precise: bool) -> None:
    """The error is as stated, for random words and words at the edges of every octant and branch."""
    size = 2**17
    words = torch.randint(0, 2**32, (2, size), generator=torch.Generator().manual_seed(3))
    edges = torch.arange(9)[:, None] * 2**29 + torch.tensor([-512, -256, -1, 0, 255, 256])
    root = int(2**32 * math.sqrt(0.5))
    edges = torch.cat(
        [edges.flatten(), torch.arange(-4, 5) * 256 + root, 2 ** torch.arange(32), 2**32 - edges[0]]
    ).clamp(0, 2**32 - 1)
    words[0, : len(edges)] = edges
    words[1, size - len(edges) :] = edges
    words[1, : len(edges)] = edges.flip(0)
    ours = torch.empty(2, size)
    _pairs_kernel[(1,)](ours[0], ours[1], words[0], words[1], PRECISE=precise, BLOCK=size)
    expected = torch.stack(box_muller(words[0], words[1]))
    if precise:
        unit = torch.nextafter(expected.abs(), torch.tensor(math.inf)) - expected.abs()
        assert float(((ours - expected).abs() / unit).max()) <= 2
    else:
        # float32 cannot hold 1 - 2^-25: the radius there is 0 rather than 2.4e-4.
        assert float((ours - expected).abs().max()) <= 3.5e-4


def test_fast_noise_of_a_step() -> None:
    """Without ``precise``, the error of a step's noise is as stated."""
    table, states = random_table(WIDTH), [torch.zeros(3, 192) for _ in range(2)]
    for state, precise in zip(states, (False, True), strict=True):
        step = affine_step.operation.choose("cpu", "triton")
        affine_step.affine_step(state, table, 1, sample_ids=SAMPLE_IDS, precise=precise, implementation=step)
    assert 0 < float((states[0] - states[1]).abs().max()) <= 4e-6
