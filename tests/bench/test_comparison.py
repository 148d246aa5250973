# SPDX-License-Identifier: Apache-2.0
"""Tests of the comparison of solvers: fairness, failures, time limits, timing, and plugins."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from scoresde_fast.bench import candidates, comparison, measures
from scoresde_fast.bench.candidates import Prepared, Priority, SampleBatch
from scoresde_fast.bench.comparison import MIN_ROUNDS, compare
from scoresde_fast.bench.pages import best_table, render
from scoresde_fast.bench.results import Comparison, read_result
from scoresde_fast.cli import main
from scoresde_fast.loop.run_monitor import NonFiniteError
from scoresde_fast.solvers import SOLVERS
from scoresde_fast.solvers.registry import ALIASES
from tests.support.candidates import SMALL, Stub, run_stubs

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "comparison.md").read_text()
OWN_NETWORK, PEERS, PLUGIN = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Undo a test's registrations; use few steps for the converged flow and few rounds of timing."""
    monkeypatch.setattr(measures, "STEPS", 16)
    monkeypatch.setattr(comparison, "MAX_ROUNDS", MIN_ROUNDS)
    solvers, aliases = dict(SOLVERS), dict(ALIASES)
    yield
    SOLVERS.clear()
    SOLVERS.update(solvers)
    ALIASES.clear()
    ALIASES.update(aliases)


def test_a_registered_solver_is_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of the documentation is measured with the other solvers, and is in the JSON and the plots."""
    pytest.importorskip("matplotlib")
    (tmp_path / "my_solver.py").write_text(PLUGIN)
    out, html = tmp_path / "sub" / "x.json", tmp_path / "x.html"
    command = ["bench", "solvers", "mixture-vp", "--nfe", "5", "10", "--samples", "400", "--solvers", "ddim"]
    command += ["--grids", "quadratic", "--plugin", str(tmp_path / "my_solver.py"), "--out", str(out)]
    assert main([*command, "--timing-seconds", "20", "--html", str(html)]) == 0
    output = capsys.readouterr().out
    assert "Best within 10 evaluations:" in output and "s for 1000 samples:" in output
    result = json.loads(out.read_text(), parse_constant=pytest.fail)
    committed = json.loads((ROOT / "benchmarks" / "results" / "solvers-mixture-vp.json").read_text())
    assert set(result) == set(committed)
    names = {"mine", "mine, flow", "ddim", "ddim, eta 1"}
    lines = result.pop("lines")
    assert {line["name"] for line in lines} == names and len(lines) == 8
    assert all(set(line) == set(committed["lines"][0]) and line["nfe"] <= line["budget"] for line in lines)
    assert all((line["flow_error"] is None) != line["flow"] for line in lines)
    assert all(line["timed"] >= MIN_ROUNDS and line["seconds_per_1000"] > 0 for line in lines)
    text = html.read_text()
    threads = torch.get_num_threads()
    assert text.count("<svg") == text.count("</svg>") == 3
    assert f"timed on {threads} thread{'s' if threads > 1 else ''}\nof" in text
    assert all(f">{name}</text>" in text for name in names), "a curve is not in the legend"
    assert "http" not in text and not re.search(r"""(?:src|href)=["'](?!#|data:)""", text)

    before = out.read_text()
    assert main([*command, "--no-timing"]) == 0
    assert " NFE, " not in capsys.readouterr().out, "a second call must not measure again"
    assert json.loads(out.read_text())["lines"] == json.loads(before)["lines"]


