# SPDX-License-Identifier: Apache-2.0
"""Readers for images and points, and the built-in data sets."""

from scoresde_fast.data.built_in import DATASETS, POINT_SETS, digits, load_dataset

__all__ = ["DATASETS", "POINT_SETS", "digits", "load_dataset"]
