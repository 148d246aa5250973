# SPDX-License-Identifier: Apache-2.0
"""Trained models on disk: official checkpoints, saved folders, the embedded models, and classifiers."""

from scoresde_fast.checkpoints.classifiers import load_classifier, save_classifier
from scoresde_fast.checkpoints.fitting import fitting_presets
from scoresde_fast.checkpoints.folder import save
from scoresde_fast.checkpoints.loading import convert, embedded_classifiers, embedded_names, load
from scoresde_fast.checkpoints.official import OfficialCheckpoint, load_official, read_official

__all__ = [
    "OfficialCheckpoint",
    "convert",
    "embedded_classifiers",
    "embedded_names",
    "fitting_presets",
    "load",
    "load_classifier",
    "load_official",
    "read_official",
    "save",
    "save_classifier",
]
