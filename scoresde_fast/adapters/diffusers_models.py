# SPDX-License-Identifier: Apache-2.0
"""`from_diffusers`: score models from U-Nets of diffusers and the configuration of their scheduler."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from scoresde_fast.adapters.diffusers_ncsnpp import as_ncsnpp
from scoresde_fast.errors import require_packages
from scoresde_fast.model import ScoreFunction, required_inputs, wrap
from scoresde_fast.networks import ScoreNetwork
from scoresde_fast.networks.adapter import Conditional
from scoresde_fast.parametrisation import LabelFunction, Prediction
from scoresde_fast.sdes import EDM, VESDE, Betas, RectifiedFlow, ScalarSDE
from scoresde_fast.torchvision_import import import_library

INDEX = "model_index.json"
"""The file that lists the parts of a pipeline."""
AUTOENCODERS = ("vae", "vqvae", "movq")
"""Parts of pipelines whose U-Net works on latents."""
IMAGE_CHANNELS = (1, 3)
EDM_SCHEDULERS = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
UNSUPPORTED = {"timestep_type": "continuous", "invert_sigmas": True}
"""Values of a scheduler's options that change the meaning of its timesteps."""


@dataclass(frozen=True)
class Parts:
    """A U-Net and its scheduler; ``latent`` says whether the pipeline has an autoencoder."""

    unet: nn.Module
    scheduler: Any
    latent: bool = False


@dataclass(frozen=True)
class Training:
    """What the scheduler says about the network: the arguments of `wrap`, and ``sigma_data`` of EDM's preconditioning.

    With ``predicts_v`` EDM's output has the other sign.
    """

    schedule: ScalarSDE
    prediction: Prediction
    labels: str | LabelFunction | None = None
    data_range: tuple[float, float] = (-1.0, 1.0)
    sigma_data: float | None = None
    predicts_v: bool = False


class Preconditioned(Conditional):
    """The denoiser D(x; sigma) of a U-Net with EDM's preconditioning (Karras et al. 2022, table 1)."""

    def __init__(self, network: Callable[..., Any], inputs: Sequence[str], sigma_data: float, predicts_v: bool) -> None:
        super().__init__(network, inputs)
        self.sigma_data, self.sign = sigma_data, -1.0 if predicts_v else 1.0

    def extra_repr(self) -> str:
        return f"sigma_data={self.sigma_data}, sign={self.sign}"

    def forward(self, x: Tensor, labels: Tensor, **inputs: Tensor) -> Tensor:
        """Return D (B, C, H, W) for states (B, C, H, W) and noise levels (B,)."""
        sigma = labels[:, None, None, None]
        norm = (sigma**2 + self.sigma_data**2).sqrt()
        output = self.network(x / norm, labels.log() / 4, **inputs).sample
        return (self.sigma_data / norm) ** 2 * x + self.sign * sigma * self.sigma_data / norm * output


def from_diffusers(
    source: Any,
    scheduler: Any = None,
    *,
    shape: Sequence[int] | None = None,
    latent: bool | None = None,
) -> ScoreFunction:
    """Return a score model that uses a U-Net of diffusers.

    The scheduler gives the noise schedule and what the U-Net predicts; its steps and clipping have no effect.  The
    NCSN++ of score_sde with a `ScoreSdeVeScheduler` becomes the NCSN++ of this package, with a copy of the weights.
    Other U-Nets are not copied.  Class labels and text embeddings are inputs: ``inputs={"class_labels": ...}``,
    ``inputs={"encoder_hidden_states": ...}``.

    Args:
        source: a pipeline with a U-Net, such as `DDPMPipeline`; the folder of one; a `UNet2DModel` or a
            `UNet2DConditionModel`, or the folder of one.
        scheduler: a scheduler or its configuration, instead of that of the pipeline; required for a U-Net.
        shape: (C, H, W) of one sample, by default that of the U-Net's configuration.
        latent: whether samples are latents, which are neither scaled nor clipped; by default, if the pipeline has an
            autoencoder, or samples have neither one nor three channels.

    Raises:
        MissingPackageError: diffusers is not installed, and ``source`` is a folder or ``scheduler`` a configuration.
        FileNotFoundError: the folder does not exist, or does not contain a pipeline or U-Net.
        TypeError: ``source`` is something else.
        ValueError: the scheduler is missing or not supported, the U-Net's size is not known, or as `wrap`.
    """
    parts = _parts(source)
    unet, config = parts.unet, parts.unet.config
    training = _training(_scheduler(parts.scheduler if scheduler is None else scheduler))
    shape = _shape(config) if shape is None else shape
    if latent is None:
        latent = parts.latent or shape[0] not in IMAGE_CHANNELS
    network = _network(unet, training)
    return wrap(
        network,
        training.schedule,
        prediction=training.prediction,
        labels=training.labels,
        shape=shape,
        data_range=None if latent else training.data_range,
        deep_modules=() if isinstance(network, ScoreNetwork) else _deep_modules(unet),
    )


def _deep_modules(unet: nn.Module) -> list[str]:
    """Return the names of all blocks but the two next to the image."""
    last = len(getattr(unet, "up_blocks", ())) - 1
    nearest = ("down_blocks.0", f"up_blocks.{last}")
    blocks = re.compile(r"mid_block|(down|up)_blocks\.\d+")
    return [name for name, _ in unet.named_modules() if blocks.fullmatch(name) and name not in nearest]


