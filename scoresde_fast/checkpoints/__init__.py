# SPDX-License-Identifier: Apache-2.0
"""Loading and saving of trained models and classifiers, and official checkpoints."""

from scoresde_fast.checkpoints.loading import (
    convert,
    embedded_classifiers,
    embedded_names,
    load,
    load_classifier,
    save,
    save_classifier,
)
from scoresde_fast.checkpoints.official import OfficialCheckpoint, copy_official, fitting_presets, read_official

__all__ = [
    "OfficialCheckpoint",
    "convert",
    "copy_official",
    "embedded_classifiers",
    "embedded_names",
    "fitting_presets",
    "load",
    "load_classifier",
    "read_official",
    "save",
    "save_classifier",
]
