# SPDX-License-Identifier: Apache-2.0
"""Score networks and a classifier's: plain, float32, trainable.  They know nothing of SDEs or solvers."""

from scoresde_fast.networks.base import ScoreNetwork
from scoresde_fast.networks.ddpm import DDPM
from scoresde_fast.networks.layers import official_modules
from scoresde_fast.networks.ncsnpp import NCSNpp
from scoresde_fast.networks.points import MLP, ResNet
from scoresde_fast.networks.wide_resnet import WideResNet

__all__ = ["DDPM", "MLP", "NCSNpp", "ResNet", "ScoreNetwork", "WideResNet", "official_modules"]