def _parts(source: Any) -> Parts:
    if isinstance(source, str | Path):
        return _read(Path(source))
    if hasattr(source, "unet") and hasattr(source, "scheduler"):
        return Parts(source.unet, source.scheduler, any(getattr(source, name, None) for name in AUTOENCODERS))
    if isinstance(source, nn.Module) and hasattr(source, "config"):
        return Parts(source, None)
    raise TypeError(
        f"source is {type(source).__name__}; pass a pipeline of diffusers with a U-Net, its folder, or a UNet2DModel "
        "with scheduler=..."
    )


def _read(folder: Path) -> Parts:
    """Read the U-Net and the scheduler of a pipeline's folder; its other parts are not loaded."""
    is_pipeline = (folder / INDEX).is_file()
    if not is_pipeline and not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{str(folder)!r} is not the folder of a pipeline ({INDEX}) or of a U-Net (config.json); for a name on "
            "the hub pass DDPMPipeline.from_pretrained(name)"
        )
    if not is_pipeline:
        return Parts(_unet(folder, _json(folder / "config.json").get("_class_name")), None)
    index = _json(folder / INDEX)
    if missing := [name for name in ("unet", "scheduler") if not index.get(name)]:
        raise ValueError(f"the pipeline {str(folder)!r} has no {missing[0]}; from_diffusers needs one with a U-Net")
    unet, scheduler = (index[name][1] for name in ("unet", "scheduler"))
    return Parts(
        _unet(folder / "unet", unet),
        _class(scheduler).from_pretrained(folder / "scheduler"),
        any(index.get(name, [None])[0] for name in AUTOENCODERS),
    )


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _unet(folder: Path, name: str | None) -> nn.Module:
    unet: nn.Module = _class(name).from_pretrained(folder, low_cpu_mem_usage=False)  # the other way needs accelerate
    return unet


def _class(name: str | None) -> Any:
    """Return the class of diffusers with this name.

    Raises:
        ValueError: diffusers has no class with this name.
    """
    require_packages("from_diffusers", "diffusers")
    found = getattr(import_library("diffusers"), name or "", None)
    if found is None:
        raise ValueError(
            f"diffusers has no class {name!r}; load the parts with the library that has it, and pass the pipeline, or "
            "the U-Net with scheduler=..."
        )
    return found


def _scheduler(scheduler: Any) -> Any:
    """Return a scheduler, also from its configuration."""
    if scheduler is None:
        raise ValueError("a U-Net needs scheduler=, that of its training, such as DDPMScheduler()")
    if not isinstance(scheduler, Mapping):
        return scheduler
    if (name := scheduler.get("_class_name")) is None:
        raise ValueError(
            "the scheduler's configuration has no '_class_name'; pass the scheduler, or the content of "
            "scheduler_config.json"
        )
    return _class(name).from_config(scheduler)


def _training(scheduler: Any) -> Training:
    """Return the noise schedule and the prediction for which a scheduler is made."""
    name, config = type(scheduler).__name__, scheduler.config
    for option, value in UNSUPPORTED.items():
        if config.get(option) == value:
            raise ValueError(f"{name} has {option}={value!r}, which is not supported; use scoresde_fast.wrap")
    prediction = config.get("prediction_type", "epsilon")
    if name == "ScoreSdeVeScheduler":
        # Its pipeline returns images in [0, 1], the range of the data of these networks.
        return Training(VESDE(config.sigma_min, config.sigma_max), "score", data_range=(0.0, 1.0))
    if name in EDM_SCHEDULERS:
        schedule = EDM(config.sigma_min, config.sigma_max)
        return Training(schedule, "denoiser", sigma_data=config.sigma_data, predicts_v=prediction == "v_prediction")
    if name.startswith("FlowMatch") or prediction == "flow_prediction":
        steps = config.num_train_timesteps
        return Training(RectifiedFlow(), "flow", labels=lambda t: steps * t)
    if not hasattr(scheduler, "betas"):
        raise ValueError(
            f"{name} is not supported: pass a scheduler with betas, such as DDPMScheduler, or ScoreSdeVeScheduler, "
            f"{', '.join(EDM_SCHEDULERS)} or FlowMatchEulerDiscreteScheduler"
        )
    betas = scheduler.betas.double().numpy()
    # With zero terminal SNR nothing of the data is left at the last index, so that sampling starts one before it.
    return Training(Betas(betas[:-1] if config.get("rescale_betas_zero_snr") else betas), prediction)


def _shape(config: Any) -> tuple[int, ...]:
    """Return the (C, H, W) of a U-Net's configuration."""
    size = config.sample_size
    if size is None:
        raise ValueError("the U-Net's configuration has no sample_size; pass shape=(C, H, W)")
    return (config.in_channels, *([size, size] if isinstance(size, int) else size))


def _network(unet: nn.Module, training: Training) -> Callable[..., Any]:
    """Return the network to wrap."""
    if isinstance(training.schedule, VESDE) and (network := as_ncsnpp(unet)) is not None:
        return network
    inputs = required_inputs(unet)
    if getattr(unet, "class_embedding", None) is not None:
        inputs.append("class_labels")
    if training.sigma_data is not None:
        return Preconditioned(unet, inputs, training.sigma_data, training.predicts_v)
    return Conditional(unet, inputs) if inputs else unet
