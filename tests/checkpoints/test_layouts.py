# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as people have them: keys, prefixes, averages by name, safetensors and shards; weights of no use."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from scoresde_fast.checkpoints import load, read_official, save
from scoresde_fast.checkpoints.official import official_weights
from scoresde_fast.model import ScoreModel, create
from tests.support.official_checkpoints import SMALL, SMALL_VP, first_weight, official_file

pytestmark = pytest.mark.same_everywhere


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """Return the raw weights of a small model by official name."""
    torch.manual_seed(1)
    return {name: weight.detach() for name, weight in official_weights(create(SMALL).network).items()}


@cache
def trainable() -> set[str]:
    return {name for name, weight in official_weights(create(SMALL).network).items() if weight.requires_grad}


def plus_one(weights: dict[str, Tensor], *, constants: bool) -> dict[str, Tensor]:
    """Return averages by name that differ from the raw weights by 1, with or without the weights that do not train."""
    names = trainable()
    averages = {name: weight + (name in names) for name, weight in weights.items()}
    return averages if constants else {name: averages[name] for name in names}


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "model.", "_orig_mod.module.", "model.module.", "module._orig_mod.net."]
)
@pytest.mark.parametrize("key", [None, "model", "state_dict", "model_state_dict"])
def test_raw_weights(weights: dict[str, Tensor], prefix: str, key: str | None, tmp_path: Path) -> None:
    """A state dict loads by itself, and under a key with ``ema=False``; prefixes of wrappers are removed.

    A training without averages does not load as if its raw weights were averaged ones.
    """
    path, state = tmp_path / "raw.pth", prefixed(weights, prefix)
    torch.save(state if key is None else {key: state, "step": 3}, path)
    loaded = load(path, config=SMALL, ema=False)
    torch.testing.assert_close(first_weight(loaded), first_weight_of(weights), rtol=0, atol=0)
    if key is None:
        torch.testing.assert_close(load(path, config=SMALL).state_dict(), loaded.state_dict(), rtol=0, atol=0)
    else:
        with pytest.raises(ValueError, match=r"has no averaged weights; ema=False \(on the command line --raw\)"):
            load(path, config=SMALL)


def first_weight_of(weights: dict[str, Tensor]) -> Tensor:
    names = trainable()
    return next(weight for name, weight in weights.items() if name in names)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(lambda raw, named: {"model": raw, "ema": named}, id="ema"),
        pytest.param(lambda raw, named: {"model": raw, "ema": {"decay": 0.9, "shadow": named}}, id="shadow"),
        pytest.param(lambda raw, named: {"state_dict": raw, "state_dict_ema": prefixed(named, "module.")}, id="timm"),
        pytest.param(lambda raw, named: {"net": raw, "model_ema": {"state_dict": named}}, id="nested"),
        pytest.param(
            lambda raw, named: {
                "model": raw,
                "ema_model": {**prefixed(named, "module."), "n_averaged": torch.tensor(3)},
            },
            id="torch.optim.swa_utils",
        ),
        pytest.param(lambda raw, named: {"model": raw, "ema": [named[n] for n in raw if n in trainable()]}, id="list"),
    ],
)
def test_averages_by_name(weights: dict[str, Tensor], layout: Any, tmp_path: Path) -> None:
    """Averages by name load in place of the raw weights, also if they lack the weights that do not train."""
    path = tmp_path / "averaged.pth"
    for constants in (True, False):
        torch.save(layout(weights, plus_one(weights, constants=constants)), path)
        raw, averaged = (load(path, config=SMALL, ema=ema) for ema in (False, True))
        torch.testing.assert_close(first_weight(averaged), first_weight(raw) + 1)
        sigmas = [model.get_buffer("network.sigmas") for model in (raw, averaged)]
        torch.testing.assert_close(sigmas[1], sigmas[0], rtol=0, atol=0)


def test_averages_that_do_not_fit(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """Averages that lack a weight or have another shape are refused by name; averages alone have no raw weights."""
    path, averages = tmp_path / "averaged.pth", plus_one(weights, constants=True)
    name = sorted(trainable())[0]
    del averages[name]
    torch.save({"model": weights, "ema": averages}, path)
    with pytest.raises(ValueError, match=rf"the averaged weights of .* do not fit \(missing: {name}\)"):
        load(path, config=SMALL)
    torch.save({"ema": {**averages, name: torch.zeros(7)}}, path)
    with pytest.raises(ValueError, match=rf"misshapen: {name} is \[7\]"):
        load(path, config=SMALL)
    torch.save({"ema": plus_one(weights, constants=True)}, path)
    assert not load(path, config=SMALL).training
    with pytest.raises(ValueError, match="has averaged weights alone; leave out ema=False"):
        load(path, config=SMALL, ema=False)


def test_names_of_this_package(tmp_path: Path) -> None:
    """The state dict of one of our models or networks loads as official names do."""
    model = create(SMALL)
    for name, module in (("model", model), ("network", nn.DataParallel(model.network))):
        torch.save(module.state_dict(), tmp_path / name)
        loaded = load(tmp_path / name, config=SMALL)
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param({f"layer{i}.weight": torch.zeros(2) for i in range(500)}, id="another state dict"),
        pytest.param({f"key{i}": i for i in range(500)}, id="numbers"),
        pytest.param({"x" * 100_000: torch.zeros(2), "a\nb": torch.zeros(2)}, id="wild names"),
    ],
)
@pytest.mark.parametrize("config", [SMALL, None])
def test_messages_are_short(content: dict[str, Any], config: Any, tmp_path: Path) -> None:
    """Of long lists of names, a message gives five and counts the others."""
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(ValueError) as error:
        load(path, config=config)
    message = str(error.value).replace(str(path), "")
    assert len(message) < 700 and "\n" not in message
    if "key0" in content:
        assert "'key0', 'key1', 'key2', 'key3', 'key4' and 495 more" in message


