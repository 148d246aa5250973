# SPDX-License-Identifier: Apache-2.0
"""Feature extractors: weights from local files only, without downloads, and without pickles unless allowed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import Extractor, MetricSettings, evaluate, extract_features, load_extractor
from scoresde_fast.evaluation.extractors import HUB_FILES, INCEPTION, default_extractor, load_torch_fidelity

pytestmark = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")


def images(count: int, size: int = 16, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, size, size), dtype=torch.uint8, generator=generator)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Random weights of Inception in three files; the last one contains code."""
    folder = tmp_path_factory.mktemp("weights")
    paths = {name: folder / name for name in ("a.pth", "b.safetensors", "c.pth")}
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extractor = load_torch_fidelity().FeatureExtractorInceptionV3
        patch.setattr("torch.nn.Module.load_state_dict", lambda *_, **__: None)
        torch.save({}, paths["a.pth"])
        state = extractor(INCEPTION, ["2048"], str(paths["a.pth"])).state_dict()
    torch.save(state, paths["a.pth"])
    save_file(state, paths["b.safetensors"])
    torch.save({**state, "Harmful": Harmful()}, paths["c.pth"])
    yield paths
    for path in paths.values():
        path.unlink()


class Harmful:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("a pickle was read",))


def test_digits_features_of_pixels() -> None:
    """The registered extractor gives the features of `extract_features`, and ten logits."""
    pixels = images(5)
    features = load_extractor("digits-features")(pixels)
    torch.testing.assert_close(features["64"].double(), extract_features(pixels / 255), rtol=1e-6, atol=1e-6)
    assert features["logits"].shape == (5, 10)
    assert load_extractor("digits-features").weights_sha256 == load_extractor("digits-features").weights_sha256
    assert default_extractor((3, 16, 16)) == "digits-features" and default_extractor((3, 32, 32)) == INCEPTION


def test_other_shapes() -> None:
    """Images that do not fit the extractor are refused, and both shapes are named."""
    extractor = load_extractor("digits-features")
    for extract, pixels in ((extractor, images(2, 32)), (extract_features, images(2, 32) / 255)):
        with pytest.raises(ValueError, match=r"\(3, 32, 32\); digits-features takes \(3, 16, 16\)"):
            extract(pixels)
    with pytest.raises(ValueError, match="2 channels; extractors take 1"):
        extractor(images(2, channels=2))


def test_gray_images() -> None:
    """Gray images are expanded to RGB, as torch-fidelity does."""
    extractor, gray = load_extractor("digits-features"), images(3, channels=1)
    assert torch.equal(extractor(gray)["64"], extractor(gray.repeat(1, 3, 1, 1))["64"])


def test_safe_formats_of_weights(weights: dict[str, Path]) -> None:
    """A .pth and a .safetensors of the same weights give torch-fidelity's features exactly, and one SHA-256."""
    pixels = images(2, 8)
    ours = [load_extractor(INCEPTION, weights=weights[name]) for name in ("a.pth", "b.safetensors")]
    theirs = load_torch_fidelity().FeatureExtractorInceptionV3(INCEPTION, ["2048"], str(weights["a.pth"]))(pixels)[0]
    assert all(torch.equal(extractor(pixels)["2048"], theirs) for extractor in ours)
    assert ours[0].weights_sha256 == ours[1].weights_sha256


def test_pickles_need_trust(weights: dict[str, Path]) -> None:
    """A file with more than tensors is read only with ``trust_pickle``."""
    with pytest.raises(ValueError, match=r"c\.pth contains more than tensors.*--trust-pickle"):
        load_extractor(INCEPTION, weights=weights["c.pth"])
    with pytest.raises(pytest.fail.Exception, match="a pickle was read"):
        load_extractor(INCEPTION, weights=weights["c.pth"], trust_pickle=True)


