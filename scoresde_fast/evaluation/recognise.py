# SPDX-License-Identifier: Apache-2.0
"""Recognition of tinted digits: a support vector classifier for the shape, and the class of the tint."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from scoresde_fast.data import digits
from scoresde_fast.data.built_in import DIGITS_CLASSES

CONFIDENT = 0.5
"""Probability from which a digit counts as recognised."""


@dataclass(frozen=True)
class Recognition:
    """Recognition rates of a set of images.

    Attributes:
        recognised: fraction of images with a class of probability 0.5 or more.
        class_shares: fraction of images in each class, by the most probable class.
        tint_matches: fraction of images with the hue of their most probable class.
    """

    recognised: float
    class_shares: tuple[float, ...]
    tint_matches: float


class Recogniser:
    """An SVC with a radial kernel and calibrated probabilities, fitted to the gray digits of the training split."""

    def __init__(self) -> None:
        from sklearn.calibration import CalibratedClassifierCV
        from sklearn.svm import SVC

        images, labels = digits("train")
        self._classifier = CalibratedClassifierCV(SVC(), ensemble=False).fit(gray(images / 255), labels.numpy())

    def classes(self, images: Tensor) -> npt.NDArray[np.int64]:
        """Return the class (N,) of images (N, 3, 16, 16) in [0, 1]."""
        classes: npt.NDArray[np.int64] = self._classifier.predict(gray(images))
        return classes

    def report(self, images: Tensor) -> Recognition:
        """Return the recognition rates of images (N, 3, 16, 16) in [0, 1]."""
        probabilities = self._classifier.predict_proba(gray(images))
        classes = probabilities.argmax(1)
        shares = np.bincount(classes, minlength=DIGITS_CLASSES) / len(images)
        return Recognition(
            float((probabilities.max(1) >= CONFIDENT).mean()),
            tuple(float(share) for share in shares),
            float((tint_class(images) == classes).mean()),
        )

    def held_out(self) -> tuple[float, Recognition]:
        """Return the accuracy and the report on the real held-out digits, as a baseline."""
        images, labels = digits("test")
        correct = self.classes(images / 255) == labels.numpy()
        return float(correct.mean()), self.report(images / 255)


def gray(images: Tensor) -> npt.NDArray[np.float64]:
    """Return images (N, 3, H, W) without tint, as (N, H W): the largest channel of each pixel."""
    return images.amax(1).flatten(1).double().cpu().numpy()


def tint_class(images: Tensor) -> npt.NDArray[np.int64]:
    """Return the class (N,) with the hue nearest to that of the image's mean colour."""
    red, green, blue = images.double().mean((2, 3)).unbind(1)
    hue = torch.atan2(3**0.5 * (green - blue), 2 * red - green - blue) / (2 * torch.pi)
    return ((hue * DIGITS_CLASSES).round().long() % DIGITS_CLASSES).cpu().numpy()