def split(folder: Path, index: dict[str, Any] | None = None) -> ScoreModel:
    """Save a model, and split its weights into two files with an index, or with the index given."""
    model = create(SMALL_VP)
    save(model, folder)
    (folder / "model.safetensors").unlink()
    names = sorted(model.state_dict())
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: model.state_dict()[name].contiguous() for name in part}, folder / file)
    places = {"weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(places if index is None else index))
    return model


def test_sharded_safetensors(tmp_path: Path) -> None:
    """A folder whose weights are in several files with an index loads, as do its index and its files by path."""
    model = split(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    save_file({name: weight.contiguous() for name, weight in model.state_dict().items()}, tmp_path / "all.safetensors")
    for loaded in (load(tmp_path), load(index, config=SMALL_VP), load(tmp_path / "all.safetensors", config=SMALL_VP)):
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"names files that do not exist beside it: model-00002-of-00002"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"weight_map": {"a": "../secret.safetensors"}},
            r"places a weight in '\.\./secret\.safetensors'; .* only name",
        ),
        ({"weight_map": {"a": "/etc/passwd"}}, "places a weight in '/etc/passwd'"),
        ({"weight_map": {"a": 3}}, "places a weight in 3"),
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, "does not fit 'model-00001.*lacks the weights a"),
        ({"weight_map": {}}, "has no 'weight_map'"),
        ([], "has no 'weight_map'"),
    ],
)
def test_wrong_index(index: Any, message: str, tmp_path: Path) -> None:
    """An index names only files beside it, which have its weights."""
    split(tmp_path, index)
    with pytest.raises(ValueError, match=message):
        load(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weight: weight * torch.nan, "has NaN, infinite or too large values in the weight"),
        (lambda weight: weight.double() * 0 + 1e300, "has NaN, infinite or too large values in the weight"),
        (lambda weight: weight.to(torch.int64), "which is int64; weights must be dense"),
        (lambda weight: weight > 0, "which is bool; weights must be dense"),
        (lambda weight: weight.to(torch.complex64), "which is complex64; weights must be dense"),
        (lambda weight: weight.to("meta"), "which is without values; weights must be dense"),
    ],
    ids=["NaN", "1e300", "int64", "bool", "complex", "meta"],
)
def test_weights_that_are_no_numbers(
    weights: dict[str, Tensor], change: Any, message: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Weights that are not dense finite floating-point numbers are refused by name: raw, averaged, and saved ones."""
    path, names = tmp_path / "other.pth", trainable()
    changed = {name: change(weight) if name in names else weight for name, weight in weights.items()}
    torch.save({"model": changed, "ema": weights}, path)
    assert not load(path, config=SMALL).training  # the averages are sound
    with pytest.raises(ValueError, match=message):
        load(path, config=SMALL, ema=False)
    torch.save(
        {"model": weights, "ema": {"shadow_params": [weight for name, weight in changed.items() if name in names]}},
        path,
    )
    with pytest.raises(ValueError, match=message):
        load(path, config=SMALL)
    if "without values" not in message:
        save(create(SMALL), tmp_path / "folder")
        file = tmp_path / "folder" / "model.safetensors"
        state = create(SMALL).state_dict()
        save_file({name: change(weight) if "stem" in name else weight for name, weight in state.items()}, file)
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "folder")
    assert not recwarn.list


def test_flipped_byte(weights: dict[str, Tensor], tmp_path: Path) -> None:
    """A byte of a weight that has changed since is found, by the checksum of the zip file."""
    path = tmp_path / "checkpoint.pth"
    torch.save(weights, path)
    content = bytearray(path.read_bytes())
    largest = max(weights.values(), key=lambda weight: weight.numel())
    content[content.index(largest.numpy().tobytes()) + 5] ^= 16
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint\.pth' cannot be read: it is damaged \(in .*data/\d+\)"):
        load(path, config=SMALL)


@pytest.mark.parametrize("extra", ["foo.bar", "module.foo"])
def test_further_weights_are_named(weights: dict[str, Tensor], extra: str, tmp_path: Path) -> None:
    """A weight that does not belong to the network is named, rather than another kind of model."""
    path = tmp_path / "checkpoint.pth"
    torch.save({**weights, extra: torch.zeros(2)}, path)
    with pytest.raises(ValueError, match=f"unexpected: {extra}"):
        load(path, config=SMALL)


def test_official_file_is_read_as_before(tmp_path: Path) -> None:
    """The layout of the official code keeps its raw weights by name and its list of averages."""
    checkpoint = read_official(official_file(tmp_path / "checkpoint_8.pth"))
    assert isinstance(checkpoint.shadow, list) and "sigmas" in checkpoint.model and not checkpoint.bare
