# SPDX-License-Identifier: Apache-2.0
"""Power losses: after any prefix of a run's operations nothing recorded is lost, and the next run completes the set."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

from scoresde_fast.generate import generate
from scoresde_fast.generate.digests import Digests, digest
from scoresde_fast.generate.manifest import Manifest
from scoresde_fast.generate.stores import open_store
from scoresde_fast.generate.verify import verify
from tests.support.power_loss import Disk, recorded_operations
from tests.support.stub_sampler import OUTS, StubSampler, files

pytestmark = [
    pytest.mark.same_everywhere,
    pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot sync a folder"),
    pytest.mark.skipif(sys.version_info < (3, 11), reason="pathlib of Python 3.10 does not call the functions of os"),
]


FAST = ("set", "set.npz")
"""The formats of `make test`: a folder, and one of the archives, which are all written alike."""


def write_twice(out: Path) -> None:
    """Write a set of three images, which grows to five."""
    for count in (3, 5):
        generate(StubSampler(), range(count), out, batch_size=2, progress=False)


@pytest.mark.parametrize("out", [pytest.param(out, marks=[] if out in FAST else pytest.mark.slow) for out in OUTS])
def test_every_prefix(tmp_path: Path, out: str) -> None:
    """A set is written and grows; power is lost after each operation, with several outcomes on the disk."""
    whole = tmp_path / "whole"
    whole.mkdir()
    with recorded_operations(whole) as operations:
        write_twice(whole / out)
    disk, tried, generator = Disk(), set(), random.Random(0)
    for count, operation in enumerate(operations):
        disk.apply(operation)
        for state in disk.states(generator):
            if (key := hash(frozenset(state.items()))) in tried:
                continue
            tried.add(key)
            folder = tmp_path / str(len(tried))
            folder.mkdir()
            for name in sorted(state, key=len):
                content = state[name]
                if content is None:
                    (folder / name).mkdir()
                else:
                    (folder / name).write_bytes(content)
            what = f"after operation {count}, {operation[:2]}"
            check_recorded(folder / out, what)
            write_twice(folder / out)
            assert files(folder) == files(whole), what
            assert verify(folder / out).sound, what
    assert len(tried) > 60, "there were many different states"


def check_recorded(out: Path, what: str) -> None:
    """Check that every image that the manifest records as done is there, with its digest."""
    store = open_store(out)
    try:
        done = Manifest.read(store.manifest).done
    except FileNotFoundError:
        return
    assert done is not None
    digests = Digests.read(store).images
    images = dict(store.try_load(done))
    assert list(images) == list(done), what
    for seed, image in images.items():
        assert digest(image) == digests[seed], what
