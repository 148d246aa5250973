# SPDX-License-Identifier: Apache-2.0
"""The loop gives the same results with a counter, row by row, and by repeated patterns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scoresde_fast.loop.capture import CapturedLoop
from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop
from scoresde_fast.loop.program import split
from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step, langevin
from tests.support.loops import SHAPE, TABLES, make_loop, start
from tests.support.recorded_graphs import RecordedGraphs


def row_by_row(loop: Loop, x: Tensor, noise: Noise) -> Tensor:
    """Run the table with row indices on the host."""
    program, x = loop.program, x.clone()
    assert isinstance(loop.evaluate, PlainNetwork)
    saved, history = x.clone(), x.new_zeros(max(program.history, 1), *x.shape)
    for index, row in enumerate(program.table.rows):
        output = None
        if row.derive is not None:
            output = loop.evaluate.network(x, program.labels[index].expand(len(x)))
        if row.langevin is not None:
            assert output is not None
            langevin.langevin(
                x, output, noise.sample_ids, program.device_table, index, run_seed=5,
                implementation=loop.backends.langevin,
            )  # fmt: skip
        else:
            affine_step.affine_step(
                x, program.device_table, index, saved=saved, history=history, network_output=output, run_seed=5,
                sample_ids=noise.sample_ids if row.noise else None, earlier=program.kinds[index].earlier,
                implementation=loop.backends.affine_step,
            )  # fmt: skip
    return x


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("name", TABLES)
def test_run_equals_row_by_row(name: str, backend: str) -> None:
    """A run with the counter is bit-identical to a run with row indices on the host, and keeps its input unchanged."""
    loop = make_loop(TABLES[name], backend)
    x, noise = start()
    original = x.clone()
    assert torch.equal(loop.run(x, noise), row_by_row(loop, x, noise))
    assert torch.equal(x, original)


@pytest.mark.parametrize("name", TABLES)
def test_replayed_patterns_equal_the_run(name: str) -> None:
    """Replaying one recording of each pattern, with all host values frozen, is bit-identical to the plain run."""
    loop, graphs = make_loop(TABLES[name]), RecordedGraphs()
    captured = CapturedLoop(loop, (3, *SHAPE), graphs)
    assert graphs.captured <= 5
    for first in (0, 40):  # the second run does not depend on the first
        noise = Noise(5, torch.arange(first, first + 3))
        x = noise.normal(0, SHAPE)
        assert torch.equal(captured.run(x, noise), loop.run(x, noise))
    assert graphs.replayed >= 2 * len(split(loop.program.kinds))


def test_pattern_compiles_to_one_graph() -> None:
    """A pattern of predictor and corrector compiles without graph breaks and gives the same result."""
    loop = make_loop(TABLES["pc"])
    pattern = split(loop.program.kinds)[0].pattern
    x, noise = start()
    plain, compiled = (loop.start(loop.registers((3, *SHAPE)), x, noise) for _ in range(2))
    step = torch.compile(loop.pattern, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        for _ in range(2):
            loop.pattern(pattern, plain)
            step(pattern, compiled)
    assert int(compiled.counter) == 4
    torch.testing.assert_close(compiled.state, plain.state)


def test_phases_cover_all_rows() -> None:
    """For every table the unrolled phases equal the rows; predictor-corrector has one pattern and a last step."""
    for table in TABLES.values():
        kinds = make_loop(table).program.kinds
        assert tuple(kind for phase in split(kinds) for kind in phase.pattern * phase.repeats) == kinds
    assert [(len(p.pattern), p.repeats) for p in split(make_loop(TABLES["pc"]).program.kinds)] == [(2, 11), (2, 1)]
