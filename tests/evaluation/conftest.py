# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the evaluation tests: an empty cache folder, the extractor, and statistics of digits."""

from __future__ import annotations

from pathlib import Path

import pytest

from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import Extractor, load_extractor
from scoresde_fast.evaluation.reference import Reference, compute_reference


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("digits-features")


@pytest.fixture(scope="module")
def statistics(extractor: Extractor) -> Reference:
    reference = compute_reference(open_images("digits:test"), "digits:test", extractor, features=True)
    assert reference is not None
    return reference
