# SPDX-License-Identifier: Apache-2.0
"""The identity of a network's code changes with everything in the user's modules that `forward` uses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scoresde_fast.checkpoints.python_models import load_model
from scoresde_fast.model import describe_model

NETWORK = """
import functools
from types import SimpleNamespace
import scoresde_fast as sf
import own_helpers
from own_helpers import shift
from torch import nn

FACTOR = 1.0
TABLE = {"a": (1, 2)}
OPTIONS = SimpleNamespace(bias=0.5)


class Scale:
    power = 1

    def __call__(self, v):
        return v**self.power


def helper(v):
    # a comment
    return v * FACTOR + TABLE["a"][0]


def decorated(function):
    @functools.wraps(function)
    def wrapper(*args):
        return function(*args) * 2.5
    return wrapper


class Network(nn.Module):
    def __init__(self, gain=1.0):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 3, padding=1)
        self.gain, self.function, self.scale = gain, functools.partial(own_helpers.power, p=1), Scale()
        self.cache = {}

    @decorated
    def forward(self, x, t):
        self.cache[len(x)] = x
        y = self.scale(self.function(self.layer(x)))
        return helper(own_helpers.act(y)) * self.gain + shift(x) + OPTIONS.bias


def model():
    network = Network()
    nn.init.zeros_(network.layer.weight)
    nn.init.zeros_(network.layer.bias)
    return sf.wrap(network, sf.Betas.cosine(1000), prediction="epsilon", shape=(1, 8, 8))
"""
HELPERS = """
SCALE = 1.0


def act(v):
    return v.relu() * SCALE


def shift(v):
    return v + 0.25


def power(v, p):
    return v**p
"""
Identity = Callable[[str, str], str]


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    """Return a function from the texts of the two modules to the identity of the network's code."""

    def identity(network: str, helpers: str) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "net.py").write_text(network)
        (folder / "own_helpers.py").write_text(helpers)
        sys.modules.pop("own_helpers", None)
        sys.path.insert(0, str(folder))
        try:
            digest = describe_model(load_model(f"{folder / 'net.py'}:model"))["code_sha256"]
        finally:
            sys.path.remove(str(folder))
            sys.modules.pop("own_helpers", None)
        assert isinstance(digest, str)
        return digest

    return identity


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("gain=1.0", "gain=3.0"),
        ("FACTOR = 1.0", "FACTOR = 5.0"),
        ('"a": (1, 2)', '"a": (3, 2)'),
        ("bias=0.5", "bias=0.75"),
        ("return v * FACTOR", "return -v * FACTOR"),
        ("v.relu()", "v.tanh()"),
        ("SCALE = 1.0", "SCALE = 5.0"),
        ("v + 0.25", "v - 0.25"),
        ("power, p=1", "power, p=2"),
        ("power = 1", "power = 2"),
        ("v**p", "v**-p"),
        ("* 2.5", "* 1.5"),
    ],
)
def test_every_change_is_seen(identity: Identity, before: str, after: str) -> None:
    """An attribute, a constant, a helper, an imported one, a partial or a decorator makes it another network."""
    changed = NETWORK.replace(before, after), HELPERS.replace(before, after)
    assert changed != (NETWORK, HELPERS)
    assert identity(*changed) != identity(NETWORK, HELPERS)


def test_same_code(identity: Identity) -> None:
    """Comments, the folder and what the network keeps in a dictionary do not count."""
    assert identity(NETWORK.replace("# a comment", "# another"), HELPERS + "\n\nUNUSED = 3\n") == identity(
        NETWORK, HELPERS
    )
