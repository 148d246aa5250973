# SPDX-License-Identifier: Apache-2.0
"""The operation ``project``: every backend against float64, unchanged elements, and rejected arguments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from scoresde_fast.ops.project import operation, project
from scoresde_fast.ops.step_table import LEVEL_WIDTH, WIDTH, DeviceTable
from scoresde_fast.rng import standard_normals
from tests.support.steps import RUN_SEED, SAMPLE_IDS, assert_close_to_exact, backends, opcheck, random_table

BACKENDS = backends(operation)
ALL = ["reference", *BACKENDS]
#: (C, H, W) of the images and (kc, kh, kw) of the blocks.
FORMS = {
    "pixels": ((3, 8, 8), (1, 1, 1)),
    "odd pixels": ((3, 7, 5), (1, 1, 1)),
    "one pixel": ((1, 1, 1), (1, 1, 1)),
    "gray": ((3, 7, 5), (3, 1, 1)),
    "2x2": ((3, 6, 10), (1, 2, 2)),
    "4x4": ((1, 8, 12), (1, 4, 4)),
    "gray 2x4": ((3, 6, 8), (3, 2, 4)),
    "500": ((1, 1, 500), (1, 1, 1)),
}


@dataclass(frozen=True)
class Case:
    """A random state and known means."""

    state: Tensor
    known: Tensor
    mask: Tensor
    pairs: bool

    @classmethod
    def random(cls, image: tuple[int, ...], block: tuple[int, ...], *, pairs: bool = False) -> Case:
        generator = torch.Generator().manual_seed(3)
        batch = len(SAMPLE_IDS)
        means = [whole // part for whole, part in zip(image, block, strict=True)]
        return cls(
            torch.randn(batch, image[0] * (1 + pairs), *image[1:], generator=generator),
            torch.rand(batch, *means, generator=generator),
            torch.rand(batch, *means, generator=generator) < 0.6,
            pairs,
        )

    def take(self, backend: str, row: int, dtype: torch.dtype = torch.float32, **options: Any) -> Tensor:
        """Return the state after one projection."""
        state = self.state.to(dtype, copy=True)
        project(
            state, self.known.to(dtype), self.mask, SAMPLE_IDS, random_table(LEVEL_WIDTH), row, pairs=self.pairs,
            run_seed=RUN_SEED, precise=True, implementation=operation.choose("cpu", backend), **options,
        )  # fmt: skip
        return state


@pytest.mark.parametrize("pairs", [False, True], ids=["plain", "pairs"])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_against_float64(backend: str, form: tuple[tuple[int, ...], tuple[int, ...]], pairs: bool) -> None:
    """Blocks of every kind are accurate, on odd sizes and at draws from both ends of their range."""
    case = Case.random(*form, pairs=pairs)
    for row in (3 * pairs,) if backend == "triton" else (0, 3):  # the interpreter is slow
        exact = case.take("reference", row, torch.float64)
        assert_close_to_exact(case.take(backend, row), case.take("reference", row), exact)


@pytest.mark.parametrize("pairs", [False, True], ids=["plain", "pairs"])
@pytest.mark.parametrize("backend", ALL)
def test_definition(backend: str, pairs: bool) -> None:
    """Known blocks have the mean scale m + noise z and keep their differences; unknown blocks keep their bits.

    The noise follows the contract: elements are numbered like the means, the velocity's after the position's.
    """
    case = Case.random((3, 6, 10), (3, 2, 2), pairs=pairs)
    table, halves = random_table(LEVEL_WIDTH), 1 + pairs
    row, draw = table.coefficients[1].double(), 5
    field = standard_normals(SAMPLE_IDS, RUN_SEED, draw, halves * 15).double().view(3, halves, 3, 5)
    known = case.known.double()[:, 0]
    wanted = [row[0] * known + row[1] * field[:, 0]]
    if pairs:
        wanted.append(row[2] * known + row[3] * field[:, 0] + row[4] * field[:, 1])
    after = case.take(backend, 1)
    means, moved = (x.view(3, halves, 3, 3, 2, 5, 2).double() for x in (after, after - case.state))
    where = case.mask[:, 0]
    for half, mean in enumerate(wanted):
        torch.testing.assert_close(means[:, half].mean((1, 3, 5))[where], mean[where], rtol=0, atol=2e-6)
        change = moved[:, half].permute(0, 2, 4, 1, 3, 5).flatten(3)
        torch.testing.assert_close(change[where], change[where][:, :1].expand(-1, 12), rtol=0, atol=2e-6)
        assert not change[~where].any()


@pytest.mark.parametrize("backend", ALL)
def test_known_pixels(backend: str) -> None:
    """Without noise and at scale 1, known pixels are copied exactly."""
    case = Case.random((3, 7, 5), (1, 1, 1))
    table = DeviceTable(torch.tensor([[1.0, 0, 0, 0, 0]]), torch.zeros(1, 3, dtype=torch.int32))
    state = case.state.clone()
    project(state, case.known, case.mask, SAMPLE_IDS, table, implementation=operation.choose("cpu", backend))
    assert torch.equal(state, torch.where(case.mask, case.known, case.state))


@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend.id != "triton"])
def test_several_pieces(backend: str) -> None:
    """Images larger than a thread's unit of work are correct; Triton's interpreter is too slow for them."""
    case = Case.random((3, 125, 131), (1, 1, 1), pairs=True)
    exact = case.take("reference", 2, torch.float64)
    assert_close_to_exact(case.take(backend, 2), case.take("reference", 2), exact)


@pytest.mark.parametrize("counter", [torch.int32, torch.int64], ids=["int32", "int64"])
@pytest.mark.parametrize("backend", ALL)
def test_counter(backend: str, counter: torch.dtype) -> None:
    """A row index from a counter in memory equals one from the host; past the table it is clamped to the last row."""
    case = Case.random((3, 7, 5), (1, 1, 1))
    by_number = case.take(backend, 3)
    assert torch.equal(case.take(backend, 1, counter=torch.tensor([2], dtype=counter)), by_number)
    table, state = random_table(LEVEL_WIDTH), case.state.clone()
    operation.choose("cpu", backend)(
        state, case.known, case.mask, SAMPLE_IDS, table.coefficients, table.control, torch.tensor([9], dtype=counter),
        0, False, RUN_SEED - 2**64, True,
    )  # fmt: skip
    assert torch.equal(state, by_number)


@pytest.mark.parametrize("backend", ALL)
def test_independent_of_batch(backend: str) -> None:
    """Projecting samples one by one gives the same bits as projecting them together."""
    case = Case.random((3, 6, 10), (1, 2, 2), pairs=True)
    table, chosen = random_table(LEVEL_WIDTH), operation.choose("cpu", backend)

    def take(part: slice) -> Tensor:
        state = case.state[part].clone()
        project(state, case.known[part], case.mask[part], SAMPLE_IDS[part], table, 2, pairs=True, implementation=chosen)
        return state

    together = take(slice(None))
    assert all(torch.equal(together[i : i + 1], take(slice(i, i + 1))) for i in range(3))


@pytest.mark.parametrize("backend", ALL)
def test_surrounding_memory(backend: str) -> None:
    """Memory around the state is not modified; zero samples are valid."""
    for elements in (1, 63, 127, 500):
        memory = torch.full((3 * elements + 16,), 7.0)
        state = memory[8:-8].view(3, 1, 1, elements)
        known = torch.zeros_like(state)
        project(state, known, known == 0, SAMPLE_IDS, random_table(LEVEL_WIDTH),
                implementation=operation.choose("cpu", backend))  # fmt: skip
        assert (memory[:8] == 7).all() and (memory[-8:] == 7).all() and (state != 7).all()
    empty = torch.empty(0, 3, 2, 2)
    project(empty, empty, empty == 0, SAMPLE_IDS[:0], random_table(LEVEL_WIDTH),
            implementation=operation.choose("cpu", backend))  # fmt: skip


@pytest.mark.parametrize("backend", ALL)
def test_opcheck_and_compile(backend: str) -> None:
    """Schema, fake and aliasing are consistent; a compiled function with the operation in it gives the same result."""
    case, table = Case.random((3, 8, 8), (3, 1, 1)), random_table(LEVEL_WIDTH)
    implementation = operation.choose("cpu", backend)
    arguments = (case.state.clone(), case.known, case.mask, SAMPLE_IDS, table.coefficients, table.control, None, 2)
    opcheck(implementation, (*arguments, False, 5, False))
    if backend == "reference":  # the reference reads the draw on the host
        return
    torch._dynamo.reset()

    def step(state: Tensor) -> Tensor:
        project(state, case.known, case.mask, SAMPLE_IDS, table, 1, implementation=implementation)
        return state + 1

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(case.state.clone()), step(case.state.clone()))


def project_with(**change: Any) -> None:
    case = Case.random((3, 6, 10), (1, 1, 1))
    given: dict[str, Any] = {"state": case.state, "known": case.known, "mask": case.mask, "sample_ids": SAMPLE_IDS}
    project(**{**given, "table": random_table(LEVEL_WIDTH), **change})


@pytest.mark.parametrize(
    ("error", "sentence", "change"),
    [
        (TypeError, "state is bfloat16; it must be float32 or float64", {"state": torch.zeros(3, 3, 6, 10).bfloat16()}),
        (TypeError, "known is float64; it must be float32", {"known": torch.zeros(3, 3, 6, 10).double()}),
        (TypeError, "mask is float32; it must be bool", {"mask": torch.zeros(3, 3, 6, 10)}),
        (ValueError, r"mask has shape \(3, 1, 6, 10\)", {"mask": torch.zeros(3, 1, 6, 10) > 0}),
        (ValueError, r"known has shape \(3, 3, 4, 10\); it must hold the means over equal blocks",
         {"known": torch.zeros(3, 3, 4, 10), "mask": torch.zeros(3, 3, 4, 10) > 0}),
        (ValueError, r"known has shape \(3, 3, 6, 10\).* of pairs", {"pairs": True}),
        (ValueError, r"sample_ids has shape \(2,\); it must be \(3,\), one per sample", {"sample_ids": SAMPLE_IDS[:2]}),
        (ValueError, r"coefficients have shape \(4, 10\); .* must be \(rows, 5\)", {"table": random_table(WIDTH)}),
        (ValueError, "row 4 is outside the step table", {"row": 4}),
        (ValueError, "run seed -1 is out of range", {"run_seed": -1}),
    ],
)  # fmt: skip
def test_bad_input(error: type[Exception], sentence: str, change: dict[str, Any]) -> None:
    """The message names the value and what is allowed."""
    with pytest.raises(error, match=sentence):
        project_with(**change)
