# SPDX-License-Identifier: Apache-2.0
"""The README and the pages of docs: code and commands run, links exist, and tables match the results."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import scoresde_fast as sf
from benchmarks import tables
from scoresde_fast.cli import main
from scoresde_fast.flow.options import ADAPTIVE
from scoresde_fast.solvers import SOLVERS
from scoresde_fast.training import Trainer, load_recipe

pytestmark = pytest.mark.same_everywhere

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    path.relative_to(ROOT): path.read_text() for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README = PAGES[Path("README.md")]
RUN = [PAGES[Path(name)] for name in ("README.md", "docs/sampling.md", "docs/models.md", "docs/training.md")]
"""Pages whose code runs here; other pages have their own tests."""
BLOCKS = list(dict.fromkeys(block for page in RUN for block in re.findall(r"```(\w+)\n(.*?)```", page, re.DOTALL)))
PYTHON = [code for language, code in BLOCKS if language == "python"]
COMMANDS = list(dict.fromkeys(line for language, code in BLOCKS if language == "bash" for line in code.splitlines()))
CHEAPER = {
    "bench": ["--nfe", "5", "--samples", "16", "--solvers", "ddim", "--grids", "quadratic"],
}
"""Options added to commands that take minutes."""
CHECKPOINT_PRESET = "ve/cifar10_ncsnpp_continuous"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files of the pages: an official checkpoint, modules, a recipe, photos and a run.

    The checkpoint and the run have fresh weights.  A module is a block of Python that begins with its name.
    """
    folder = tmp_path_factory.mktemp("readme")
    model = sf.create(CHECKPOINT_PRESET)
    state, shadow = {"module.sigmas": model.network.sigmas}, []
    from scoresde_fast.networks import official_modules

    for index, module in enumerate(official_modules(model.network)):
        official = getattr(module, "OFFICIAL_NAMES", {})
        for name, tensor in module.state_dict().items():
            first, *rest = name.split(".")
            state[".".join([f"module.all_modules.{index}", official.get(first, first), *rest])] = tensor
        shadow += [p.detach() for p in module.parameters() if p.requires_grad]
    assert len(state) == len(model.network.state_dict())
    ema = {"decay": 0.999, "num_updates": 1, "shadow_params": shadow}
    torch.save({"model": state, "ema": ema, "optimizer": {}, "step": 1}, folder / "checkpoint_8.pth")
    for code in PYTHON:
        if file := re.match(r"# (\w+\.py)\n", code):
            (folder / file[1]).write_text(code)
    (recipe,) = (code for language, code in BLOCKS if language == "json")
    (folder / "photos.json").write_text(recipe)
    (folder / "photos").mkdir()
    for index, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (70, 20, 24, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"photos/{index}.jpg")
    if find_spec("sklearn"):
        Trainer(load_recipe("digits-vp"), folder / "runs" / "digits-vp").save()
    return folder


@pytest.mark.parametrize("code", PYTHON, ids=[f"block-{n}" for n in range(1, len(PYTHON) + 1)])
def test_python_blocks_run(code: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Python block runs unchanged."""
    monkeypatch.chdir(workplace)
    exec(compile(code, "page", "exec"), {"__name__": "page"})


@pytest.mark.parametrize("line", COMMANDS, ids=[line.split("#")[0].strip() for line in COMMANDS])
def test_commands_run(line: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command runs, with the options of `CHEAPER`; training stops after a few steps."""
    run_command(line, workplace, monkeypatch)


def run_command(line: str, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command of a page in ``workplace``."""
    program, *arguments = shlex.split(line, comments=True)
    if program == "pip":  # tests/build_system/test_install.py runs it
        assert arguments == ["install", "."]
        return
    assert program == "scoresde-fast"
    monkeypatch.chdir(workplace)
    if arguments[0] == "train":
        from scoresde_fast.training import trainer

        pytest.importorskip("sklearn")
        monkeypatch.setattr(trainer, "write_grid", lambda trainer: None)
        steps = trainer.Trainer.run
        monkeypatch.setattr(
            trainer.Trainer, "run", lambda *a, **k: (pair for pair, _ in zip(steps(*a, **k), "ab", strict=False))
        )
    assert main([*arguments, *CHEAPER.get(arguments[0], [])]) == 0


@pytest.mark.parametrize("path", PAGES, ids=str)
def test_links_exist(path: Path) -> None:
    """Every picture and page that a page links to is in the repository, and every anchor is a heading."""
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[path]):
        if "://" in target:
            continue
        place, _, anchor = target.partition("#")
        linked = (ROOT / path.parent / place).resolve() if place else ROOT / path
        assert linked.is_file(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in headings}, target


def test_every_page_is_in_the_index() -> None:
    """docs/README.md links every page of the folder."""
    index = set(re.findall(r"\]\(([^)]+)\)", PAGES[Path("docs/README.md")]))
    assert {path.name for path in PAGES if path.parent.name == "docs"} - {"README.md"} <= index


def test_readme_is_short() -> None:
    """The README has at most 150 lines."""
    assert len(README.splitlines()) <= 150


def test_readme_names_every_solver() -> None:
    """The README's table of solvers names each registered one."""
    for name in (*SOLVERS, *ADAPTIVE):
        assert f"`{name}`" in README, name


@pytest.mark.parametrize("page", [page for page in tables.PAGES if page != "docs/portability.md"])
def test_figures_come_from_results(page: str) -> None:
    """Tables of figures are those that `benchmarks.tables` makes from the committed results.

    `tests/benchmarks/test_portability.py` tests docs/portability.md, whose results change during `make matrix`.
    """
    for make in tables.PAGES[page]:
        assert "\n".join(make()) in PAGES[Path(page)], make.__name__
