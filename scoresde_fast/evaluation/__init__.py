# SPDX-License-Identifier: Apache-2.0
"""Evaluation: metrics of images (FID, KID, Inception score, precision, recall, digits), losses, and likelihoods."""

from scoresde_fast.evaluation.collect import SampledImages
from scoresde_fast.evaluation.extractors import Extractor, extract_features, load_extractor
from scoresde_fast.evaluation.frechet import frechet_distance, gaussian_distance
from scoresde_fast.evaluation.loss import DataSetLoss, data_set_loss
from scoresde_fast.evaluation.metrics import MetricSettings
from scoresde_fast.evaluation.recognise import Recogniser, Recognition
from scoresde_fast.evaluation.run import Evaluation, evaluate
from scoresde_fast.flow.likelihood import bits_per_dimension, position_log_density_bound

__all__ = [
    "DataSetLoss",
    "Evaluation",
    "Extractor",
    "MetricSettings",
    "Recogniser",
    "Recognition",
    "SampledImages",
    "bits_per_dimension",
    "data_set_loss",
    "evaluate",
    "extract_features",
    "frechet_distance",
    "gaussian_distance",
    "load_extractor",
    "position_log_density_bound",
]
