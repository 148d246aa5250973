# SPDX-License-Identifier: Apache-2.0
"""Score networks and classifiers; their folded forms for inference are in `scoresde_fast.networks.folding`."""

from scoresde_fast.networks.base import ScoreNetwork, official_modules
from scoresde_fast.networks.classifiers import FeatureNet, WideResNet
from scoresde_fast.networks.ddpm import DDPM
from scoresde_fast.networks.ncsnpp import NCSNpp
from scoresde_fast.networks.points import MLP, ResNet

__all__ = ["DDPM", "MLP", "FeatureNet", "NCSNpp", "ResNet", "ScoreNetwork", "WideResNet", "official_modules"]
