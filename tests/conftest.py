# SPDX-License-Identifier: Apache-2.0
"""Fixtures that several test files share."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    import scoresde_fast as sf

# Without a GPU, Triton kernels run in its interpreter; the variable must be set before they are imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

ROOT = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --run-seed."""
    parser.addoption("--run-seed", type=int, default=0, help="seed of the tests marked statistical (default: 0)")


@pytest.fixture(scope="session")
def run_seed(request: pytest.FixtureRequest) -> int:
    """Return the seed of statistical tests, which pass with any value; `make seeds` tries twenty."""
    seed: int = request.config.getoption("--run-seed")
    return seed


@pytest.fixture(scope="session", autouse=True)
def _threads() -> None:
    """Use OMP_NUM_THREADS threads, by default one, because the suite runs in several processes."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


@pytest.fixture(scope="session")
def root() -> Path:
    """Return the source checkout."""
    return ROOT


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    """Return a context whose processes fork from one that has imported what sets need and started no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "tests.support.stub_sampler", "scoresde_fast.generate.run"])
    return context


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder with recorded results of the official code."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="module")
def tiny() -> sf.ScoreModel:
    """Return a small NCSN++ with fresh weights."""
    from tests.support.tiny import tiny_model

    return tiny_model()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Yield a function that sets PyTorch's number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)
