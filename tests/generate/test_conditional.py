# SPDX-License-Identifier: Apache-2.0
"""`write_samples`: files, resumed runs, and refused requests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scoresde_fast.generate.conditional import write_samples
from tests.support.stub_sampler import StubSampler, files

pytestmark = pytest.mark.same_everywhere

PICTURES = {"image": [np.zeros((4, 5, 3), np.uint8)] * 2}


def write(stub: StubSampler, out: Path, names: tuple[str, ...] = ("x.png", "y.png"), **more: Any) -> Any:
    options = {"options": {"command": "stub"}, "batch_size": 3, **more}
    return write_samples(stub, names, range(8), PICTURES, out, **options)


@pytest.mark.parametrize("dependent", [False, True], ids=["alone", "of-a-batch"])
def test_interrupted_samples(tmp_path: Path, dependent: bool) -> None:
    """An interrupted run keeps finished images, and the next one completes it to the same bytes."""
    write(StubSampler(batch_dependent=dependent), tmp_path / "whole-0.5")  # a folder, although with a dot
    with pytest.raises(KeyboardInterrupt):
        write(StubSampler(batch_dependent=dependent, interrupt_in=4), tmp_path / "set")
    assert sorted(files(tmp_path / "set")) == ["run.json", *(f"x-00000{seed}.png" for seed in range(3))]
    (tmp_path / "set" / "x-000001.png").unlink()
    rest = StubSampler(batch_dependent=dependent)
    report = write(rest, tmp_path / "set")
    assert rest.batches == [[0, 1, 2], [3, 4, 5], [6, 7]] and (report.made, report.found) == (6, 2)
    assert files(tmp_path / "set") == files(tmp_path / "whole-0.5")
    again = StubSampler(batch_dependent=dependent)
    assert write(again, tmp_path / "set").made == 0 and not again.batches


def test_stopped_samples(tmp_path: Path) -> None:
    """A run that is stopped writes no sheet and reports the number of missing images."""
    answers = iter([False, True])
    report = write(StubSampler(), tmp_path, stop=lambda: next(answers))
    assert (report.made, report.missing, report.stopped) == (3, 5, True) and not (tmp_path / "sheet.png").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"names": ("x.png", "x.jpg")}, "the samples of x.png and x.jpg would have the same names"),
        ({"batch_size": 0}, "batch size 0"),
        ({"out": Path("set.h5")}, "--out set.h5: conditional samples are written to a folder"),
    ],
    ids=["names", "batch", "suffix"],
)
def test_invalid_requests(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    """Invalid requests are refused before anything is written."""
    stub = StubSampler()
    with pytest.raises(ValueError, match=re.escape(says)):
        write(stub, **{"out": tmp_path / "set", **change})
    assert not stub.batches and not list(tmp_path.iterdir())


def test_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes of torchrun are refused, since they would write the same files."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="by a single process"):
        write(StubSampler(), tmp_path)
