# SPDX-License-Identifier: Apache-2.0
"""The operation ``normal`` and `Noise`: the layout of the contract, every backend, and rejected arguments."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import stats

from benchmarks.visit.normality import TAILS, NormalCheck
from scoresde_fast.noise import Noise
from scoresde_fast.ops.normal import normal, operation
from scoresde_fast.ops.registration import INTERPRETED
from scoresde_fast.rng import WORD, box_muller, philox
from tests.support.chance import SIGMAS, kolmogorov_smirnov_bound
from tests.support.steps import backends, opcheck

IDS = torch.tensor([0, 1, 7, 2**32 - 1, 2**32, 2**63 - 1])
SEED = 0xFEDCBA9876543210
PRESENT = backends(operation)


@pytest.fixture(params=["reference", *PRESENT])
def backend(request: pytest.FixtureRequest) -> str:
    """Each backend that is present here."""
    return str(request.param)


def element(sample_id: int, draw: int, index: int) -> torch.Tensor:
    """Compute one normal by the contract."""
    counter = torch.tensor([index // 4, draw, sample_id & WORD, sample_id >> 32])
    words = philox(counter.unbind(), (SEED & WORD, SEED >> 32))
    pair = index % 4 // 2 * 2
    return box_muller(words[pair], words[pair + 1])[index % 2]


def test_layout(backend: str) -> None:
    """Element, draw, sample id and run seed enter the counter and the key by the contract."""
    field = Noise(SEED, IDS, backend, precise=True).normal(3, (2, 5))
    expected = [[element(sample, 3, index) for index in range(10)] for sample in IDS.tolist()]
    torch.testing.assert_close(field.flatten(1), torch.tensor(expected), rtol=2.4e-7, atol=0)


@pytest.mark.parametrize("elements", [1, 3, 63, 127, 128, 500, 768, 5001, 40_001])
@pytest.mark.parametrize("backend", PRESENT)
def test_agrees_with_the_reference(backend: str, elements: int) -> None:
    """Every backend's precise form is within 2 ulp of the reference for any length, also over several pieces."""
    if backend == "triton" and INTERPRETED and elements > 10_000:
        pytest.skip("the interpreter takes half a minute, and only the C++ kernel has pieces of this size")
    ours = normal(IDS, SEED, 2**32 - 1, (elements,), precise=True, implementation=operation.choose("cpu", backend))
    reference = Noise(SEED, IDS, "reference").normal(2**32 - 1, (elements,))
    unit = torch.nextafter(reference.abs(), torch.tensor(math.inf)) - reference.abs()
    assert float(((ours - reference).abs() / unit).max()) <= 2


def test_independent_of_batch(backend: str) -> None:
    """A sample's noise has the same bits in any batch."""
    shape = (3, 7, 5)
    batch = Noise(SEED, IDS, backend).normal(5, shape)
    order = torch.tensor([4, 0, 5, 2])
    assert torch.equal(batch[order], Noise(SEED, IDS[order], backend).normal(5, shape))
    assert torch.equal(batch[::2], Noise(SEED, IDS[::2], backend).normal(5, shape))
    assert torch.equal(batch[1:2], Noise(SEED, IDS[1:2], backend).normal(5, shape))


def test_independent_of_shape(backend: str) -> None:
    """The noise depends on the element index, not on the shape."""
    noise = Noise(SEED, IDS, backend)
    assert torch.equal(noise.normal(0, (63,)), noise.normal(0, (8, 8)).flatten(1)[:, :63])


def test_different_seeds(backend: str) -> None:
    """A different seed, sample, draw, or high word of seed or sample, gives different noise."""
    fields = [
        Noise(seed, torch.tensor([sample]), backend).normal(draw, (16,))
        for seed, sample, draw in [(1, 2, 3), (0, 2, 3), (1, 3, 3), (1, 2, 4), (1 + 2**32, 2, 3), (1, 2 + 2**32, 3)]
    ]
    assert len({tuple(field.flatten().tolist()) for field in fields}) == len(fields)


