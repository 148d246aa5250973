# SPDX-License-Identifier: Apache-2.0
"""The operation ``rademacher``: the signs of the noise contract on every backend, and their distribution."""

from __future__ import annotations

import pytest
import torch

from scoresde_fast.ops.normal import rademacher
from scoresde_fast.ops.normal import rademacher_operation as operation
from scoresde_fast.rng import WORD, philox
from tests.support.chance import SIGMAS, standard_error_of_mean
from tests.support.steps import RUN_SEED, SAMPLE_IDS, backends, opcheck


@pytest.mark.parametrize("elements", [0, 1, 3, 63, 256, 500, 5001])
@pytest.mark.parametrize("backend", backends(operation))
def test_bits(backend: str, elements: int) -> None:
    """Every backend's signs are the reference's."""
    fields = [
        rademacher(SAMPLE_IDS, RUN_SEED, 2**32 - 1, (elements,), implementation=operation.choose("cpu", name))
        for name in (backend, "reference")
    ]
    assert torch.equal(*fields) and fields[0].dtype == torch.float32


def test_layout() -> None:
    """The sign of an element is the top bit of its Philox word."""
    field = rademacher(SAMPLE_IDS, RUN_SEED, 5, (2, 5)).flatten(1)
    for sample, sample_id in enumerate(SAMPLE_IDS.tolist()):
        for index in range(10):
            counter = torch.tensor([index // 4, 5, sample_id & WORD, sample_id >> 32])
            word = int(philox(counter.unbind(), (RUN_SEED & WORD, RUN_SEED >> 32))[index % 4])
            assert field[sample, index] == (-1 if word >> 31 else 1)


@pytest.mark.statistical
def test_distribution(run_seed: int) -> None:
    """The signs of a million elements have mean 0 and are uncorrelated, within standard errors of +-1 variables."""
    field = rademacher(torch.arange(4), run_seed, 0, (250_000,)).view(-1, 4)
    assert (field.abs() == 1).all()
    assert field.mean().abs() < SIGMAS * standard_error_of_mean(1.0, field.numel())
    correlation = field.T @ field / len(field) - torch.eye(4)
    assert correlation.abs().max() < SIGMAS * standard_error_of_mean(1.0, len(field))


@pytest.mark.parametrize("backend", backends(operation))
def test_opcheck(backend: str) -> None:
    """Schema, fake and dispatch of the operators are consistent."""
    opcheck(operation.choose("cpu", backend), (SAMPLE_IDS, 1, 2, 63))


def test_bad_input() -> None:
    """Arguments outside the contract are rejected, as for ``normal``."""
    with pytest.raises(ValueError, match="draw 4294967296 is out of range"):
        rademacher(SAMPLE_IDS, 0, 2**32, (4,))
    with pytest.raises(TypeError, match="sample_ids is float32; it must be int64"):
        rademacher(SAMPLE_IDS.float(), 0, 0, (4,))