def test_the_example_of_an_own_network_runs() -> None:
    """The Python block of the documentation compares both solvers at both budgets, guided for half the steps."""
    pytest.importorskip("sklearn")
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(OWN_NETWORK, "page", "exec"), names)
    lines = names["result"].lines
    expected = {("dpmpp_2m", 10, 10), ("dpmpp_2m", 20, 20), ("ddim", 10, 10), ("ddim", 20, 20)}
    assert {(line.solver, line.budget, line.nfe) for line in lines} == expected
    assert all(line.nfe == 2 * line.steps and not line.diverged for line in lines)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "plugin.py' not found"),
        ("x = 1", "it registers no solver: decorate a function with @scoresde_fast.solver"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        (PLUGIN.replace('"mine"', '"ddim"'), "it registers 'ddim', the name of an existing solver"),
        (PLUGIN.replace("sdes=(VESDE, VPSDE, SubVPSDE)", "sdes=()"), "solver 'mine' is not defined on the SDE 'vpsde'"),
    ],
    ids=["absent", "empty", "fails", "existing name", "other SDE"],
)
def test_plugin_mistakes(code: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A plugin that cannot be used gives a one-line error and leaves the registry unchanged."""
    path = tmp_path / "plugin.py"
    if code is not None:
        path.write_text(code)
    assert main(["bench", "solvers", "mixture-vp", "--plugin", str(path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert SOLVERS["ddim"].fill.__module__ == "scoresde_fast.solvers.singlestep"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits-vpp"], "unknown model 'digits-vpp' - did you mean 'digits-vp'?"),
        (["mixture-vp", "--nfe", "0"], "a budget is 0 network evaluations; it must be at least 1"),
        (["mixture-vp", "--nfe"], "no budget of network evaluations is given"),
        (["mixture-vp", "--samples", "3"], "samples is 3; it must be at least 4"),
        (["mixture-vp", "--seconds", "0"], "the time limit is 0.0 seconds"),
        (["mixture-vp", "--timing-seconds", "-1"], "the timing budget is -1.0 seconds; it must be finite"),
        (["mixture-vp", "--batch-size", "0"], "the batch size is 0"),
        (["mixture-vp", "--reference-steps", "0"], "the reference takes 0 steps"),
        (["mixture-vp", "--grids", "karas"], "unknown time grid 'karas' - did you mean 'karras'?"),
        (["mixture-vp", "--solvers", "dies"], "unknown solver 'dies' - did you mean 'deis'?"),
        (["mixture-vp", "--solvers", "rk54"], "unknown solver 'rk54' - did you mean 'rk45'?"),
        (["mixture-vp", "--solvers", "gddim"], "solver 'gddim' is not defined on the SDE 'vpsde'"),
        (["mixture-cld", "--solvers", "pc"], "solver 'pc' is not defined on the SDE 'cld'"),
        (["mixture-cld", "--solvers", "ggf"], "solver 'ggf' is not defined on the SDE 'cld'"),
        (["mixture-vp", "--device", "nowhere"], "device 'nowhere' is not usable here"),
        (["mixture-vp", "--threads", "0"], "--threads is 0"),
    ],
)
def test_mistakes(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument gives a one-line error before anything is measured."""
    assert main(["bench", "solvers", *arguments]) == 2
    printed = capsys.readouterr()
    assert message in printed.err and printed.err.count("\n") == 1 and printed.out == ""


def test_a_failing_candidate_does_not_stop_the_others() -> None:
    """A failing candidate is listed with its reason, one with non-finite samples as diverged; the rest is measured."""
    broken = Stub("broken", error=TypeError("no\nsuch"))
    diverged = Stub("diverged", error=NonFiniteError("NaN at t = 0.5"))
    result = run_stubs(broken, Stub("nan", shift=float("nan")), diverged, Stub("good"))
    assert [(skip.name, skip.reason) for skip in result.skipped] == [("broken", "TypeError: no such")]
    reasons = {line.name: line.diverged for line in result.lines}
    assert reasons == {"nan": "the samples are not finite", "diverged": "NaN at t = 0.5", "good": None}
    assert result.ranking.by_nfe[0].best == 2


def test_an_adaptive_candidate_has_a_tolerance_instead_of_a_budget() -> None:
    """The NFE of an adaptive candidate is that of its run, and all its tolerances form one curve."""
    result = run_stubs(
        Stub("adaptive", budget=None, tolerance=0.1, nfe=7.5), Stub("adaptive", tolerance=0.01, nfe=12.5)
    )
    assert [(line.tolerance, line.nfe) for line in result.lines] == [(0.01, 12.5), (0.1, 7.5)]
    assert best_table(result)[1].keys() == {"adaptive"}


def test_the_adaptive_solvers_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """RK45 and "gotta go fast" are measured at each tolerance, with the NFE of the run."""
    monkeypatch.setattr(candidates, "TOLERANCES", {"rk45": {0.1: 30, 0.01: 60}, "ggf": {0.2: 30}})
    options = replace(SMALL, solvers=("rk45", "ggf"), samples=64, timing_seconds=20)
    result = compare("mixture-vp", options)
    assert not result.skipped
    lines = {(line.name, line.tolerance): line for line in result.lines}
    assert set(lines) == {("rk45", 0.1), ("rk45", 0.01), ("ggf", 0.2)}
    loose, tight = lines["rk45", 0.1], lines["rk45", 0.01]
    assert loose.flow_error is not None and tight.flow_error is not None
    assert 10 < loose.nfe < tight.nfe and loose.flow_error > tight.flow_error > 0
    assert lines["ggf", 0.2].flow_error is None
    assert all(line.seconds_per_1000 and line.seconds_per_1000 > 0 for line in result.lines)


def test_candidates_are_sorted_and_a_time_limit_leaves_out_the_last() -> None:
    """Candidates are sorted by priority, then by cost; those that do not fit into the time limit are listed."""
    log: list[str] = []
    stubs = [
        Stub("other", priority=Priority.OTHER_GRID_AND_ORDER, budget=1, log=log),
        Stub("costly", budget=9, nfe=9, log=log),
        Stub("cheap", budget=2, nfe=2, log=log),
    ]
    assert run_stubs(*stubs).left_out == [] and log == ["cheap", "costly", "other"]
    result = run_stubs(*stubs, seconds=1e-9)
    assert [left.name for left in result.left_out] == ["cheap", "costly", "other"] and result.lines == []
    assert result.ranking.sentences == [] and "Nothing was measured" in render(result)


def test_a_second_call_continues(tmp_path: Path) -> None:
    """A case is measured again only if its method has changed. A different number of samples is an error."""
    out = tmp_path / "x.json"
    log: list[str] = []
    run_stubs(Stub("a", log=log), out=out)
    result = run_stubs(Stub("a", log=log), Stub("b", shift=0.5, log=log), out=out)
    assert log == ["a", "b"] and [line.name for line in result.lines] == ["a", "b"]
    before = result.lines[1].quality
    result = run_stubs(Stub("a", log=log), Stub("b", shift=0.1, log=log), out=out)
    assert log == ["a", "b", "b"] and result.lines[1].quality < before
    with pytest.raises(ValueError, match="has samples 200, this run has 300: choose another --out or remove it"):
        compare("mixture-vp", replace(SMALL, samples=300), out=out)
    out.write_text("{}")
    with pytest.raises(ValueError, match="is not a result of this command"):
        run_stubs(Stub("a"), out=out)


def test_the_files_grow_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a case runs, the JSON and the page have all earlier ones; after Ctrl-C the same call continues."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(comparison, "WRITE_SHARE", math.inf)  # writes before every case
    out, html = tmp_path / "x.json", tmp_path / "x.html"
    seen: list[list[str]] = []
    pages: list[str] = []

    @dataclass(frozen=True)
    class Watching(Stub):
        def draw(self, seeds: Sequence[int]) -> SampleBatch:
            result = read_result(Comparison, out) if out.exists() else None
            seen.append([] if result is None else [line.name for line in result.lines])
            if result is not None:
                pages.append(html.read_text())
            if self.name == "c" and len(seen) == 3:
                raise KeyboardInterrupt
            return super().draw(seeds)

    stubs = [Watching(name) for name in "abc"]
    with pytest.raises(KeyboardInterrupt):
        run_stubs(*stubs, out=out, html=html)
    assert seen == [[], ["a"], ["a", "b"]] and read_result(Comparison, out).progress
    for done, page in enumerate(pages, 1):
        assert f"Unfinished: {done} of 3, 0 s, about 0 s left." in page and 'http-equiv="refresh"' in page
        assert [f"<tr><td>{name}</td>" in page for name in "abc"] == [index < done for index in range(3)]
    result = run_stubs(Stub("a", error=AssertionError("measured again")), *map(Stub, "bc"), out=out, html=html)
    assert [line.name for line in result.lines] == ["a", "b", "c"] and result.progress == ""
    page = html.read_text()
    assert all(f"<tr><td>{name}</td>" in page for name in "abc") and not re.search("Unfinished|refresh", page)


def test_times_are_medians_of_interleaved_rounds() -> None:
    """After the measurement, cases that did not diverge draw one batch a round, in an order that rotates."""
    log: list[str] = []
    sleepers = [Stub(name, seconds=seconds, log=log) for name, seconds in (("a", 0.02), ("b", 0.06), ("c", 0.02))]
    result = run_stubs(*sleepers, Stub("nan", shift=float("nan"), log=log), timing_seconds=5, batch_size=50)
    timing_log = log[4:]
    assert log[:4] == ["a", "b", "c", "nan"] and timing_log[:9] == [*"abc", *"bca", *"cab"]
    lines = {line.name: line for line in result.lines}
    for name, duration in (("a", 0.02), ("b", 0.06), ("c", 0.02)):
        assert lines[name].timed == timing_log.count(name) >= MIN_ROUNDS
        seconds = lines[name].seconds_per_1000
        assert seconds is not None and duration <= seconds / 1000 * 50 < duration + 0.2
    assert (lines["nan"].timed, lines["nan"].seconds_per_1000) == (0, None)
    assert result.timed_on is not None
    assert result.timed_on["threads"] == torch.get_num_threads() and result.timed_on["batch_size"] == 50


def test_the_timing_budget_is_respected() -> None:
    """A slow case is timed once; a case whose rounds do not fit is not timed, and the ranking says so."""
    log: list[str] = []
    stubs = [
        Stub("cheap", log=log),
        Stub("long", shift=0.5, priority=Priority.REFERENCE, nfe=80, seconds=0.5, log=log),
        Stub("cheap", shift=0.25, priority=Priority.OTHER_GRID_AND_ORDER, budget=4000, nfe=4000, log=log),
    ]
    result = run_stubs(*stubs, timing_seconds=4)
    assert log == ["cheap", "long", "cheap", "cheap", "long", *["cheap"] * (MIN_ROUNDS - 1)]
    timed = {line.nfe: (line.timed, line.seconds_per_1000 is None) for line in result.lines}
    assert timed == {4: (MIN_ROUNDS, False), 80: (1, False), 4000: (0, True)}
    assert "2 of 3 candidates were timed; rankings by time omit the others." in result.ranking.sentences
    pytest.importorskip("matplotlib")
    assert render(result).count("<svg") == 2


def test_a_later_call_adds_times(tmp_path: Path) -> None:
    """A later call adds times, also with other threads; times with different numbers of threads are not mixed."""
    pytest.importorskip("matplotlib")
    out = tmp_path / "x.json"
    log: list[str] = []
    stubs = Stub("a", log=log), Stub("b", shift=0.5, log=log)
    result = run_stubs(*stubs, out=out)
    assert result.timed_on is None and result.ranking.by_seconds == []
    text = render(result)
    assert "not timed" in text and text.count("<svg") == 1
    before, log[:] = [line.quality for line in result.lines], []
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        result = run_stubs(*stubs, out=out, timing_seconds=5)
        assert [line.quality for line in result.lines] == pytest.approx(before, rel=1e-4)
        timed = {line.name: line.timed for line in result.lines}
        assert timed == {"a": log.count("a"), "b": log.count("b")} and min(timed.values()) >= MIN_ROUNDS
    finally:
        torch.set_num_threads(threads)
    result = run_stubs(*stubs, out=out)
    assert result.timed_on is not None
    assert result.timed_on["threads"] == threads + 1, "a call without timing keeps the times"
    result = run_stubs(stubs[0], out=out, timing_seconds=5)
    assert result.timed_on is not None and result.timed_on["threads"] == threads
    assert [line.seconds_per_1000 is None for line in result.lines] == [False, True]
    result = run_stubs(stubs[1], out=out, timing_seconds=5)
    assert all(line.timed >= MIN_ROUNDS for line in result.lines), "times with the same threads are kept"


def test_a_failure_in_timing_does_not_stop_the_others() -> None:
    """If a case fails in the first round of timing, the others are timed."""

    @dataclass(frozen=True)
    class Once(Stub):
        def draw(self, seeds: Sequence[int]) -> SampleBatch:
            if self.log:
                raise MemoryError("no memory")
            return super().draw(seeds)

    result = run_stubs(Once("once"), Stub("good"), timing_seconds=5)
    assert [line.timed >= MIN_ROUNDS for line in result.lines] == [False, True]


def test_equal_methods_are_measured_once() -> None:
    """Two names of the same method share one measurement, and each has its curve."""

    @dataclass(frozen=True)
    class Renamed(Stub):
        def prepare(self) -> Prepared:
            return replace(super().prepare(), digest="the same")

    log: list[str] = []
    result = run_stubs(Renamed("a", log=log), Renamed("b", log=log), timing_seconds=5)
    assert set(log) == {"a"} and [line.name for line in result.lines] == ["a", "b"]
    first, second = (line.seconds_per_1000 for line in result.lines)
    assert first is not None and first == second and first > 0


def test_images_are_scored_and_shown(tmp_path: Path) -> None:
    """On an embedded model cases have a Frechet distance and further measures, and the page shows images."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    options = replace(SMALL, budgets=(2, 6), solvers=("dpmpp_2m",), reference_steps=25, samples=16, timing_seconds=0)
    result = compare("digits-vp", options, out=tmp_path / "x.json")
    plain = {line.budget: line for line in result.lines if line.name == "dpmpp_2m"}
    assert plain[6].quality < plain[2].quality and set(plain[6].more) == {"recognised", "tint_matches"}
    assert [picture.title for picture in result.pictures] == [
        "the data",
        "at most 2 evaluations: dpmpp_2m (quadratic)",
        "at most 6 evaluations: dpmpp_2m (quadratic)",
    ]
    assert [line.nfe for line in result.lines if line.reference] == [25]
    text = render(read_result(Comparison, tmp_path / "x.json"))
    assert text.count("data:image/png;base64,") == 3 and "ancestral, 25 steps" in text