@pytest.mark.statistical
def test_distribution(backend: str, run_seed: int) -> None:
    """200 000 normals pass a Kolmogorov-Smirnov test, and the four of a call are uncorrelated."""
    field = Noise(run_seed, torch.arange(100), backend).normal(1, (2000,))
    distance = stats.kstest(field.flatten().double().numpy(), "norm").statistic
    assert distance <= kolmogorov_smirnov_bound([field.numel()])
    correlation = torch.corrcoef(field.view(-1, 4).T) - torch.eye(4)
    assert float(correlation.abs().max()) < SIGMAS / math.sqrt(50_000)


@pytest.mark.statistical
def test_distribution_of_a_hundred_million(run_seed: int) -> None:
    """10^8 normals have the right moments up to the 6th, distribution function, and Poisson-distributed tail counts."""
    check = NormalCheck()
    for draw in range(20):
        check.add(normal(torch.arange(5), run_seed, draw, (1_000_000,)))
    assert check.count == 100_000_000
    moments = {name: value for name, value in check.deviations().items() if name.startswith("moment")}
    assert len(moments) == 6 and all(abs(value) < SIGMAS for value in moments.values()), moments
    assert check.kolmogorov_smirnov() <= math.sqrt(check.count) * kolmogorov_smirnov_bound([check.count])
    unlikely = stats.norm.sf(SIGMAS)
    for tail, seen in zip(TAILS, check.tails, strict=True):
        count = stats.poisson(check.count * math.erfc(tail / math.sqrt(2)))
        assert count.cdf(seen) > unlikely and count.sf(seen - 1) > unlikely, f"{seen} above {tail}, not {count.mean()}"


@pytest.mark.parametrize("shape", [(0,), (2, 0)], ids=str)
def test_empty(backend: str, shape: tuple[int, ...]) -> None:
    """Zero samples and zero elements are valid."""
    assert Noise(0, IDS, backend).normal(0, shape).shape == (len(IDS), *shape)
    assert Noise(0, IDS[:0], backend).normal(0, (3,)).shape == (0, 3)


def test_opcheck(backend: str) -> None:
    """Schema, fake and dispatch of the registered operators are consistent."""
    opcheck(operation.choose("cpu", backend), (IDS, 1, 2, 63, False))


@pytest.mark.parametrize("run_seed", [-1, 2**64, 1.5, True], ids=str)
def test_bad_run_seed(run_seed: Any) -> None:
    """A run seed that does not fit the key is rejected."""
    with pytest.raises(ValueError, match=r"run seed .* is out of range: choose an integer from 0 to 2\^64 - 1"):
        Noise(run_seed, IDS)


@pytest.mark.parametrize(
    ("ids", "sentence"),
    [
        (torch.tensor([3, -4]), "sample id -4 is negative"),
        (torch.tensor([0.0]), "one-dimensional int64"),
        (torch.tensor([[1]]), "one-dimensional int64"),
    ],
    ids=["negative", "float", "two-dimensional"],
)
def test_bad_sample_ids(ids: torch.Tensor, sentence: str) -> None:
    """Invalid sample ids are rejected when the `Noise` is created."""
    with pytest.raises(ValueError, match=sentence):
        Noise(0, ids)


@pytest.mark.parametrize("draw", [-1, 2**32])
def test_bad_draw(draw: int) -> None:
    """A draw that does not fit its counter word is rejected, not wrapped."""
    with pytest.raises(ValueError, match=f"draw {draw} is out of range"):
        normal(IDS, 0, draw, (4,))


def test_unknown_backend() -> None:
    """The message for a misspelled backend suggests the closest name."""
    with pytest.raises(ValueError, match="did you mean 'reference'"):
        Noise(0, IDS, "refrence")


def test_backend_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """SCORESDE_FAST_BACKEND is the default backend."""
    monkeypatch.setenv("SCORESDE_FAST_BACKEND", "reference")
    assert operation.choose() is operation.reference
    monkeypatch.setenv("SCORESDE_FAST_BACKEND", "gpu")
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        operation.choose()


def test_unavailable_backend() -> None:
    """The CPU kernel is rejected for tensors on another device; "auto" uses the reference there."""
    with pytest.raises(RuntimeError, match="backend 'cpu' of normal cannot be used"):
        operation.choose("meta", "cpu")
    assert operation.choose("meta") is operation.reference
