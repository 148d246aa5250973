# SPDX-License-Identifier: Apache-2.0
"""The comparison on models of one's own: any schedule, any image shape with a reference, inputs and guidance."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.bench import measures
from scoresde_fast.bench.candidates import ComparisonOptions, adaptive, fixed_step, suited_grid
from scoresde_fast.bench.comparison import compare
from scoresde_fast.bench.measures import mixture
from scoresde_fast.bench.results import Comparison, read_result
from scoresde_fast.cli import main
from scoresde_fast.data.sources import open_images
from scoresde_fast.evaluation import Extractor, MetricSettings, SampledImages, evaluate, load_extractor
from scoresde_fast.evaluation.extractors import load_torch_fidelity
from scoresde_fast.sdes import VESDE, VPSDE, ScalarSDE
from scoresde_fast.sdes.base import Time, as_times
from scoresde_fast.sdes.scalar import Marginal
from scoresde_fast.solvers import SolverOptions

SHAPE = (3, 8, 8)
CENTRES = torch.tensor([-0.6, 0.5, 0.0])
"""The mean of each class; the last is that of no class."""
needs_fidelity = pytest.mark.skipif(find_spec("torch_fidelity") is None, reason="torch-fidelity is not installed")


@dataclass(frozen=True)
class OwnSDE(ScalarSDE):
    """A user's SDE, whose time is the logarithm of the noise-to-signal ratio."""

    name: ClassVar[str] = "own"

    @property
    def T(self) -> float:
        return 8.0

    def marginal(self, t: Time) -> Marginal:
        ratio = np.exp(as_times(t) - 4)
        scale = 1 / np.sqrt(1 + ratio**2)
        return Marginal(scale, ratio * scale)


class ConditionalNetwork(nn.Module):
    """The exact noise of images N(CENTRES[y], 0.3^2) on a chain of betas."""

    centres: Tensor

    def __init__(self, betas: sf.Betas) -> None:
        super().__init__()
        self.betas = betas
        self.register_buffer("centres", CENTRES)

    def forward(self, x: Tensor, labels: Tensor, y: Tensor) -> Tensor:
        times = (labels.double().numpy() + 1) / len(self.betas)
        scale, std = (torch.from_numpy(value).float().view(-1, 1, 1, 1) for value in self.betas.marginal(times))
        return std * (x - scale * self.centres[y].view(-1, 1, 1, 1)) / (scale**2 * 0.09 + std**2)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def extractor() -> Iterator[Extractor]:
    """A small extractor of images of any size: means and standard deviations of the channels."""
    base: Any = load_torch_fidelity().FeatureExtractorBase

    class Moments(base):
        def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
            super().__init__(name, features_list)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            values = images.float() / 255
            return (torch.cat([values.mean((2, 3)), values.std((2, 3))], dim=1),)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("moments",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "moments"

        @staticmethod
        def can_be_compiled() -> bool:
            return True

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, *SHAPE, dtype=torch.uint8)

    registry = load_torch_fidelity().registry.FEATURE_EXTRACTORS_REGISTRY
    load_torch_fidelity().register_feature_extractor("moments", Moments)
    yield load_extractor("moments")
    del registry["moments"]


@pytest.fixture
def photos(tmp_path: Path) -> str:
    """A file of 300 images with the distribution of the first class."""
    values = 0.3 * np.random.default_rng(0).normal(size=(300, 8, 8, 3)) + float(CENTRES[0])
    np.save(tmp_path / "photos.npy", (255 * (values / 2 + 0.5).clip(0, 1)).astype(np.uint8))
    return str(tmp_path / "photos.npy")


