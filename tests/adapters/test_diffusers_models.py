# SPDX-License-Identifier: Apache-2.0
"""`from_diffusers`: pipelines, folders and U-Nets, inputs, the range of the data, and messages for misuse."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import scoresde_fast as sf
from scoresde_fast.errors import MissingPackageError
from scoresde_fast.model import describe_model
from tests.support.diffusers_models import diffusers, unet


def score(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """Return scores (2, C, H, W) at the middle of the time."""
    torch.manual_seed(3)
    x = torch.randn(2, *model.state_shape)
    with torch.no_grad():
        return model.score(x, torch.full((2,), model.sde.T / 2), **inputs)


@pytest.mark.parametrize("name", ["DDPM", "DDIM", "ScoreSdeVe"])
def test_folders_equal_pipelines(name: str, tmp_path: Path) -> None:
    """A pipeline, its folder, and its U-Net with the scheduler or its file are the same model."""
    library = diffusers()
    scheduler = getattr(library, f"{name}Scheduler")()
    pipeline = getattr(library, f"{name}Pipeline")(unet=unet(), scheduler=scheduler)
    pipeline.save_pretrained(tmp_path)
    model = sf.from_diffusers(pipeline)
    assert model.image_shape == (3, 16, 16)
    assert model.data_range == ((0.0, 1.0) if name == "ScoreSdeVe" else (-1.0, 1.0))
    expected, description = score(model), model.parametrisation.describe()
    config = {**scheduler.config, "_class_name": f"{name}Scheduler"}
    for other in (
        sf.from_diffusers(tmp_path),
        sf.from_diffusers(str(tmp_path / "unet"), scheduler),
        sf.from_diffusers(pipeline.unet, config),
    ):
        assert torch.equal(score(other), expected)
        assert other.parametrisation.describe() == description
        assert other.data_range == model.data_range


def test_ve_score() -> None:
    """A network on VE takes sigma as its timestep and returns the score."""
    library = diffusers()
    network = unet(time_embedding_type="fourier")
    model = sf.from_diffusers(network, library.ScoreSdeVeScheduler(sigma_min=0.02, sigma_max=90.0))
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([0.2, 0.9])
    with torch.no_grad():
        expected = network(x, 0.02 * (90 / 0.02) ** t).sample
        assert torch.allclose(model.score(x, t), expected, rtol=1e-5, atol=1e-6)
    assert sf.Sampler(model, "dpmpp_2m", 4, grid="karras", compile=False).sample([0]).isfinite().all()


def test_class_labels() -> None:
    """A class-conditional U-Net gets its labels from the sampler, and is not evaluated without them."""
    network = unet(num_class_embeds=5)
    model = sf.from_diffusers(network, diffusers().DDPMScheduler(prediction_type="v_prediction"))
    options: dict[str, Any] = {"compile": False, "steps": 4, "solver": "dpmpp_2m", "grid": "logsnr"}
    sampler = sf.Sampler(model, inputs={"class_labels": torch.tensor([1, 4])}, **options)
    both = sampler.sample([0, 1])
    other = sf.Sampler(model, inputs={"class_labels": torch.tensor([4])}, **options).sample([0, 1])
    assert torch.allclose(both[1], other[1], atol=1e-5)
    assert not torch.allclose(both[0], other[0], atol=1e-3)
    with pytest.raises(ValueError, match=r"needs the inputs \['class_labels'\]"):
        sf.Sampler(model, **options)


@pytest.mark.parametrize("name", ["DDIMScheduler", "EDMEulerScheduler"])
def test_text_embeddings(name: str) -> None:
    """Embeddings are inputs, also with EDM's preconditioning; samples of four channels are latents."""
    library = diffusers()
    torch.manual_seed(0)
    network = library.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=6,
        attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    ).eval()
    scheduler = getattr(library, name)()
    model = sf.from_diffusers(network, scheduler)
    assert model.image_shape == (4, 8, 8) and model.data_range is None
    text = torch.randn(2, 3, 6)
    sampler = sf.Sampler(model, "ddim", 4, grid="karras", compile=False, inputs={"encoder_hidden_states": text})
    assert sampler.sample([0, 1]).isfinite().all()
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.3])
    with torch.no_grad():
        ours = model.network(x, t, encoder_hidden_states=text)
        if name == "DDIMScheduler":
            expected = network(x, t.round().long(), text).sample
        else:
            sigma = t[0]
            output = network(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma), text).sample
            expected = scheduler.precondition_outputs(x, output, sigma)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_latents_of_pipelines() -> None:
    """A pipeline with an autoencoder samples latents, whatever their channels; ``latent`` and ``shape`` decide."""
    scheduler = diffusers().DDIMScheduler()
    pipeline = SimpleNamespace(unet=unet(sample_size=None), scheduler=scheduler, vqvae=torch.nn.Identity())
    with pytest.raises(ValueError, match=r"no sample_size; pass shape=\(C, H, W\)"):
        sf.from_diffusers(pipeline)
    assert sf.from_diffusers(pipeline, shape=(3, 8, 8)).data_range is None
    assert sf.from_diffusers(pipeline, shape=(3, 8, 8), latent=False).data_range == (-1, 1)


def test_descriptions_differ() -> None:
    """Models with another preconditioning have other descriptions, so that their samples are not mixed in a set."""
    network, scheduler = unet(), diffusers().EDMEulerScheduler
    options: list[dict[str, Any]] = [{}, {"sigma_data": 0.7}, {"prediction_type": "v_prediction"}]
    hashes = {describe_model(sf.from_diffusers(network, scheduler(**each)))["code_sha256"] for each in options}
    assert len(hashes) == len(options)


def test_misuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says what is missing or not supported."""
    library = diffusers()
    network = unet()
    with pytest.raises(ValueError, match="a U-Net needs scheduler="):
        sf.from_diffusers(network)
    with pytest.raises(ValueError, match="no '_class_name'; pass the scheduler"):
        sf.from_diffusers(network, {"beta_schedule": "linear"})
    with pytest.raises(ValueError, match="CMStochasticIterativeScheduler is not supported"):
        sf.from_diffusers(network, library.CMStochasticIterativeScheduler())
    with pytest.raises(ValueError, match="timestep_type='continuous', which is not supported"):
        sf.from_diffusers(network, library.EulerDiscreteScheduler(timestep_type="continuous"))
    with pytest.raises(TypeError, match="source is Linear; pass a pipeline"):
        sf.from_diffusers(torch.nn.Linear(2, 2))
    with pytest.raises(FileNotFoundError, match=r"google/ddpm.*pass DDPMPipeline.from_pretrained"):
        sf.from_diffusers("google/ddpm-cifar10-32")
    (tmp_path / "model_index.json").write_text('{"transformer": ["diffusers", "X"]}')
    with pytest.raises(ValueError, match="has no unet"):
        sf.from_diffusers(tmp_path)
    with pytest.raises(ValueError, match="diffusers has no class 'OurScheduler'"):
        sf.from_diffusers(network, {"_class_name": "OurScheduler"})
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(MissingPackageError, match="pip install diffusers"):
        sf.from_diffusers(network, {"_class_name": "DDIMScheduler"})
