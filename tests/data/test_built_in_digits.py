# SPDX-License-Identifier: Apache-2.0
"""The digits data set: shapes, values, splits, and hues."""

from __future__ import annotations

import sys

import pytest
import torch

pytest.importorskip("sklearn")

from scoresde_fast.data import digits, load_dataset
from scoresde_fast.errors import MissingPackageError
from scoresde_fast.evaluation.recognise import tint_class


def test_shapes_and_values() -> None:
    """There are 1 797 colour images of 16x16 in all classes, with values from 0 to 255."""
    images, labels = digits()
    assert images.shape == (1797, 3, 16, 16) and images.dtype == torch.uint8
    assert labels.bincount().min() >= 170 and len(labels.bincount()) == 10
    assert images.amin() == 0 and images.amax() == 255


def test_deterministic() -> None:
    """The pixels equal the training data of the embedded models, up to rounding."""
    images = digits()[0]
    assert torch.equal(images, digits()[0])
    assert images.double().mean().item() == pytest.approx(49.9022, abs=1e-3)
    assert images[0, :, 8, 4].tolist() == [139, 38, 35]


def test_splits_are_a_partition() -> None:
    """Train and test are disjoint and together complete, with a fifth of every class in the test split."""
    (all_images, _), (train, train_labels), (test, test_labels) = digits("all"), digits("train"), digits("test")
    assert len(train) + len(test) == len(all_images)
    assert not {image.numpy().tobytes() for image in train} & {image.numpy().tobytes() for image in test}
    assert (test_labels.bincount() / (train_labels.bincount() + test_labels.bincount())).sub(0.2).abs().max() < 0.01


def test_hue_identifies_the_class() -> None:
    """For every image, the hue of its mean colour is nearest to the hue of its class."""
    images, labels = digits()
    assert (tint_class(images / 255) == labels.numpy()).all()


def test_unknown_names() -> None:
    """The message for a misspelt data set or split suggests the nearest name."""
    with pytest.raises(ValueError, match="did you mean 'digits'"):
        load_dataset("digit")
    with pytest.raises(ValueError, match="did you mean 'train'"):
        digits("trian")


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the package and the command that installs it."""
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(MissingPackageError, match=r"needs scikit-learn to .*: pip install scikit-learn"):
        digits()
