# SPDX-License-Identifier: Apache-2.0
"""The loop driven by its counter: the same numbers as row by row, and patterns that are found again."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scoresde_fast.loop.capture import CapturedLoop
from scoresde_fast.loop.evaluate import PlainNetwork
from scoresde_fast.loop.loop import Loop, NonFiniteError, Registers, StepBackends
from scoresde_fast.loop.phases import Phase, RowKind, split
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.watch import AHEAD, Watch
from scoresde_fast.noise import Noise
from scoresde_fast.ops import affine_step, langevin
from scoresde_fast.sdes import VESDE, VPSDE
from scoresde_fast.solvers import Row, SolverOptions, StepTable, build_table
from tests.support.recorded_graphs import RecordedGraphs

SHAPE = (1, 3, 5)


class Bowl(torch.nn.Module):
    """A network of one weight, whose output depends on time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return -self.weight * x.tanh() / (1 + labels.view(-1, 1, 1, 1) ** 2)


def make_loop(table: StepTable, backend: str | None = None) -> Loop:
    times = table.times
    program = Program.of(table, times, 1 + times, "cpu")
    return Loop(program, PlainNetwork(Bowl(), program.labels), StepBackends.choose("cpu", backend), run_seed=5)


def start(batch: int = 3) -> tuple[Tensor, Noise]:
    noise = Noise(5, torch.arange(batch))
    return noise.normal(0, SHAPE), noise


def row_by_row(loop: Loop, x: Tensor, noise: Noise) -> Tensor:
    """The run as the equations say it: every row's number is the host's."""
    program, x = loop.program, x.clone()
    saved, history = x.clone(), x.new_zeros(max(program.history, 1), *x.shape)
    for index, row in enumerate(program.table.rows):
        output = None
        if row.derive is not None:
            output = loop.evaluate.network(x, program.labels[index].expand(len(x)))
        if row.langevin is not None:
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


def multistep(steps: int) -> StepTable:
    """A made-up solver of everything: a start, a long memory, saved states, rows without network or noise."""
    rows = [Row(0.95, state=0.9, outputs=(0.2,), save=True), Row(0.9, state=0.9, outputs=(0.2, -0.1), noise=0.1)]
    for index in range(steps):
        t = 0.8 * (1 - index / steps)
        rows += [
            Row(t, derive=(0.3, -0.5), state=0.8, outputs=(0.3, -0.1, 0.05, 0.02), noise=0.1, save=index % 2 == 0),
            Row(t, state=0.5, saved=0.4, outputs=(0.1, 0.1), save=True),
            Row(t, derive=None, state=0.9, outputs=(0.1, 0.05), noise=0.2, save=True),
        ]
    return StepTable.of([*rows, Row(0.01, state=0.9, outputs=(0.1,))])


TABLES = {
    "pc": build_table(VESDE(), SolverOptions("pc", 12)),
    "em": build_table(VPSDE(), SolverOptions("em", 9)),
    "two-correctors": build_table(VPSDE(), SolverOptions("em", 30, "langevin", corrector_steps=2)),
    "ald-flow": build_table(VESDE(), SolverOptions("reverse_diffusion", 10, "ald", probability_flow=True)),
    "multistep": multistep(7),
}


@pytest.mark.parametrize("backend", ["reference", "auto"])
@pytest.mark.parametrize("name", TABLES)
def test_the_counter_drives_the_run(name: str, backend: str) -> None:
    """A run by the counter has the bits of one by the host's own row numbers, and leaves its start alone."""
    loop = make_loop(TABLES[name], backend)
    x, noise = start()
    kept = x.clone()
    assert torch.equal(loop.run(x, noise), row_by_row(loop, x, noise))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("name", TABLES)
def test_replayed_patterns_are_the_run(name: str) -> None:
    """One recording of each pattern, replayed with every number on the host frozen, gives the bits of the plain run."""
    loop, graphs = make_loop(TABLES[name]), RecordedGraphs()
    captured = CapturedLoop(loop, (3, *SHAPE), graphs)
    assert graphs.captured <= 5
    for first in (0, 40):  # a second run finds no trace of the first
        noise = Noise(5, torch.arange(first, first + 3))
        x = noise.normal(0, SHAPE)
        assert torch.equal(captured.run(x, noise), loop.run(x, noise))
    assert graphs.replayed >= 2 * len(split(loop.program.kinds))