@needs_fidelity
def test_a_conditional_network_on_few_betas(photos: str, extractor: Extractor, tmp_path: Path) -> None:
    """Guided evaluations count twice, n betas allow n - 1 steps, and the class of the reference is the closest.

    The result says what it belongs to: another class cannot continue it.
    """
    pytest.importorskip("matplotlib")
    betas = sf.Betas(np.linspace(0.01, 0.4, 20))
    network = ConditionalNetwork(betas)
    model = sf.wrap(network, betas, prediction="epsilon", shape=SHAPE)
    guidance = sf.ClassifierFreeGuidance(scale=1.5, null={"y": 2})
    options = ComparisonOptions(
        (8, 16, 64, 128), ("ddim",), samples=64, timing_seconds=0.0, variants=False, inputs={"y": [0]}
    )
    options = replace(options, guidance=guidance)
    files: dict[str, Any] = {"out": tmp_path / "x.json", "html": tmp_path / "x.html"}
    target: dict[str, Any] = {"reference": photos, "extractor": extractor, "training_set": photos}
    result = compare(model, options, **target, **files)
    assert result.model == "ConditionalNetwork" and result.measure == f"Frechet distance to {photos} (moments)"
    nfe = {line.budget: (line.steps, line.nfe) for line in result.lines}
    expected = sf.Sampler(model, "ddim", 19, grid="quadratic", denoise=True, inputs={"y": [0]}, guidance=guidance)
    assert nfe[64] == (19, expected.nfe) and expected.nfe == 38
    assert {8: (4, 8), 16: (8, 16)}.items() <= nfe.items() and 128 not in nfe
    assert [case.reason for case in result.skipped] == ["the 38 evaluations of the longest run also fit the budget 64"]
    assert len(result.pictures) == 1 + 3 + 1 and "nearest in" in result.pictures[-1].title
    again = read_result(Comparison, files["out"])
    assert again.settings == result.settings and again.settings["reference"]["count"] == 300
    assert files["html"].read_text().count("data:image/png;base64,") == 5

    unguided = replace(options, guidance=None, budgets=(19,))
    qualities = [
        compare(model, replace(unguided, inputs={"y": [label]}), **target).lines[0].quality for label in (0, 1)
    ]
    assert qualities[0] < 0.01 < qualities[1], "the means differ by 0.55 in each of three features"
    with pytest.raises(ValueError, match=r"has inputs .*, this run has .*: choose another --out"):
        compare(model, replace(options, inputs={"y": [1]}), **target, out=files["out"])
    with pytest.raises(ValueError, match=r"ConditionalNetwork needs the inputs \['y'\]"):
        compare(model, replace(options, inputs=None, guidance=None), **target)


@needs_fidelity
def test_the_distance_is_that_of_eval(photos: str, extractor: Extractor) -> None:
    """The distance to a reference is the FID that ``evaluate`` computes for the same seeds and sampler."""
    model = sf.GaussianMixture.gaussian(VPSDE(), 0.3, 0.2, SHAPE)
    options = ComparisonOptions((6,), ("dpmpp_2m",), samples=50, timing_seconds=0.0, variants=False)
    result = compare(model, options, name="a Gaussian", reference=photos, extractor=extractor)
    sampler = sf.Sampler(model, SolverOptions("dpmpp_2m", result.lines[0].steps or 0, grid="quadratic", denoise=True))
    images = SampledImages(sampler, SHAPE, range(50))
    settings = MetricSettings(resamples=0)
    expected = evaluate(images, "", extractor, reference=photos, metrics=["fid"], settings=settings)
    assert expected is not None
    assert result.lines[0].quality == pytest.approx(expected.result["metrics"]["fid"]["value"], rel=1e-6)
    assert result.floor == expected.result["reference"]["floor"] and result.model == "a Gaussian"
    assert open_images(photos).count == 300


