# SPDX-License-Identifier: Apache-2.0
"""How good a set of images is: recognised digits, and a Frechet distance."""

from scoresde_fast.evaluation.features import extract_features
from scoresde_fast.evaluation.frechet import frechet_distance, gaussian_distance
from scoresde_fast.evaluation.recognise import Recogniser, Recognition

__all__ = ["Recogniser", "Recognition", "extract_features", "frechet_distance", "gaussian_distance"]
