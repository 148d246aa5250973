# SPDX-License-Identifier: Apache-2.0
"""The visit to a GPU, without one: its messages, its results' file, and rehearsals of its most important items.

`make rehearse` runs all of its items.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="the items compare Triton's kernels with others")

from scoresde_fast.kernels.convolution import choose_tile

from benchmarks import tables
from benchmarks.kernels.shapes import heaviest_convolutions, hot_calls
from benchmarks.visit import checks, device, kernels, network, network_checks, report, run, stand_ins
from benchmarks.visit.common import Errors
from scoresde_fast.loop.evaluator import warn_slower


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The visit's modules on a CPU, small, with stand-ins for what only a GPU has."""
    torch.manual_seed(0)
    stand_ins.install(monkeypatch.setattr)


def found_by(function: Callable[[Any], None]) -> dict[str, Any]:
    """Run an item; returns its report."""
    found = report.Report()
    function(found)
    return found.results


def test_without_a_gpu(root: Path) -> None:
    """`--list` names the items, an unknown item is refused with the known ones, and a run needs a GPU."""
    script = [sys.executable, str(root / "benchmarks" / "gpu.py")]
    listed = subprocess.run([*script, "--list"], capture_output=True, text=True)
    assert listed.returncode == 0 and "steps" in listed.stdout
    wrong = subprocess.run([*script, "--only", "no such"], capture_output=True, text=True)
    assert wrong.returncode == 2 and "there is no item 'no such'; choose from: device, smoke" in wrong.stderr
    if not torch.cuda.is_available():
        ran = subprocess.run(script, capture_output=True, text=True)
        assert ran.returncode == 3 and "needs a GPU and none was found" in ran.stdout


CHECKS = (checks.steps, checks.noise, network_checks.norms, network_checks.filters, network_checks.attention,
          network_checks.convolutions, network_checks.derivatives, network_checks.network, device.smoke)  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.__module__}.{check.__name__}")
def test_checks_run_and_pass(rehearsed: None, check: Callable[[Any], None]) -> None:
    """The checks compare every present backend, and pass."""
    found = found_by(check)
    assert found["passed"], {label: ratio for label, ratio in found["worst"].items() if ratio > 1}
    assert found["worst"]