def test_a_captured_run_reports_progress_and_nan() -> None:
    """Progress comes once a pattern; a state that is no number is found with its row and time."""
    loop = make_loop(TABLES["pc"])
    captured = CapturedLoop(loop, (3, *SHAPE), RecordedGraphs())
    calls: list[tuple[int, int]] = []
    x, noise = start()
    captured.run(x, noise, lambda *call: calls.append(call))
    assert calls == [(2 * n, 24) for n in range(1, 13)]
    with torch.no_grad():
        loop.evaluate.network.weight.fill_(torch.inf)
    with pytest.raises(NonFiniteError, match="after step 1 of 24, at t = 1"):
        captured.run(x, noise)


def test_the_whole_step_is_one_graph_to_the_compiler() -> None:
    """A pattern, corrector and predictor included, compiles in one piece and does the same."""
    loop = make_loop(TABLES["pc"])
    pattern = split(loop.program.kinds)[0].pattern
    x, noise = start()
    plain, compiled = (Registers.empty(loop.program, (3, *SHAPE)).load(x, noise.sample_ids) for _ in range(2))
    step = torch.compile(loop.pattern, backend="aot_eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        for _ in range(2):
            loop.pattern(pattern, plain)
            step(pattern, compiled)
    assert int(compiled.counter) == 4
    torch.testing.assert_close(compiled.state, plain.state)


def test_a_gpu_is_followed_from_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host runs ahead by a bounded number of pieces, hears of progress as it is made, and of NaN with its row."""
    passed: list[int] = []

    class Event:
        made = 0

        def record(self) -> None:
            Event.made += 1
            self.number = Event.made

        def synchronize(self) -> None:
            passed.append(self.number)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    table, done = TABLES["em"], []
    sums = torch.zeros(1, len(table.rows))
    watch = Watch(sums, table, lambda evaluations, total: done.append(evaluations))
    watch._behind, watch._seen = True, torch.empty_like(sums)
    for row in range(len(table.rows)):
        sums[0, row] = torch.nan if row >= 6 else 1.0
        watch.after(1, 1)
        assert len(passed) == max(0, row + 1 - AHEAD) == len(done)
    with pytest.raises(NonFiniteError, match="after step 7 of 9"):
        watch.finish()
    assert done == list(range(1, 9))


A, B, C, D = (RowKind(True, False, False, False, earlier) for earlier in range(4))


@pytest.mark.parametrize(
    ("kinds", "phases"),
    [
        ([], []),
        ([A], [((A,), 1)]),
        ([A, A, A], [((A,), 3)]),
        ([A, B] * 4, [((A, B), 4)]),
        ([A, B] * 4 + [A, C], [((A, B), 4), ((A, C), 1)]),
        ([A, B, C, *[D] * 5], [((A, B, C), 1), ((D,), 5)]),
        ([A, A, B] * 3, [((A, A, B), 3)]),
        ([A, A, B] * 3 + [C], [((A, A, B), 3), ((C,), 1)]),
        ([A, B, C, D, *[A] * 3], [((A, B, C, D), 1), ((A,), 3)]),
    ],
    ids=lambda value: "-".join("ABCD"[k.earlier] for k in value if isinstance(k, RowKind)) or None,
)
def test_phases(kinds: list[RowKind], phases: list[tuple[tuple[RowKind, ...], int]]) -> None:
    """Repetitions are found, the shortest pattern that reaches furthest first; the rest runs once."""
    assert split(kinds) == [Phase(*phase) for phase in phases]


def test_phases_cover_every_row() -> None:
    """Unrolled, the phases are the rows, for every table; predictor-corrector is one pattern and its end."""
    for table in TABLES.values():
        kinds = make_loop(table).program.kinds
        assert tuple(kind for phase in split(kinds) for kind in phase.pattern * phase.repeats) == kinds
    assert [(len(p.pattern), p.repeats) for p in split(make_loop(TABLES["pc"]).program.kinds)] == [(2, 11), (2, 1)]
