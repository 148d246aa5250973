# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: official files are read safely and strictly, folders round trip, nothing wrong loads in silence."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.checkpoints import OfficialCheckpoint, convert, fitting_presets, load, read_official, save
from scoresde_fast.checkpoints.official import copy_official
from scoresde_fast.checkpoints.weights import official_weights
from scoresde_fast.configs import load_config
from scoresde_fast.model import ScoreModel, build_network

pytestmark = pytest.mark.same_everywhere

SMALL: dict[str, Any] = {
    "data": {"image_size": 8},
    "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4]},
    "training": {"sde": "vesde"},
}
SMALL_CLD: dict[str, Any] = {
    "data": {"image_size": 8, "centered": True},
    "model": {**SMALL["model"], "num_scales": 0, "mixed_score": True},
    "training": {"sde": "cld"},
}
SMALL_VP: dict[str, Any] = {**SMALL_CLD, "training": {"sde": "vpsde"}}


def official_file(path: Path, config: dict[str, Any] = SMALL, **changes: Any) -> Path:
    """A checkpoint of fresh weights in the official layout; the averaged ones are the raw ones plus 1."""
    torch.manual_seed(0)
    weights = official_weights(ScoreModel(config).network)
    content = {
        "optimizer": {"param_groups": [{"lr": 2e-4}]},
        "model": {f"module.{w.name}": w.tensor.detach() for w in weights},
        "ema": {
            "decay": 0.999,
            "num_updates": 7,
            "shadow_params": [w.tensor.detach() + 1 for w in weights if w.trainable],
        },
        "step": 7,
    }
    torch.save(content | changes, path)
    return path


def preset_weights(preset: str) -> dict[str, torch.Tensor]:
    """The weights of a preset's network by official name, without memory; only its noise levels have values."""
    config = load_config(preset)
    with torch.device("meta"):
        weights = {weight.name: weight.tensor for weight in official_weights(build_network(config))}
    model = config.model
    if model.num_scales:
        weights["sigmas"] = torch.linspace(np.log(model.sigma_max), np.log(model.sigma_min), model.num_scales).exp()
    return weights


def first_weight(model: ScoreModel) -> torch.Tensor:
    return next(weight.tensor for weight in official_weights(model.network) if weight.trainable).detach()


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    return official_file(tmp_path / "checkpoint_8.pth")


