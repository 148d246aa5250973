# SPDX-License-Identifier: Apache-2.0
"""How good a set of images is, by recognised digits and a Frechet distance; how likely, in bits per dimension."""

from scoresde_fast.evaluation.features import extract_features
from scoresde_fast.evaluation.frechet import frechet_distance, gaussian_distance
from scoresde_fast.evaluation.likelihood import bits_per_dimension, position_log_density_bound
from scoresde_fast.evaluation.recognise import Recogniser, Recognition

__all__ = [
    "Recogniser",
    "Recognition",
    "bits_per_dimension",
    "extract_features",
    "frechet_distance",
    "gaussian_distance",
    "position_log_density_bound",
]
