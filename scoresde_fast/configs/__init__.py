# SPDX-License-Identifier: Apache-2.0
"""Configurations: typed sections in the official form, and the official presets. Knows no tensor."""

from scoresde_fast.configs.presets import ConfigLike, load_config, preset_names
from scoresde_fast.configs.schema import (
    Config,
    DataConfig,
    ModelConfig,
    OptimConfig,
    SamplingConfig,
    TrainingConfig,
)

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