def test_weights_in_torch_hubs_folder(
    weights: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Existing weights are used; otherwise the message names the file and the option, and nothing is downloaded."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", lambda *_, **__: pytest.fail("a download was attempted"))
    monkeypatch.setattr("torch.hub.load", lambda *_, **__: pytest.fail("a download was attempted"))
    for name, says in [
        (INCEPTION, rf"{HUB_FILES[INCEPTION]}.*--extractor-weights"),
        ("vgg16", r"vgg16-397923af\.pth.*--extractor-weights"),
        ("clip-vit-b-32", r"clip-vit-b-32\.pt.*--extractor-weights"),
    ]:
        with pytest.raises(FileNotFoundError, match=says):
            load_extractor(name)
    with pytest.raises(ValueError, match="code that torch hub downloads"):
        load_extractor("dinov2-vit-s-14")
    path = tmp_path / "hub" / "checkpoints" / HUB_FILES[INCEPTION]
    path.parent.mkdir(parents=True)
    path.symlink_to(weights["a.pth"])
    assert load_extractor(INCEPTION).layer == "2048"


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    """Other weights, a corrupt file, a missing file, and unneeded weights are refused."""
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10")
    for name, file, says in [
        (INCEPTION, "other.pth", "does not fit the extractor"),
        (INCEPTION, "cut.safetensors", "truncated or corrupt"),
        ("digits-features", "other.pth", "has its own weights"),
    ]:
        with pytest.raises(ValueError, match=says):
            load_extractor(name, weights=tmp_path / file)
    with pytest.raises(FileNotFoundError, match=r"the file of weights .* does not exist"):
        load_extractor(INCEPTION, weights=tmp_path / "absent.pth")


def test_unknown_extractor() -> None:
    """The message suggests the nearest name."""
    with pytest.raises(ValueError, match="unknown extractor 'digit-features' - did you mean 'digits-features'"):
        load_extractor("digit-features")


def test_registered_extractor() -> None:
    """An extractor that the user registers with torch-fidelity works by its name."""

    class Means(load_torch_fidelity().FeatureExtractorBase):  # type: ignore[misc]
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (pixels.float().mean((2, 3)),)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("means",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "means"

    registry = load_torch_fidelity().registry.FEATURE_EXTRACTORS_REGISTRY
    load_torch_fidelity().register_feature_extractor("means", Means)
    try:
        extractor: Extractor = load_extractor("means")
    finally:
        del registry["means"]
    assert extractor(images(2))["means"].shape == (2, 3) and extractor.dimensions((3, 8, 8)) == 3


def test_torch_fidelity_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the library is missing, the message says how to install it."""
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match="needs torch-fidelity to be installed: pip install torch-fidelity"):
        load_torch_fidelity.__wrapped__()


@pytest.mark.slow
def test_inception_metrics_equal_torch_fidelity(weights: dict[str, Path], tmp_path: Path) -> None:
    """FID, KID and Inception score with Inception equal torch-fidelity's on a few small images."""

    class Pixels(torch.utils.data.Dataset[torch.Tensor]):
        def __init__(self, pixels: torch.Tensor) -> None:
            self.pixels = pixels

        def __len__(self) -> int:
            return len(self.pixels)

        def __getitem__(self, index: int) -> torch.Tensor:
            return self.pixels[index]

    sets = images(12), images(11) // 2
    for name, pixels in zip("ab", sets, strict=True):
        np.savez(tmp_path / f"{name}.npz", arr_0=pixels.permute(0, 2, 3, 1).numpy())
    extractor = load_extractor(INCEPTION, weights=weights["a.pth"])
    settings = MetricSettings(resamples=0, kid_subsets=2, kid_subset_size=8)
    a, b = (str(tmp_path / name) for name in ("a.npz", "b.npz"))
    ours = evaluate(open_images(a), "a", extractor, reference=b, few=True, settings=settings, progress=False)
    assert ours is not None
    theirs = load_torch_fidelity().calculate_metrics(
        input1=Pixels(sets[0]),
        input2=Pixels(sets[1]),
        feature_extractor=INCEPTION,
        feature_extractor_weights_path=str(weights["a.pth"]),
        **dict.fromkeys(["fid", "kid", "isc", "save_cpu_ram"], True),
        **dict.fromkeys(["cuda", "cache", "verbose"], False),
        kid_subsets=2,
        kid_subset_size=8,
    )
    metrics = ours.result["metrics"]
    assert metrics["fid"]["value"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    assert metrics["kid"]["value"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    assert metrics["inception_score"]["value"] == pytest.approx(theirs["inception_score_mean"], rel=1e-6)