@needs_fidelity
def test_command_with_a_reference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``--reference`` and ``--training-set`` are those of ``eval``, and the page shows nearest training images."""
    pytest.importorskip("matplotlib")
    html = tmp_path / "x.html"
    command = ["bench", "solvers", "digits-vp", "--no-variants", "--solvers", "dpmpp_2m", "--nfe", "6", "--no-timing"]
    command += ["--samples", "12", "--reference", "digits:train", "--training-set", "digits:test"]
    assert main([*command, "--html", str(html)]) == 0
    output = capsys.readouterr().out
    assert "digits-vp: at most 1 candidates, 12 samples each; Frechet distance to digits:train" in output
    assert re.search(r"dpmpp_2m \(quadratic\): 6 NFE, .* \[1 of 1, \d+ s\]", output)
    page = html.read_text()
    assert page.count("data:image/png;base64,") == 3 and "below each image its nearest in digits:test" in page
    assert "FID of 12 images and 1433 images of the reference is too large" in page and "Unfinished" not in page


def test_what_cannot_be_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model without a reference, a model of points, and a mixture with a reference give one clear sentence."""
    options = sf.load("digits-vp").config.to_dict()
    options["data"]["image_size"] = 8
    options["model"] |= {"nf": 32, "ch_mult": (1, 1), "num_res_blocks": 1}
    sf.create(options).save_pretrained(tmp_path / "other")
    for arguments, message in (
        ([str(tmp_path / "other")], "images of shape (3, 8, 8) are compared with a reference: give --reference"),
        (["mixture-vp", "--reference", "digits"], "mixture-vp is compared with its exact distribution: leave out"),
        (["mixture-vpp"], "unknown model 'mixture-vpp' - did you mean 'mixture-vp'?"),
    ):
        assert main(["bench", "solvers", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    with pytest.raises(ValueError, match="mixture is a model of points; the comparison scores models of images"):
        compare(mixture("mixture-vp"), name="mixture")


@pytest.mark.parametrize(
    ("sde", "grid", "reference"),
    [
        (OwnSDE(), "logsnr", "sa, 60 steps"),
        (sf.Schedule(lambda t: 1.0 + 0 * t, lambda t: t, T=20.0, sampling_eps=0.01), "karras", "sa, 60 steps"),
        (sf.EDM(), "karras", "heun, 60 steps"),
        (sf.RectifiedFlow(), "quadratic", "ddim, 60 steps"),
        (sf.Betas(np.linspace(0.005, 0.3, 40)), "quadratic", "ddim, 39 steps"),
        (VESDE(), "karras", "ancestral, 60 steps"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, ScalarSDE) else "",
)
def test_candidates_on_every_schedule(sde: ScalarSDE, grid: str, reference: str) -> None:
    """On every SDE there is a suited grid that is measured first, a reference, and most candidates can run."""
    model = sf.GaussianMixture.gaussian(sde, 0.3, 0.5, (1, 1, 1))
    options = ComparisonOptions((12,), grids=("karras", "quadratic", "logsnr"), reference_steps=60)
    candidates = list(fixed_step(model, options))
    assert suited_grid(sde) == grid
    first = min(candidates, key=lambda candidate: candidate.priority).case
    assert first.grid == grid and candidates[-1].case.name == reference
    assert candidates[-1].prepare().steps == int(reference.split()[1])
    prepared = []
    for candidate in candidates[:-1]:
        try:
            prepared.append(candidate.prepare())
        except ValueError as error:
            assert re.search("budget|not finite|too many|not defined|eps", str(error)), error
    assert len(prepared) > 0.8 * len(candidates) and all(each.nfe <= 12 for each in prepared)


def test_a_many_step_reference_is_close_to_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """On mixtures of every kind, and on a user's SDE, the reference is closer to the data than few steps are."""
    monkeypatch.setattr(measures, "STEPS", 16)
    monkeypatch.setitem(measures.MIXTURES, "mixture-own", OwnSDE)
    for name in ("mixture-edm", "mixture-flow", "mixture-own"):
        options = ComparisonOptions(
            (8,), ("ddim",), samples=2000, timing_seconds=0.0, variants=False, reference_steps=200
        )
        few, many = compare(name, options).lines
        assert many.reference and many.quality + 2 * many.standard_error < few.quality, name


def test_no_variants_compares_what_was_asked() -> None:
    """Without variants there is one case for each solver, grid and budget that is named, in the default order."""
    model = mixture("mixture-vp")
    asked = ComparisonOptions((5, 10), ("unipc", "heun", "sa", "ggf"), grids=("karras", "logsnr"), variants=False)
    cases = [candidate.case for candidate in fixed_step(model, asked)]
    expected = [(s, g, b) for s in ("unipc", "heun", "sa") for g in ("karras", "logsnr") for b in (5, 10)]
    assert [(case.solver, case.grid, case.budget) for case in cases] == expected
    assert {(case.name, case.order, *case.options) for case in cases} == {("unipc", 2), ("heun", None), ("sa", 2)}
    assert {candidate.case.solver for candidate in adaptive(model, asked)} == {"ggf"}
    by_default = ComparisonOptions((5,), variants=False)
    names = [candidate.case.name for candidate in fixed_step(model, by_default)]
    assert len(names) == len(set(names)) > 10 and list(adaptive(model, by_default)) == []
    assert {candidate.case.grid for candidate in fixed_step(model, by_default)} == {"quadratic"}
