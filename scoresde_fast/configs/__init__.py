# SPDX-License-Identifier: Apache-2.0
"""Configurations compatible with the official ones: typed sections, presets, and loading. Imports no torch."""

from scoresde_fast.configs.loading import ConfigLike, load_config, preset_names
from scoresde_fast.configs.schema import Config, DataConfig, ModelConfig, OptimConfig, SamplingConfig, TrainingConfig

__all__ = [
    "Config",
    "ConfigLike",
    "DataConfig",
    "ModelConfig",
    "OptimConfig",
    "SamplingConfig",
    "TrainingConfig",
    "load_config",
    "preset_names",
]
