# SPDX-License-Identifier: Apache-2.0
"""Wild values of every option are refused before anything is built, and the number of weights by arithmetic."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import product
from typing import Any

import pytest
import torch

from scoresde_fast.classifier import Classifier, ClassifierConfig
from scoresde_fast.configs import Config, load_config
from scoresde_fast.configs.options import Range, option_types
from scoresde_fast.configs.schema import SamplingConfig
from scoresde_fast.configs.weights import count_classifier_weights, count_weights
from scoresde_fast.model import ScoreModel, build_network
from scoresde_fast.solvers.registry import SOLVERS
from tests.support.memory import PEAK

pytestmark = pytest.mark.same_everywhere

MINIMAL: dict[str, Any] = {"model": {"name": "ncsnpp"}, "training": {"sde": "vesde"}}
FUZZ = (
    PEAK
    + """
import json, sys, time
from dataclasses import fields
from typing import get_type_hints
from scoresde_fast.configs import Config, load_config

def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value

NEVER_VALID = {
    "1e400 as an integer": 10**400, "-1e400": -(10**400), "5000 digits": 10**5000, "1e12": 10**12, "1e308": 1e308,
    "-1e308": -1e308, "infinite": float("inf"), "NaN": float("nan"), "bytes": b"x", "object": object(),
    "mapping": {"a": 1}, "deep list": nested(100_000), "long list": [1] * 1_000_000, "lists of 1e9": [[10**9]],
    "wild items": [10**400], "NaN items": [float("nan")], "long text": "x" * 1_000_000, "complex": 1j,
}
MINIMAL = {"model": {"name": "ncsnpp"}, "training": {"sde": "vesde"}}
base = peak_megabytes()
outcomes = []
for section, cls in get_type_hints(Config).items():
    for field in fields(cls):
        for kind, value in NEVER_VALID.items():
            options = {**MINIMAL, section: {**MINIMAL.get(section, {}), field.name: value}}
            began = time.perf_counter()
            try:
                load_config(options)
                message = None
            except ValueError as error:
                message = str(error)
            outcomes.append([f"{section}.{field.name}", kind, message, time.perf_counter() - began])
print(json.dumps([outcomes, peak_megabytes() - base, "torch" in sys.modules]))
"""
)


def test_wild_values_of_every_option_are_refused() -> None:
    """18 wild values of every option are refused in one short sentence that names it, in little time and memory.

    A process without PyTorch proves that nothing is built.
    """
    run = subprocess.run([sys.executable, "-c", FUZZ], capture_output=True, text=True, check=True)
    outcomes, megabytes, has_torch = json.loads(run.stdout)
    assert len(outcomes) > 900 and not has_torch
    for name, kind, message, seconds in outcomes:
        assert message is not None, f"{name} accepts {kind}"
        assert name in message and "\n" not in message and len(message) < 400, (name, kind, message)
        assert seconds < 1, (name, kind, seconds)
    assert megabytes < 200


@pytest.mark.parametrize(
    ("section", "options", "message"),
    [
        ("model", {"nf": 10**9}, r"model\.nf is 1000000000; it must be from 1 to 8192"),
        ("model", {"nf": 2}, r"model\.nf is 2; networks for images need at least 4 channels"),
        ("model", {"ch_mult": [10**9]}, r"model\.ch_mult is 1000000000; it must be from 1 to 256"),
        ("model", {"num_scales": 10**12}, r"model\.num_scales is 1000000000000; it must be from 0 to 1000000"),
        ("model", {"sigma_max": 10**400}, r"model\.sigma_max is about 10\*\*400; it must be from 1e-08 to 1000000"),
        ("model", {"num_res_blocks": 10**9}, r"num_res_blocks is 1000000000; it must be from 1 to 64"),
        ("model", {"fir_kernel": [1e308, 1e308]}, r"fir_kernel is 1e\+308; it must be from 1e-06 to 1000000"),
        ("model", {"nf": 8192}, r"the network of this configuration has \S+ weights; at most 1e\+09 are allowed"),
        ("sampling", {"eps": 5.0}, r"sampling\.eps is 5\.0; it must be at least 1e-10 and below 1"),
        ("sampling", {"order": 99}, r"sampling\.order is 99; it must be from 1 to 4"),
    ],
)
def test_wild_values_reach_no_network(
    section: str, options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ScoreModel` refuses wild values before it builds a network, and says what is allowed."""
    monkeypatch.setattr("scoresde_fast.model.build_network", pytest.fail)
    with pytest.raises(ValueError, match=message):
        ScoreModel({**MINIMAL, section: {**MINIMAL.get(section, {}), **options}})


def test_ranges_hold_for_sections_made_in_python() -> None:
    """A section made without `load_config` has the same ranges and the same types."""
    with pytest.raises(ValueError, match=r"sampling\.order is 99"):
        SamplingConfig(order=99)
    assert isinstance(SamplingConfig(snr=1).snr, float)
    with pytest.raises(ValueError, match=r"classifier\.widths is 1000000; it must be from 4 to 8192"):
        ClassifierConfig((3, 8, 8), ("a", "b"), 0.1, 1.0, widths=(10**6,))


def test_orders_are_those_of_the_solvers() -> None:
    """The range of ``sampling.order`` is that of the orders which solvers let users choose."""
    orders = [order for entry in SOLVERS.values() if len(entry.orders) > 1 for order in entry.orders]
    assert Range(min(orders), max(orders)) in option_types(SamplingConfig)["order"].__metadata__


def count(config: Config) -> int:
    with torch.device("meta"):
        return sum(weight.numel() for weight in build_network(config).parameters())


@pytest.mark.parametrize(
    "preset",
    ["ve/ffhq_ncsnpp_continuous", "subvp/cifar10_ddpmpp_continuous", "vp/ddpm/cifar10", "cld_cifar10", "cld_toy"],
)
def test_weights_of_presets(preset: str) -> None:
    """The arithmetic gives the number of weights that the network of a preset has."""
    config = load_config(preset)
    assert count_weights(config) == count(config)


@pytest.mark.parametrize("name", ["ncsnpp", "ddpm"])
def test_weights_of_every_architecture(name: str) -> None:
    """The arithmetic agrees with the built network for each option that adds or removes layers."""
    choices: dict[str, list[Any]] = {
        "resblock_type": ["ddpm", "biggan"],
        "progressive": ["none", "output_skip", "residual"],
        "progressive_input": ["none", "input_skip", "residual"],
        "progressive_combine": ["sum", "cat"],
        "conditional": [True, False],
    }
    for index, values in enumerate(product(*choices.values()) if name == "ncsnpp" else [("biggan", *["none"] * 2)]):
        # The options without interaction alternate.
        others = {"embedding_type": ["fourier", "positional"][index % 2], "resamp_with_conv": index % 3 > 0}
        model = {
            "name": name,
            "nf": 32,
            "ch_mult": [2, 1],
            "num_res_blocks": 1,
            "attn_resolutions": [8 if index % 2 else 4],
        }
        options = {**model, **others, **dict(zip(choices, values, strict=False))}
        config = load_config({"model": options, "training": {"sde": "vpsde"}, "data": {"image_size": 8}})
        assert count_weights(config) == count(config), options


def test_weights_of_a_classifier() -> None:
    """The arithmetic agrees with a built classifier."""
    config = ClassifierConfig((3, 16, 8), ("a", "b", "c"), 0.1, 1.0, widths=(8, 16), num_res_blocks=2)
    weights = sum(weight.numel() for weight in Classifier(config).parameters())
    assert count_classifier_weights(config.image_shape, config.widths, 2, 3) == weights
