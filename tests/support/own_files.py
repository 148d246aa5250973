# SPDX-License-Identifier: Apache-2.0
"""Python files with models, as users name them on the command line."""

from __future__ import annotations

import sys
from pathlib import Path

NETWORK = """
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

import scoresde_fast as sf
from neighbour import labels_of


@dataclass
class Size:
    classes: int = 11


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 3, 3, padding=1)
        self.label = nn.Embedding(Size().classes, 4)

    def forward(self, x, t, y):
        return self.last(self.first(x).tanh() + self.label(y)[:, :, None, None])


class Plain(Net):
    def forward(self, x, t):
        return super().forward(x, t, labels_of(x))


def model():
    return sf.wrap(Net(), sf.Betas.linear(), prediction="epsilon", shape=(3, 8, 8))


def plain():
    return sf.wrap(Plain(), sf.Betas.linear(), prediction="epsilon", shape=(3, 8, 8))


def needs(a, *, b, c=3): ...


def nothing(): ...


def broken():
    return {}["key"]


ready = plain()
network = Net()
number = 3
"""
NEIGHBOUR = "import torch\n\n\ndef labels_of(x):\n    return torch.zeros(len(x), dtype=torch.int64)\n"


def write_own(folder: Path) -> Path:
    """Write ``mynet.py`` and a module beside it, which it imports, to ``folder``, and return its path."""
    for stem, code in (("neighbour", NEIGHBOUR), ("mynet", NETWORK)):
        sys.modules.pop(stem, None)  # of another test's folder
        (folder / f"{stem}.py").write_text(code)
    return folder / "mynet.py"
