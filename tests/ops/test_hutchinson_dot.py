# SPDX-License-Identifier: Apache-2.0
"""The operation ``hutchinson_dot``: every backend against float64, the trace estimate, and rejected arguments."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from scoresde_fast.ops.hutchinson_dot import hutchinson_dot, operation
from scoresde_fast.ops.normal import rademacher
from tests.support.steps import DTYPE_IDS, DTYPES, RUN_SEED, SAMPLE_IDS, SHAPE_IDS, SHAPES, Registers, backends, opcheck

COEFFICIENTS = torch.tensor([[0.0, 1.0], [-7.25, 0.5], [3.0, -2.0]])
BACKENDS = backends(operation)


@pytest.mark.parametrize("probe", ["rademacher", "normal"])
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("shape", SHAPES, ids=SHAPE_IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_against_float64(backend: str, shape: tuple[int, ...], dtype: torch.dtype, probe: Any) -> None:
    """The accumulated divergence is accurate to 1e-6 of the sum of the products' magnitudes."""
    tangent = Registers.random(shape, shape, dtype).output
    start = torch.tensor([1.0, -2.0, 1e6], dtype=torch.float64)
    results = []
    for name, values in (("reference", tangent.double()), (backend, tangent)):
        divergence = start.clone()
        hutchinson_dot(
            divergence, values, SAMPLE_IDS, COEFFICIENTS, 1, draw=2**32 - 1, probe=probe, run_seed=RUN_SEED,
            precise=True, implementation=operation.choose("cpu", name),
        )  # fmt: skip
        results.append(divergence)
    scale = tangent.double().abs().flatten(1).sum(1).max().item() * 5
    assert (results[0] - results[1]).abs().max().item() <= 1e-6 * scale
    assert not torch.equal(results[1], start)


@pytest.mark.parametrize("backend", BACKENDS)
def test_trace(backend: str) -> None:
    """For a diagonal Jacobian, random signs give the trace exactly."""
    diagonal = torch.linspace(-1, 2, 60).view(3, 4, 5)
    probe = rademacher(SAMPLE_IDS, RUN_SEED, 3, (3, 4, 5))
    divergence = torch.zeros(3, dtype=torch.float64)
    hutchinson_dot(
        divergence, diagonal * probe, SAMPLE_IDS, COEFFICIENTS, 0, draw=3, run_seed=RUN_SEED,
        implementation=operation.choose("cpu", backend),
    )  # fmt: skip
    torch.testing.assert_close(divergence, torch.full((3,), 30.0, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_counter_and_batch(backend: str) -> None:
    """The bits are the same if the row is an offset plus a counter, and if a sample is computed alone."""
    tangent = torch.randn(3, 5000, generator=torch.Generator().manual_seed(2))
    implementation = operation.choose("cpu", backend)

    def dot(rows: slice, row: int, counter: int | None) -> torch.Tensor:
        divergence = torch.zeros(len(tangent[rows]), dtype=torch.float64)
        at = None if counter is None else torch.tensor([counter], dtype=torch.int32)
        hutchinson_dot(
            divergence, tangent[rows], SAMPLE_IDS[rows], COEFFICIENTS, row, counter=at, implementation=implementation
        )
        return divergence

    together = dot(slice(None), 2, None)
    assert torch.equal(together, dot(slice(None), 1, 1))
    assert torch.equal(together[1:2], dot(slice(1, 2), 2, None))


@pytest.mark.parametrize("shape", [(0, 5), (3, 0)], ids=["no samples", "no elements"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend: str, shape: tuple[int, ...]) -> None:
    """Zero samples and zero elements are valid; the constant is still added."""
    divergence = torch.zeros(shape[0], dtype=torch.float64)
    chosen = operation.choose("cpu", backend)
    hutchinson_dot(divergence, torch.empty(shape), SAMPLE_IDS[: shape[0]], COEFFICIENTS, 1, implementation=chosen)
    assert torch.equal(divergence, torch.full((shape[0],), -7.25, dtype=torch.float64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_opcheck_and_compile(backend: str) -> None:
    """Schema and fake are consistent, and a compiled function with the operation in it gives the same result."""
    tangent, chosen = torch.randn(3, 63), operation.choose("cpu", backend)
    divergence = torch.zeros(3, dtype=torch.float64)
    opcheck(chosen, (divergence, tangent, SAMPLE_IDS, COEFFICIENTS, None, 1, 2, True, 5, False))
    torch._dynamo.reset()

    def accumulate(total: torch.Tensor) -> torch.Tensor:
        hutchinson_dot(total, tangent, SAMPLE_IDS, COEFFICIENTS, 1, implementation=chosen)
        return total

    compiled = torch.compile(accumulate, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(divergence.clone()), accumulate(divergence.clone()))


D, X = torch.zeros(3, dtype=torch.float64), torch.zeros(3, 4)


@pytest.mark.parametrize(
    ("error", "sentence", "change"),
    [
        (TypeError, "divergence is float32; it must be float64", {"divergence": D.float()}),
        (ValueError, r"divergence has shape \(2,\); it must be \(3,\), one per sample", {"divergence": D[:2]}),
        (TypeError, "tangent is int64", {"tangent": X.long()}),
        (ValueError, "tangent has strides", {"tangent": torch.zeros(4, 3).T}),
        (ValueError, r"coefficients have shape \(3,\); .* must be \(rows, 2\)", {"coefficients": COEFFICIENTS[:, 0]}),
        (ValueError, "unknown probe 'radmacher' - did you mean 'rademacher'", {"probe": "radmacher"}),
        (ValueError, "row 3 is outside the step table, which has rows 0 to 2", {"row": 3}),
        (ValueError, "draw 4294967296 is out of range", {"draw": 2**32}),
    ],
)
def test_bad_input(error: type[Exception], sentence: str, change: dict[str, Any]) -> None:
    """The message names the value and what is allowed."""
    arguments = {"divergence": D, "tangent": X, "sample_ids": SAMPLE_IDS, "coefficients": COEFFICIENTS}
    with pytest.raises(error, match=sentence):
        hutchinson_dot(**{**arguments, **change})
