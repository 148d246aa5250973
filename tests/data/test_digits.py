# SPDX-License-Identifier: Apache-2.0
"""The digits: shapes, values, splits, and the tint of each class."""

from __future__ import annotations

import sys

import pytest
import torch

pytest.importorskip("sklearn")

from scoresde_fast.data import digits, load_dataset
from scoresde_fast.errors import MissingPackageError
from scoresde_fast.evaluation.recognise import tint_class


def test_shapes_and_values() -> None:
    """1 797 colour images of 16x16, every class, using the whole range."""
    images, labels = digits()
    assert images.shape == (1797, 3, 16, 16) and images.dtype == torch.uint8
    assert labels.bincount().min() >= 170 and len(labels.bincount()) == 10
    assert images.amin() == 0 and images.amax() == 255


def test_always_the_same() -> None:
    """The pixels are those that the embedded models were trained on, up to rounding in few of them."""
    images = digits()[0]
    assert torch.equal(images, digits()[0])
    assert images.double().mean().item() == pytest.approx(49.9022, abs=1e-3)
    assert images[0, :, 8, 4].tolist() == [139, 38, 35]


def test_splits_are_a_partition() -> None:
    """Train and test together are all, disjoint, with a fifth of every class held out."""
    (all_images, _), (train, train_labels), (test, test_labels) = digits("all"), digits("train"), digits("test")
    assert len(train) + len(test) == len(all_images)
    rows = {image.numpy().tobytes() for image in train}
    assert sum(image.numpy().tobytes() in rows for image in test) == 0
    assert (test_labels.bincount() / (train_labels.bincount() + test_labels.bincount())).sub(0.2).abs().max() < 0.01


def test_tint_tells_the_class() -> None:
    """The hue of an image's mean colour is nearest to that of its own class, for every image."""
    images, labels = digits()
    assert (tint_class(images / 255) == labels.numpy()).all()


def test_unknown_names() -> None:
    """A misspelt data set or split gets the nearest name."""
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        load_dataset("digit")
    with pytest.raises(ValueError, match="did you mean 'train'"):
        digits("trian")


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence names the package and the command that installs it."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackageError, match=r"needs scikit-learn, which .*: pip install scikit-learn"):
        digits()