class TestOfficial:
    """Files in the layout of the original program."""

    def test_raw_and_averaged_weights(self, pth: Path) -> None:
        """``ema`` chooses between the two sets; the model comes in evaluation mode."""
        raw, averaged = (load(pth, config=SMALL, ema=ema) for ema in (False, True))
        torch.testing.assert_close(first_weight(averaged), first_weight(raw) + 1)
        assert not raw.training
        assert not averaged.training

    def test_names_without_data_parallel(self, tmp_path: Path, pth: Path) -> None:
        """Weights saved without the "module." prefix are read alike."""
        bare = {f"{name}": tensor for name, tensor in read_official(pth).model.items()}
        plain = load(official_file(tmp_path / "plain.pth", model=bare), config=SMALL)
        torch.testing.assert_close(first_weight(plain), first_weight(load(pth, config=SMALL)))

    @pytest.mark.parametrize("module", ["numpy._core", "numpy.core"], ids=["numpy 2", "numpy 1"])
    def test_numpy_learning_rate(self, tmp_path: Path, module: str) -> None:
        """The numpy number that the original's warm-up leaves in the optimizer does not make a file unreadable."""
        optimizer = {"param_groups": [{"lr": np.float64(2e-4) * np.minimum(7 / 5000, 1.0)}]}
        ours, theirs = official_file(tmp_path / "ours.pth", optimizer=optimizer), tmp_path / "theirs.pth"
        with zipfile.ZipFile(ours) as source, zipfile.ZipFile(theirs, "w") as target:
            for name in source.namelist():
                target.writestr(name, source.read(name).replace(b"numpy._core", module.encode()))
        assert not load(theirs, config=SMALL).training

    def test_without_a_configuration(self, pth: Path) -> None:
        """Without ``config`` the sentence says what to give."""
        with pytest.raises(ValueError, match="does not contain its configuration; no preset fits its weights"):
            load(pth)

    def test_every_misfit_is_named(self, pth: Path) -> None:
        """Missing, unexpected and misshapen weights are named with their shapes."""
        deeper = {**SMALL, "model": {**SMALL["model"], "num_res_blocks": 2}}
        wider = {**SMALL, "model": {**SMALL["model"], "nf": 16}}
        with pytest.raises(ValueError, match=r"missing: all_modules\.\S+, .* and \d+ more; .*it fits no preset"):
            load(pth, config=deeper)
        with pytest.raises(ValueError, match=r"misshapen: all_modules\.0\.W is \[8\], not \[16\]"):
            load(pth, config=wider)
        official_file(pth, model={**read_official(pth).model, "extra.weight": torch.zeros(1)})
        with pytest.raises(ValueError, match=r"\(unexpected: extra\.weight\)"):
            load(pth, config=SMALL)

    def test_noise_levels_of_another_model(self, pth: Path) -> None:
        """A checkpoint whose shapes fit but whose sigmas are another model's is refused."""
        other = {**SMALL, "model": {**SMALL["model"], "sigma_max": 348}}
        with pytest.raises(ValueError, match=r"noise levels run from 0\.01 to 50, .* from 0\.01 to 348"):
            load(pth, config=other)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            pytest.param(lambda shadow: shadow[:-1], "averaged weights for .* trainable ones", id="short"),
            pytest.param(lambda shadow: shadow[::-1], "averaged weights of .* do not fit", id="reversed"),
        ],
    )
    def test_averaged_weights_that_do_not_fit(self, tmp_path: Path, pth: Path, change: Any, sentence: str) -> None:
        """The positional EMA list is checked in length and in every shape; the raw weights can be loaded still."""
        wrong = official_file(tmp_path / "wrong.pth", ema={"shadow_params": change(read_official(pth).shadow)})
        with pytest.raises(ValueError, match=sentence):
            load(wrong, config=SMALL)
        assert not load(wrong, config=SMALL, ema=False).training

    def test_files_that_are_no_checkpoint(self, tmp_path: Path, pth: Path) -> None:
        """Missing, empty, truncated and foreign files get one sentence each, with the path."""
        with pytest.raises(FileNotFoundError, match=r"no checkpoint file .*gone\.pth"):
            load(tmp_path / "gone.pth", config=SMALL)
        whole = pth.read_bytes()
        contents = {
            b"": "is empty",
            whole[: len(whole) // 2]: "truncated or damaged",
            b"no checkpoint at all": "truncated or damaged",
        }
        for content, sentence in contents.items():
            pth.write_bytes(content)
            with pytest.raises(ValueError, match=rf"checkpoint_8\.pth' .*{sentence}"):
                load(pth, config=SMALL)
        torch.save({"state_dict": {}}, pth)
        with pytest.raises(ValueError, match=r"not an official checkpoint: .* but holds 'state_dict'"):
            load(pth, config=SMALL)

    def test_code_in_a_file_is_not_run(self, tmp_path: Path) -> None:
        """A pickle that would call something is refused, and is not called."""
        witness = tmp_path / "witness"
        malicious = official_file(tmp_path / "evil.pth", step=_Touch(witness))
        with pytest.raises(ValueError, match=r"more than tensors and numbers .*which could run code"):
            load(malicious, config=SMALL)
        assert not witness.exists()


class TestKinds:
    """Checkpoints of one kind of model given as another: refused in words."""

    def test_cld(self, tmp_path: Path) -> None:
        """CLD's raw and averaged weights load, without noise levels; the model takes and scores pairs."""
        path = official_file(tmp_path / "cld.pth", SMALL_CLD)
        assert "sigmas" not in read_official(path).model
        raw, averaged = (load(path, config=SMALL_CLD, ema=ema) for ema in (False, True))
        torch.testing.assert_close(first_weight(averaged), first_weight(raw) + 1)
        assert raw.score(torch.zeros(1, 6, 8, 8), torch.ones(1)).shape == (1, 3, 8, 8)

    @pytest.mark.parametrize("config", [SMALL, SMALL_VP], ids=["VE", "VP"])
    def test_cld_as_another(self, tmp_path: Path, config: dict[str, Any]) -> None:
        """A CLD checkpoint with a VE or VP configuration: the sentence says that its network reads pairs."""
        path = official_file(tmp_path / "cld.pth", SMALL_CLD)
        sde = config["training"]["sde"]
        sentence = f"is of a CLD model: its network reads 6 channels, position and velocity, .* '{sde}' reads 3"
        with pytest.raises(ValueError, match=sentence + ".*give its own configuration"):
            load(path, config=config)

    @pytest.mark.parametrize("config", [SMALL, SMALL_VP], ids=["VE", "VP"])
    def test_another_as_cld(self, tmp_path: Path, config: dict[str, Any]) -> None:
        """A VE or VP checkpoint with a CLD configuration: the sentence says that its network reads images."""
        path = official_file(tmp_path / "other.pth", config)
        sentence = "is not of a CLD model: its network reads 3 channels, an image, .* reads 6, position and velocity"
        with pytest.raises(ValueError, match=sentence):
            load(path, config=SMALL_CLD)

    def test_noise_levels_missing(self, tmp_path: Path) -> None:
        """Without the noise levels that the configuration has, or with some where it has none: both say num_scales."""
        without, having = (official_file(tmp_path / name, config) for name, config in (("a", SMALL_VP), ("b", SMALL)))
        with pytest.raises(ValueError, match=r"has no noise levels 'sigmas', .* model\.num_scales is 1000, not 0"):
            load(without, config=SMALL)
        with pytest.raises(ValueError, match=r"has noise levels 'sigmas', .* model\.num_scales is 0"):
            load(having, config=SMALL_VP)

    @pytest.mark.parametrize(
        ("given", "kind", "own"),
        [
            pytest.param("ve/cifar10_ncsnpp_deep_continuous", "is of a CLD model", "cld_cifar10", id="CLD as VE"),
            pytest.param("cld_celebahq_256", "does not fit", "cld_cifar10", id="CLD as another CLD"),
            pytest.param("cld_cifar10", "is not of a CLD model", "ve/cifar10_ncsnpp_deep_continuous", id="VE as CLD"),
        ],
    )
    def test_presets_that_fit_are_named(self, given: str, kind: str, own: str) -> None:
        """At the sizes of the papers, every refusal ends with the preset that the checkpoint is of."""
        with torch.device("meta"):
            model = ScoreModel(given)
        with pytest.raises(ValueError, match=rf"'x\.pth' {kind}.*; it fits '{own}'$"):
            copy_official(model, OfficialCheckpoint(Path("x.pth"), preset_weights(own), []))


class _Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class TestFittingPresets:
    """Which presets a set of weights belongs to."""

    @pytest.mark.parametrize(
        ("preset", "fitting"),
        [
            pytest.param("ve/cifar10_ncsnpp_deep_continuous", {"ve/cifar10_ncsnpp_deep_continuous"}, id="only one"),
            pytest.param(
                "ve/ffhq_256_ncsnpp_continuous",
                {"ve/ffhq_256_ncsnpp_continuous", "ve/celebahq_256_ncsnpp_continuous"},
                id="sigma_max tells 256 px models apart",
            ),
            pytest.param(
                "vp/cifar10_ddpmpp_continuous",
                {"vp/cifar10_ddpmpp", "vp/cifar10_ddpmpp_continuous", "subvp/cifar10_ddpmpp_continuous"},
                id="one network, three objectives",
            ),
            *[
                pytest.param(name, {name}, id=name)
                for name in ("cld_cifar10", "cld_celebahq_256", "cld_celebahq_256_later", "cld_toy")
            ],
        ],
    )
    def test_fitting(self, preset: str, fitting: set[str]) -> None:
        """The preset itself is among those that fit, and no other network is."""
        assert set(fitting_presets(preset_weights(preset))) == fitting


class TestFolder:
    """Folders of config.json and model.safetensors."""

    def test_convert_and_load(self, tmp_path: Path, pth: Path) -> None:
        """A converted checkpoint loads without its configuration, bit for bit, beside files of any kind."""
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
        """A folder is written again by the same configuration only; the sentence says which value differs."""
        save(ScoreModel(SMALL), tmp_path)
        save(ScoreModel(SMALL), tmp_path)
        with pytest.raises(ValueError, match=r"training\.sde is 'vesde' there and 'vpsde' here"):
            save(ScoreModel({**SMALL, "training": {"sde": "vpsde"}}), tmp_path)

    def test_failed_write_leaves_the_old_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When the disk is full the model of before stays, whole, and no half-made file."""
        save(ScoreModel(SMALL), tmp_path)
        before = load(tmp_path).state_dict()

        def full_disk(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("scoresde_fast.files.os.fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            save(ScoreModel(SMALL), tmp_path)
        torch.testing.assert_close(load(tmp_path).state_dict(), before, rtol=0, atol=0)
        assert len(list(tmp_path.iterdir())) == 2

    def test_damaged_folders(self, tmp_path: Path) -> None:
        """A missing file, damaged weights, weights of another configuration and a wrong option are named."""
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

    def test_configuration_of_its_own(self, tmp_path: Path) -> None:
        """A folder's configuration may be repeated, but not contradicted."""
        save(ScoreModel(SMALL), tmp_path)
        assert load(tmp_path, config=SMALL).config == load_config(SMALL)
        with pytest.raises(ValueError, match="has its own configuration"):
            load(tmp_path, config="ve/cifar10_ncsnpp")


class TestNames:
    """What is neither a file nor a folder."""

    def test_unknown_name(self) -> None:
        """An unknown name is answered with the models there are."""
        with pytest.raises(ValueError, match="unknown model 'digits-vex'"):
            load("digits-vex")

    def test_path_of_nothing(self) -> None:
        """A path of nothing is told apart from a misspelt name."""
        with pytest.raises(FileNotFoundError, match="no checkpoint file and no folder 'runs/best'"):
            load("runs/best")

    def test_preset(self) -> None:
        """A preset is not a trained model; the sentence says what to do with it."""
        with pytest.raises(ValueError, match="is a preset, which has no weights: create"):
            load("ve/cifar10_ncsnpp_continuous")
