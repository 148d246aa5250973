# SPDX-License-Identifier: Apache-2.0
"""Score networks: plain, float32, trainable.  ``network(x, labels)`` knows nothing of SDEs or solvers."""

from scoresde_fast.networks.base import ScoreNetwork
from scoresde_fast.networks.ddpm import DDPM
from scoresde_fast.networks.layers import official_modules
from scoresde_fast.networks.ncsnpp import NCSNpp
from scoresde_fast.networks.points import MLP, ResNet

__all__ = ["DDPM", "MLP", "NCSNpp", "ResNet", "ScoreNetwork", "official_modules"]