def test_conditions_are_checked(rehearsed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The inference network's gradient is the plain one's, and guided runs agree; runs that differ fail."""
    found = found_by(checks.conditions)
    assert found["passed"], found["worst"]
    monkeypatch.setattr(checks, "captured_difference", lambda *_: 1.0)
    assert not found_by(checks.conditions)["passed"]


def test_a_wrong_kernel_is_seen(rehearsed: None) -> None:
    """NaN and an error of three times the reference's both fail."""
    errors = Errors()
    truth = torch.linspace(1, 2, 8, dtype=torch.float64) + 1e-9
    errors.compare("wrong", truth.float() + 1e-5, truth.float(), truth)
    errors.compare("nan", torch.full((8,), float("nan")), truth.float(), truth)
    errors.compare("right", truth.float(), truth.float(), truth)
    assert not found_by(errors.report_to)["passed"]
    assert errors.worst["right"] <= 1 < errors.worst["wrong"] and errors.worst["nan"] == float("inf")


@pytest.mark.parametrize("rows", ["norms", "steps", "attention"])
def test_figures_run(rehearsed: None, rows: str) -> None:
    """The measurements run and report a target."""
    found = found_by(getattr(kernels, rows))
    assert found["cases"] and any(name.partition(", ")[0] in tables.TARGETS for name in found["figures"])


@pytest.mark.parametrize("rows", ["captured", "against_eager", "latency"])
def test_figures_of_the_network(rehearsed: None, rows: str) -> None:
    """A captured network is measured against others, and its kernels are listed."""
    found = found_by(getattr(network, rows))
    assert any(name.partition(", ")[0] in tables.TARGETS for name in found["figures"])
    if rows == "captured":
        assert "3x3 convolutions" in found["cases"]["ms an evaluation by kind"]


def test_figures_of_convolutions(rehearsed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tile is checked and measured; winners at all batch sizes are reported in the form of their table."""
    chosen = kernels._name(choose_tile(16, 16, 8, 2, False))
    for faster, named in (("cudnn", []), (chosen, [(16, 16, 8, 3), (16, 8, 16, 1)])):
        monkeypatch.setattr(
            kernels,
            "gpu_seconds",
            lambda calls, *_, faster=faster, **__: {name: 2.0 - (name == faster) for name in calls},
        )
        found = found_by(kernels.convolutions)
        assert found["passed"] and not found["cases"]["left out for time"]
        assert found["figures"]["FASTER_FUSED"] == [list(shape) for shape in named]
    monkeypatch.setattr(kernels, "CONVOLUTION_SECONDS", -1)
    assert len(found_by(kernels.convolutions)["cases"]["left out for time"]) == 2


@pytest.fixture
def items(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The results of four items: one works, one raises, one hangs after a figure, and one is a failing check."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{root}")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "made_up.py").write_text(
        "import os, time\n"
        "def well(report): report.figure('well', 1.0)\n"
        "def raises(report): raise RuntimeError('an illegal memory access')\n"
        "def hangs(report):\n    report.figure('early', 2.0)\n    os.system('sleep 60')\n    time.sleep(60)\n"
        "def check(report): report.outcome(False, {'case': 3.0})\n"
    )
    monkeypatch.setattr(run, "LOGS", tmp_path)
    made = [
        run.Item("well", "made_up.well", "", 60, checks=("check",)),
        run.Item("raises", "made_up.raises", "", 60),
        run.Item("hangs", "made_up.hangs", "", 8),
        run.Item("check", "made_up.check", "", 60, together=True),
    ]
    monkeypatch.setattr(run, "ITEMS", tuple(made))
    result: dict[str, Any] = {"items": {}}
    out = tmp_path / "out.json"
    begin = time.perf_counter()
    assert not run.visit(made, out, result, 300, False)
    assert time.perf_counter() - begin < 55  # the one that hangs was stopped
    return json.loads(out.read_text())["items"]


def test_what_an_item_cannot_spoil(items: dict[str, Any]) -> None:
    """An item that raises or hangs spoils no other, keeps its figures, and is named with its reason; a figure stays and
    is marked if its check failed.
    """
    assert items["well"]["figures"] == {"well": 1.0} and items["well"]["doubts"] == ["check"]
    assert "an illegal memory access" in items["raises"]["error"]
    assert items["hangs"]["error"] == "stopped after 8 s" and items["hangs"]["figures"] == {"early": 2.0}


def test_short_graphs_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of a microsecond are repeated to fill half a millisecond, and each is counted."""
    from scoresde_fast.bench import timing

    captured: list[int] = []

    def capture(_function: Any, inputs: list[Any]) -> SimpleNamespace:
        captured.append(len(inputs))
        return SimpleNamespace(replay=lambda: 2.0**-20 * len(inputs))

    monkeypatch.setattr(timing, "_captured", capture)
    monkeypatch.setattr(timing, "replay_seconds", lambda replays, *_: {name: run() for name, run in replays.items()})
    assert timing.gpu_seconds({"short": print}, [(), ()]) == {"short": 2.0**-20}
    once, often = captured
    assert once == 2 and often - 2 < timing.MIN_GRAPH_SECONDS * 2**20 <= often


def test_a_line_is_short() -> None:
    """A line is cut, however much an item finds: the output of a visit is limited."""
    said = report.summary("item", {"error": "x" * 5000, "figures": {f"row {n}": 1.0 for n in range(500)}})
    assert len(said) <= 200 and said.startswith("item: FAILED")


def test_the_table_of_a_visit() -> None:
    """The targets are in their order, with floor and goal; a figure in doubt names the failed check."""
    figures = {"wall over replays, compiled": 1.0234, "images/s": 3.0}
    items = {
        "device": {"figures": {"versions": "torch 2.11.0"}},
        "network": {"figures": figures, "doubts": ["check norms"]},
        "norms": {"figures": {"norm against inductor": 1.4, "attention against eager, 16x16, compiled": 2.0}},
    }
    assert tables.gpu({"device": "a GPU", "items": items})[2:] == [
        "| norm against inductor | 1.4 | 1.2 | 1.5 |  |",
        "| wall over replays, compiled | 1.02 | 1.03 | 1.005 | in doubt: check norms failed |",
        "| attention against eager, 16x16, compiled | 2 | 1.3 | 2 |  |",
    ]


def test_the_page_of_targets(root: Path) -> None:
    """docs/performance.md has every target."""
    assert "\n".join(tables.targets()) in (root / "docs" / "performance.md").read_text()


def test_shapes_of_the_networks() -> None:
    """NCSN++ for CIFAR-10 calls 95 norms an evaluation, including those of its attention blocks."""
    calls = hot_calls("NCSN++")
    norms = sum(count for (name, _, _), count in calls.items() if name == "group_norm_silu")
    attention = sum(count for (name, _, _), count in calls.items() if name == "group_norm_attention")
    assert norms + attention == 95


def test_heaviest_convolutions() -> None:
    """Most of the work of NCSN++ is in 3x3 convolutions of 256 channels at 16x16 and of 128 at 32x32."""
    assert heaviest_convolutions("NCSN++", 2) == [((256, 16, 16), (256, 3)), ((128, 32, 32), (128, 3))]


def test_nothing_that_measures_needs_the_command_line(root: Path) -> None:
    """No benchmark imports the command line: a machine with a GPU may lack its libraries. The fuzz measures nothing."""
    for path in set((root / "benchmarks").rglob("*.py")) - set((root / "benchmarks/fuzz").rglob("*.py")):
        lines = [line.strip() for line in path.read_text().splitlines()]
        assert not [line for line in lines if line.startswith(("import ", "from ")) and "scoresde_fast.cli" in line]


def test_the_log_is_searched_for_warnings() -> None:
    """An item fails if its log has the warning of a network that was not compiled or captured."""
    with pytest.warns(RuntimeWarning, match=run.SLOWER):
        warn_slower(torch.nn.Identity(), "compiled", "compile", RuntimeError("graph break"))
