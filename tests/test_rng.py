# SPDX-License-Identifier: Apache-2.0
"""The noise contract: known answers, Python against C++, and values at corners."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from scoresde_fast.rng import WORD, box_muller, philox, split64

ONES = WORD
KNOWN_ANSWERS = {
    "zeros": ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    "ones": ((ONES, ONES, ONES, ONES), (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    "pi": (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}
CORNERS = [0, 0xFF, 0x100, 0x1FFFFFFF, 0x20000000, 0x3FFFFFFF, 0x40000000, 0x7FFFFFFF]
CORNERS += [0x80000000, 0x9FFFFFFF, 0xA0000000, 0xBFFFFFFF, 0xC0000000, WORD]


@pytest.fixture(scope="module")
def core(root: Path) -> ModuleType:
    """Return csrc/core as a Python module, if `make ctest` has built it."""
    built = sorted((root / "build" / "ctest").glob("ssf_core_binding*.so"))
    if not built:
        pytest.skip("there is no Python module of csrc/core; make ctest builds it with a C++ compiler")
    spec = importlib.util.spec_from_file_location("ssf_core_binding", built[0])
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_words(*shape: int) -> torch.Tensor:
    return torch.randint(0, 2**32, shape, generator=torch.Generator().manual_seed(0))


def ulps(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the largest difference of two float32 tensors in ulp of ``b``."""
    unit = torch.nextafter(b.abs(), torch.tensor(torch.inf)) - b.abs()
    return float(((a.double() - b.double()).abs() / unit.double()).max())


@pytest.mark.parametrize("case", KNOWN_ANSWERS)
def test_philox_known_answers(case: str) -> None:
    """Philox4x32-10 gives Random123's published vectors."""
    counter, key, words = KNOWN_ANSWERS[case]
    assert torch.stack(philox(torch.tensor(counter).unbind(), key)).tolist() == list(words)


def test_philox_is_elementwise_and_stays_in_range() -> None:
    """A batch of counters gives the same words as each counter alone, and words have 32 bits."""
    counters = random_words(5, 7, 4)
    words = torch.stack(philox(counters.unbind(-1), (1, 2)), dim=-1)
    assert words.shape == counters.shape
    assert int(words.min()) >= 0
    assert int(words.max()) <= WORD
    assert torch.equal(words[3, 4], torch.stack(philox(counters[3, 4].unbind(), (1, 2))))


def test_philox_equals_the_core(core: ModuleType) -> None:
    """PyTorch and csrc/core give the same words, bit for bit."""
    counters = torch.cat([random_words(500, 4), torch.tensor(CORNERS)[:, None].expand(-1, 4)])
    key = 0xFEDCBA9876543210
    expected = [core.philox(counter, key) for counter in counters.tolist()]
    assert torch.stack(philox(counters.unbind(-1), split64(key)), dim=-1).tolist() == list(map(list, expected))


def test_box_muller_equals_the_core(core: ModuleType) -> None:
    """PyTorch and csrc/core give the same normals to 2 ulp, for corner words and random words."""
    pairs = torch.cat([torch.cartesian_prod(torch.tensor(CORNERS), torch.tensor(CORNERS)), random_words(5000, 2)])
    ours = torch.stack(box_muller(pairs[:, 0], pairs[:, 1]), dim=-1)
    theirs = torch.tensor([core.box_muller(*pair) for pair in pairs.tolist()])
    assert ulps(ours, theirs) <= 2


def test_box_muller_by_hand() -> None:
    """Words 2^31 mean u just above one half: radius sqrt(2 ln 2), angle just past -pi."""
    cosine, sine = box_muller(torch.tensor([2**31]), torch.tensor([2**31]))
    radius = (-2 * torch.tensor(0.5 + 2.0**-25, dtype=torch.float64).log()).sqrt()
    assert float(cosine) == pytest.approx(float(-radius), rel=1e-7)
    assert float(sine) == pytest.approx(float(-radius * torch.pi * 2.0**-24), rel=1e-6)


def test_box_muller_is_finite_at_the_corners() -> None:
    """u is never 0 or 1, so no word gives an infinite or zero radius."""
    words = torch.tensor(CORNERS)
    cosine, sine = box_muller(words[:, None], words)
    radius = torch.hypot(cosine, sine)
    assert float(radius.min()) > 0
    assert float(radius.max()) < 6


@pytest.mark.parametrize(("value", "words"), [(0, (0, 0)), (2**64 - 2, (WORD - 1, WORD)), (-2, (WORD - 1, WORD))])
def test_split64(value: int, words: tuple[int, int]) -> None:
    """The low word comes first, and a negative integer is its two's complement."""
    assert split64(value) == words
