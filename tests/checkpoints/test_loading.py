# SPDX-License-Identifier: Apache-2.0
"""Saved folders: round trips, refusals and failed writes; arguments that are not models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scoresde_fast.checkpoints import convert, load, save
from scoresde_fast.configs import load_config
from scoresde_fast.model import ScoreModel
from tests.support.official_checkpoints import SMALL, official_file

pytestmark = pytest.mark.same_everywhere


class TestFolder:
    """Folders of config.json and model.safetensors."""

    def test_convert_and_load(self, tmp_path: Path) -> None:
        """A converted checkpoint loads without a configuration, bit for bit; other files in the folder are ignored."""
        pth = official_file(tmp_path / "checkpoint_8.pth")
        convert(pth, tmp_path / "out", config=SMALL)
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model.safetensors"]
        (tmp_path / "out" / "LICENSE").write_text("as you like")
        ours, theirs = load(tmp_path / "out"), load(pth, config=SMALL)
        assert ours.config == theirs.config
        assert not ours.training
        torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)

    def test_huggingface_mixin(self, tmp_path: Path) -> None:
        """``save_pretrained`` writes what `load` reads, and ``from_pretrained`` reads what `save` writes."""
        model = ScoreModel(SMALL)
        save(model, tmp_path / "ours")
        model.save_pretrained(tmp_path / "theirs")
        for other in (load(tmp_path / "theirs"), ScoreModel.from_pretrained(tmp_path / "ours")):
            assert other.config == model.config
            torch.testing.assert_close(other.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_half_precision(self, tmp_path: Path) -> None:
        """Half-precision weights load as float32, and constants keep their precision in the file."""
        model = ScoreModel(SMALL)
        save(model, tmp_path, dtype=torch.float16)
        loaded = load(tmp_path)
        assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
        torch.testing.assert_close(dict(loaded.named_buffers()), dict(model.named_buffers()), rtol=0, atol=0)
        torch.testing.assert_close(
            dict(loaded.named_parameters()), dict(model.named_parameters()), rtol=1e-3, atol=1e-6
        )

    def test_another_configuration_is_not_overwritten(self, tmp_path: Path) -> None:
        """A folder is overwritten only with the same configuration; the message names the difference."""
        save(ScoreModel(SMALL), tmp_path)
        save(ScoreModel(SMALL), tmp_path)
        with pytest.raises(ValueError, match=r"training\.sde is 'vesde' there and 'vpsde' here"):
            save(ScoreModel({**SMALL, "training": {"sde": "vpsde"}}), tmp_path)

    def test_failed_write_leaves_the_old_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the disk is full, the old model stays intact and no partial file is left."""
        save(ScoreModel(SMALL), tmp_path)
        before = load(tmp_path).state_dict()

        def full_disk(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("scoresde_fast.files.os.fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save(ScoreModel(SMALL), tmp_path)
        torch.testing.assert_close(load(tmp_path).state_dict(), before, rtol=0, atol=0)
        assert len(list(tmp_path.iterdir())) == 2

    def test_corrupt_folders(self, tmp_path: Path) -> None:
        """Missing files, corrupt weights, weights of another configuration and an unknown section are refused."""
        with pytest.raises(FileNotFoundError, match=r"needs the files config\.json and model\.safetensors"):
            load(tmp_path)
        save(ScoreModel(SMALL), tmp_path)
        config, weights = tmp_path / "config.json", tmp_path / "model.safetensors"
        options, whole = json.loads(config.read_text()), weights.read_bytes()
        weights.write_bytes(whole[:-100])
        with pytest.raises(ValueError, match=r"model\.safetensors' is not a safetensors file, or is truncated"):
            load(tmp_path)
        weights.write_bytes(whole)
        config.write_text(json.dumps({**options, "data": {**options["data"], "num_channels": 1}}))
        with pytest.raises(ValueError, match=r"does not fit the config\.json beside it \(misshapen: .*\[8, 1, 3, 3\]"):
            load(tmp_path)
        config.write_text(json.dumps({**options, "modle": {}}))
        with pytest.raises(ValueError, match=r"config\.json': unknown section"):
            load(tmp_path)

    def test_given_configuration(self, tmp_path: Path) -> None:
        """``config`` may be given for a folder only if it equals the folder's configuration."""
        save(ScoreModel(SMALL), tmp_path)
        assert load(tmp_path, config=SMALL).config == load_config(SMALL)
        with pytest.raises(ValueError, match="contains its configuration"):
            load(tmp_path, config="ve/cifar10_ncsnpp")


class TestNames:
    """Arguments that are neither a file nor a folder."""

    def test_unknown_name(self) -> None:
        """An unknown name is refused."""
        with pytest.raises(ValueError, match="unknown model 'digits-vex'"):
            load("digits-vex")

    def test_missing_path(self) -> None:
        """A missing path is distinguished from a misspelt name."""
        with pytest.raises(FileNotFoundError, match="checkpoint file or folder 'runs/best' does not exist"):
            load("runs/best")

    def test_preset(self) -> None:
        """A preset is refused, because it is not a trained model; the message suggests `create`."""
        with pytest.raises(ValueError, match="is a preset, which has no weights; create"):
            load("ve/cifar10_ncsnpp_continuous")
