# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbours in the training set."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch

pytest.importorskip("sklearn")

from scoresde_fast.data import digits
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation.neighbours import nearest
from scoresde_fast.evaluation.reference import Reference

pytestmark = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")


def test_neighbours(statistics: Reference) -> None:
    """An image of the set is its own nearest neighbour, far closer than the typical distance."""
    images = digits("test")[0]
    indices = [5, 300, 363]
    assert statistics.features is not None
    neighbours = nearest(statistics.features[indices], statistics.features, open_images("digits:test"), k=3)
    assert torch.equal(neighbours.images[:, 0], images[indices]) and neighbours.images.shape == (3, 3, 3, 16, 16)
    assert float(neighbours.distances[:, 0].max()) < 0.01 * neighbours.typical
    assert bool((neighbours.distances[:, 1:] > 0.2 * neighbours.typical).all())
