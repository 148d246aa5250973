# SPDX-License-Identifier: Apache-2.0
"""The README says what is so: its blocks run, its files exist, its table is the registry's."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import scoresde_fast as sf
from benchmarks import tables
from scoresde_fast.cli import main
from scoresde_fast.sdes import CLDSDE, VESDE, VPSDE, SubVPSDE
from scoresde_fast.solvers import SOLVERS
from scoresde_fast.solvers.registry import ALIASES

pytestmark = pytest.mark.same_everywhere

README = (Path(__file__).resolve().parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines()]
#: What is added to commands that take minutes as they stand.
CHEAPER = {
    "likelihood": ["--limit", "2", "--steps", "2"],
    "interpolate": ["--rtol", "0.1", "--atol", "0.1"],
    "bench": ["--nfe", "5", "--samples", "16", "--solvers", "ddim", "--grids", "quadratic"],
}
CHECKPOINT_PRESET = "ve/cifar10_ncsnpp_continuous"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the official checkpoint that the README speaks of: its layout and shapes, fresh weights."""
    folder = tmp_path_factory.mktemp("readme")
    model = sf.create(CHECKPOINT_PRESET)
    names = {id(module): name for name, module in model.network.named_modules()}
    state, shadow = {"module.sigmas": model.network.sigmas}, []
    from scoresde_fast.networks import official_modules

    for index, module in enumerate(official_modules(model.network)):
        official = getattr(module, "OFFICIAL_NAMES", {})
        for name, tensor in module.state_dict().items():
            first, *rest = name.split(".")
            state[".".join([f"module.all_modules.{index}", official.get(first, first), *rest])] = tensor
        shadow += [p.detach() for p in module.parameters() if p.requires_grad]
    assert len(state) == len(model.network.state_dict()) and names
    ema = {"decay": 0.999, "num_updates": 1, "shadow_params": shadow}
    torch.save({"model": state, "ema": ema, "optimizer": {}, "step": 1}, folder / "checkpoint_8.pth")
    return folder


@pytest.mark.parametrize("code", PYTHON, ids=[f"block-{n}" for n in range(1, len(PYTHON) + 1)])
def test_python_blocks_run(code: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block runs as it stands."""
    monkeypatch.chdir(workplace)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("line", COMMANDS, ids=[line.split("#")[0].strip() for line in COMMANDS])
def test_commands_run(line: str, root: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command line runs as it stands, or `CHEAPER`; make's as a dry run, training is stopped at once.

    Those before it whose files it reads run first, if they have not: tests may be shared out, or run alone.
    """
    for earlier in COMMANDS[: COMMANDS.index(line)]:
        written = written_by(earlier)
        if written is not None and written in shlex.split(line, comments=True) and written_by(line) != written:
            run_once(earlier, root, workplace, monkeypatch)
    run_once(line, root, workplace, monkeypatch)


def written_by(line: str) -> str | None:
    """What a command is told to write."""
    words = shlex.split(line, comments=True)
    return words[words.index("--out") + 1] if "--out" in words else None


def run_once(line: str, root: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of the README in ``workplace``, unless that was done."""
    done = workplace / "done.txt"
    if done.exists() and line in done.read_text().splitlines():
        return
    run_command(line, root, workplace, monkeypatch)
    with done.open("a") as file:
        file.write(line + "\n")


def run_command(line: str, root: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of the README in ``workplace``."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        subprocess.run(["make", "--dry-run", *arguments], cwd=root, check=True, capture_output=True)
        return
    if program == "pip":  # tests/build_system/test_install.py runs it
        assert arguments == ["install", "."]
        return
    assert program == "scoresde-fast"
    monkeypatch.chdir(workplace)
    if arguments[0] == "train":
        from scoresde_fast.training import run, trainer

        pytest.importorskip("sklearn")
        monkeypatch.setattr(run, "write_grid", lambda trainer: None)
        steps = trainer.Trainer.run
        monkeypatch.setattr(
            trainer.Trainer, "run", lambda *a, **k: (pair for pair, _ in zip(steps(*a, **k), "ab", strict=False))
        )
    assert main([*arguments, *CHEAPER.get(arguments[0], [])]) == 0


def test_pictures_and_links_exist(root: Path) -> None:
    """Every file that the README shows or points to is in the repository, and every place in it is a heading."""
    targets = [target for target in re.findall(r"\]\(([^)]+)\)", README) if "://" not in target]
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)$", README, re.M)
    }
    places = {target[1:] for target in targets if target.startswith("#")}
    assert places <= headings
    targets = [target for target in targets if not target.startswith("#")]
    assert targets
    assert [target for target in targets if not (root / target).is_file()] == []


def test_solver_table_is_the_registry() -> None:
    """The table has a row for each registered solver, with its SDEs, its flow, its order and its source."""
    marks = {True: "yes", False: "-"}
    for name, solver in SOLVERS.items():
        title = f"`{name}`" + "".join(
            f" (`{alias}`)" for alias, of in ALIASES.items() if of == name and len(alias) < len(name)
        )
        defined = [marks[sde in solver.sdes] for sde in (VESDE, VPSDE, SubVPSDE, CLDSDE)]
        flow = "always" if solver.deterministic else marks[solver.flow]
        order = " to ".join(map(str, sorted({solver.orders[0], solver.orders[-1]})))
        assert "| " + " | ".join([title, *defined, flow, order, solver.source]) + " |" in README


@pytest.mark.parametrize("table", tables.README, ids=lambda table: table.__name__)
def test_figures_come_from_results(table: Callable[[], list[str]]) -> None:
    """The tables of figures are those that benchmarks/tables.py makes from the committed results."""
    assert "\n".join(table()) in README
