# SPDX-License-Identifier: Apache-2.0
"""Official checkpoints: safe reading, strict loading, and refusals with a reason."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scoresde_fast.checkpoints import OfficialCheckpoint, copy_official, fitting_presets, load, read_official
from scoresde_fast.model import ScoreModel
from tests.support.official_checkpoints import SMALL, SMALL_CLD, SMALL_VP, first_weight, official_file, preset_weights

pytestmark = pytest.mark.same_everywhere


@pytest.fixture
def pth(tmp_path: Path) -> Path:
    return official_file(tmp_path / "checkpoint_8.pth")


class TestOfficial:
    """Files in the layout of the official code."""

    def test_raw_and_averaged_weights(self, pth: Path) -> None:
        """``ema`` chooses between raw and averaged weights; the model is in evaluation mode."""
        raw, averaged = (load(pth, config=SMALL, ema=ema) for ema in (False, True))
        torch.testing.assert_close(first_weight(averaged), first_weight(raw) + 1)
        assert not raw.training
        assert not averaged.training

    def test_names_without_data_parallel(self, tmp_path: Path, pth: Path) -> None:
        """The names of weights may lack the prefix "module."."""
        bare = dict(read_official(pth).model)
        plain = load(official_file(tmp_path / "plain.pth", model=bare), config=SMALL)
        torch.testing.assert_close(first_weight(plain), first_weight(load(pth, config=SMALL)))

    @pytest.mark.parametrize("module", ["numpy._core", "numpy.core"], ids=["numpy 2", "numpy 1"])
    def test_numpy_learning_rate(self, tmp_path: Path, module: str) -> None:
        """A file loads with the NumPy scalar that the official warm-up leaves in the optimizer."""
        optimizer = {"param_groups": [{"lr": np.float64(2e-4) * np.minimum(7 / 5000, 1.0)}]}
        ours, theirs = official_file(tmp_path / "ours.pth", optimizer=optimizer), tmp_path / "theirs.pth"
        with zipfile.ZipFile(ours) as source, zipfile.ZipFile(theirs, "w") as target:
            for name in source.namelist():
                target.writestr(name, source.read(name).replace(b"numpy._core", module.encode()))
        assert not load(theirs, config=SMALL).training

    def test_without_a_configuration(self, pth: Path) -> None:
        """Without ``config`` the message says what to give."""
        with pytest.raises(ValueError, match="does not contain its configuration: no preset fits its weights"):
            load(pth)

    def test_misfits_are_named(self, pth: Path) -> None:
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
        """A checkpoint with fitting shapes, but with the sigmas of another model, is refused."""
        other = {**SMALL, "model": {**SMALL["model"], "sigma_max": 348}}
        with pytest.raises(ValueError, match=r"noise levels run from 0\.01 to 50, .* from 0\.01 to 348"):
            load(pth, config=other)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            pytest.param(lambda shadow: shadow[:-1], "averaged weights for .* trainable weights", id="short"),
            pytest.param(lambda shadow: shadow[::-1], "averaged weights of .* do not fit", id="reversed"),
        ],
    )
    def test_averaged_weights_that_do_not_fit(self, tmp_path: Path, pth: Path, change: Any, message: str) -> None:
        """The length and the shapes of the EMA list are checked; the raw weights can still be loaded."""
        wrong = official_file(tmp_path / "wrong.pth", ema={"shadow_params": change(read_official(pth).shadow)})
        with pytest.raises(ValueError, match=message):
            load(wrong, config=SMALL)
        assert not load(wrong, config=SMALL, ema=False).training

    def test_invalid_files(self, tmp_path: Path, pth: Path) -> None:
        """Missing, empty, truncated and foreign files are refused with different messages, which have the path."""
        with pytest.raises(FileNotFoundError, match=r"checkpoint file or folder '.*gone\.pth' does not exist"):
            load(tmp_path / "gone.pth", config=SMALL)
        whole = pth.read_bytes()
        contents = {
            b"": "is empty",
            whole[: len(whole) // 2]: "truncated or corrupt",
            b"no checkpoint at all": "truncated or corrupt",
        }
        for content, message in contents.items():
            pth.write_bytes(content)
            with pytest.raises(ValueError, match=rf"checkpoint_8\.pth' .*{message}"):
                load(pth, config=SMALL)
        torch.save({"state_dict": {}}, pth)
        with pytest.raises(ValueError, match=r"is not a checkpoint of weights: .* but contains 'state_dict'"):
            load(pth, config=SMALL)

    def test_code_in_a_file_is_not_run(self, tmp_path: Path) -> None:
        """A pickle with code is refused, and the code is not run."""
        witness = tmp_path / "witness"
        malicious = official_file(tmp_path / "evil.pth", step=_Touch(witness))
        with pytest.raises(ValueError, match=r"more than tensors and numbers .*which could execute code"):
            load(malicious, config=SMALL)
        assert not witness.exists()


class TestKinds:
    """Checkpoints of one kind of model, loaded as another, are refused with an explanation."""

    def test_cld(self, tmp_path: Path) -> None:
        """CLD's raw and averaged weights load, without noise levels; the model takes and scores pairs."""
        path = official_file(tmp_path / "cld.pth", SMALL_CLD)
        assert "sigmas" not in read_official(path).model
        raw, averaged = (load(path, config=SMALL_CLD, ema=ema) for ema in (False, True))
        torch.testing.assert_close(first_weight(averaged), first_weight(raw) + 1)
        assert raw.score(torch.zeros(1, 6, 8, 8), torch.ones(1)).shape == (1, 3, 8, 8)

    @pytest.mark.parametrize("config", [SMALL, SMALL_VP], ids=["VE", "VP"])
    def test_cld_as_image_model(self, tmp_path: Path, config: dict[str, Any]) -> None:
        """A CLD checkpoint is refused for a VE or VP configuration, because its network takes pairs."""
        path = official_file(tmp_path / "cld.pth", SMALL_CLD)
        sde = config["training"]["sde"]
        message = rf"is a CLD model: its network takes 6 channels .*, but the SDE '{sde}' needs 3"
        with pytest.raises(ValueError, match=message + ".*give its own configuration"):
            load(path, config=config)

    @pytest.mark.parametrize("config", [SMALL, SMALL_VP], ids=["VE", "VP"])
    def test_image_model_as_cld(self, tmp_path: Path, config: dict[str, Any]) -> None:
        """A VE or VP checkpoint is refused for a CLD configuration, because its network takes images."""
        path = official_file(tmp_path / "other.pth", config)
        message = r"is not a CLD model: its network takes 3 channels \(an image\), .* needs 6 \(position"
        with pytest.raises(ValueError, match=message):
            load(path, config=SMALL_CLD)

    def test_noise_levels_missing(self, tmp_path: Path) -> None:
        """Missing and unexpected noise levels are refused, and the message names num_scales."""
        without, having = (official_file(tmp_path / name, config) for name, config in (("a", SMALL_VP), ("b", SMALL)))
        with pytest.raises(ValueError, match=r"has no noise levels 'sigmas', .* model\.num_scales .* is 1000, not 0"):
            load(without, config=SMALL)
        with pytest.raises(ValueError, match=r"has noise levels 'sigmas', .* model\.num_scales .* is 0"):
            load(having, config=SMALL_VP)

    @pytest.mark.parametrize(
        ("given", "kind", "own"),
        [
            pytest.param("ve/cifar10_ncsnpp_deep_continuous", "is a CLD model", "cld_cifar10", id="CLD as VE"),
            pytest.param("cld_celebahq_256", "does not fit", "cld_cifar10", id="CLD as another CLD"),
            pytest.param("cld_cifar10", "is not a CLD model", "ve/cifar10_ncsnpp_deep_continuous", id="VE as CLD"),
        ],
    )
    def test_presets_that_fit_are_named(self, given: str, kind: str, own: str) -> None:
        """At the sizes of the papers, every refusal ends with the preset of the checkpoint."""
        with torch.device("meta"):
            model = ScoreModel(given)
        with pytest.raises(ValueError, match=rf"'x\.pth' {kind}.*; it fits '{own}'$"):
            copy_official(model, OfficialCheckpoint(Path("x.pth"), preset_weights(own), []))


class _Touch:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


class TestFittingPresets:
    """The presets that a set of official weights fits."""

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
        """The presets that fit the weights of a preset have the same network."""
        assert set(fitting_presets(preset_weights(preset))) == fitting
