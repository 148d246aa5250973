# SPDX-License-Identifier: Apache-2.0
"""Score models: a network with its parametrisation on an SDE."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from scoresde_fast.code_identity import code_sha256
from scoresde_fast.configs import Config, ConfigLike, load_config
from scoresde_fast.errors import shown
from scoresde_fast.networks import DDPM, MLP, NCSNpp, ResNet, ScoreNetwork
from scoresde_fast.networks.adapter import Adapter, Conditional
from scoresde_fast.parametrisation import (
    LabelFunction,
    OfficialParametrisation,
    Parametrisation,
    Prediction,
    PredictionParametrisation,
    usual_labels,
)
from scoresde_fast.sdes import CLDSDE, SDE, SDES, Array, ScalarSDE

MOST_DATA = 1e6
"""Largest value of a data range; float32 has few digits for images in larger ones."""

NETWORKS: dict[str, type[nn.Module]] = {"ncsnpp": NCSNpp, "ddpm": DDPM, "mlp": MLP, "resnet": ResNet}


def as_column(values: Array, like: Tensor) -> Tensor:
    """Return NumPy values (B,) as a tensor (B, 1, ...) that broadcasts with ``like``, with its dtype and device."""
    return torch.from_numpy(values).to(like.device, like.dtype).view(-1, *[1] * (like.ndim - 1))


class ScoreFunction(nn.Module):
    """The score of p_t for every t, computed by a network and its `Parametrisation`.

    Args:
        network: ``network(x, labels)``, (B, *state_shape), (B,) -> (B, *image_shape).
        parametrisation: the SDE, the labels of the network and the scale of its output.
        image_shape: (C, H, W) of one sample.
        data_range: the range of the data that the pixel values 0 and 255 have in the network; None for points, which
            are neither scaled nor clipped.

    Attributes:
        folder: the saved folder from which the model was loaded, which may have files with what was computed for it.
    """

    folder: Path | None = None

    def __init__(
        self,
        network: nn.Module,
        parametrisation: Parametrisation,
        image_shape: tuple[int, ...],
        data_range: tuple[float, float] | None = (-1.0, 1.0),
    ) -> None:
        super().__init__()
        self.network = network
        self.parametrisation = parametrisation
        self.image_shape = tuple(image_shape)
        self.data_range = data_range

    def extra_repr(self) -> str:
        return f"{self.parametrisation}, image_shape={self.image_shape}, data_range={self.data_range}"

    @property
    def is_image(self) -> bool:
        """Whether samples are images rather than points."""
        return self.data_range is not None

    @property
    def span(self) -> float:
        """Length of the data range; 2 for points, as if they were in [-1, 1]."""
        low, high = self.data_range or (-1.0, 1.0)
        return high - low

    @property
    def sde(self) -> SDE:
        """SDE with the marginals p_t."""
        return self.parametrisation.sde

    @property
    def state_shape(self) -> tuple[int, ...]:
        """Shape of one state: ``image_shape``, or on CLD (2C, H, W) for position and velocity."""
        return (self.sde.parts * self.image_shape[0], *self.image_shape[1:])

    @property
    def own_device(self) -> torch.device:
        """The device of the weights; without weights, that of the buffers, or a GPU if there is one."""
        tensor = next(iter((*self.network.parameters(), *self.network.buffers())), None)
        if tensor is not None:
            return tensor.device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def at_trained_times(self) -> ScoreFunction:
        """Return the model with the marginals and labels of a training at discrete times, or itself."""
        parametrisation = self.parametrisation
        if isinstance(parametrisation, OfficialParametrisation):
            parametrisation = parametrisation.at_trained_times()
        if parametrisation is self.parametrisation:
            return self
        return ScoreFunction(self.network, parametrisation, self.image_shape, self.data_range)

    def prior(self, normals: Tensor) -> Tensor:
        """Return states at T from standard normals (B, *state_shape)."""
        parts = normals.chunk(self.sde.parts, dim=1)
        return torch.cat([std * part for std, part in zip(self.sde.prior_stds, parts, strict=True)], dim=1)

    def score(self, x: Tensor, t: Tensor | float, **inputs: Tensor) -> Tensor:
        """Return grad_x log p_t(x) for a time per sample: (B, *state_shape), (B,) -> (B, *image_shape).

        A single time is that of all samples.  On CLD ``x`` is position and velocity, and the score is that of the
        velocity.  ``inputs`` (B, ...) are those of a conditional network.

        Raises:
            ValueError: the shape of ``x`` is not that of states, or ``t`` is neither one time nor one for each sample.
        """
        if x.shape[1:] != self.state_shape:
            pair = ", position and velocity concatenated along the channels" if self.sde.parts == 2 else ""
            raise ValueError(
                f"states have shape {tuple(x.shape[1:])}; this model on the SDE {self.sde.name!r} needs "
                f"{self.state_shape}{pair}"
            )
        # Coefficients are computed in float64 on the host and rounded once.
        times, p = _times(t, len(x)), self.parametrisation
        labels = torch.from_numpy(p.labels(times)).to(x.device, x.dtype)
        output_scale, state_scale = (as_column(scale, x) for scale in (p.output_scale(times), p.state_scale(times)))
        return self.network(x, labels, **inputs) * output_scale + state_scale * x.chunk(self.sde.parts, dim=1)[-1]

    forward = score

    def denoising_factors(self, t: Array) -> Array:
        """Return the factors (..., parts + 1) of the state's parts and of the network's output in E[x(0) | x(t)].

        Raises:
            ValueError: on CLD, as `CLDSDE.joint_score`.
        """
        state, score = self.sde.denoised(t)
        factors = np.concatenate([state, (score * self.parametrisation.output_scale(t))[..., None]], axis=-1)
        factors[..., -2] += score * self.parametrisation.state_scale(t)
        return factors

    def probability_flow(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return dx/dt of the probability-flow ODE: (B, *state_shape), (B,) -> (B, *state_shape).

        f - g^2 score / 2 (Song et al. 2021, equation 13); on CLD, which has noise in v only, F u - (0, Gamma beta s_v).

        Raises:
            ValueError: as `score`.
        """
        score, times = self.score(x, t), _times(t, len(x))
        if isinstance(self.sde, CLDSDE):
            position, velocity = x.chunk(2, dim=1)
            drift = self.sde.drift(times)
            force = as_column(drift[:, 1, 0], x) * position + as_column(drift[:, 1, 1], x) * velocity
            noise = as_column(self.sde.diffusion(times) ** 2 / 2, x)
            return torch.cat([as_column(drift[:, 0, 1], x) * velocity, force - noise * score], dim=1)
        assert isinstance(self.sde, ScalarSDE)
        drift_x, drift_score, _ = self.sde.reverse(times, probability_flow=True)
        return as_column(drift_x, x) * x + as_column(drift_score, x) * score

    def from_images(self, images: Tensor) -> Tensor:
        """Return images in [0, 1] scaled to the range of this model's data; points are unchanged."""
        return images if self.data_range is None else self.span * images + self.data_range[0]

    def to_images(self, x: Tensor) -> Tensor:
        """Return samples as images clipped to [0, 1]; points are unchanged."""
        return x if self.data_range is None else ((x - self.data_range[0]) / self.span).clamp(0, 1)


def _times(t: Any, count: int) -> Array:
    """Return the times (``count``,) float64 of samples, from one for all or one for each.

    Raises:
        ValueError: there is another number of times, or they are no numbers.
    """
    try:
        times = np.asarray(t.detach().double().cpu() if isinstance(t, Tensor) else t, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"t is {shown(t)}; it must be a time, such as 0.5, or one for each sample") from error
    if times.shape not in ((), (1,), (count,)):
        raise ValueError(f"t has shape {times.shape}; it must be one time, or one for each of the {count} samples")
    return np.broadcast_to(times, (count,)).copy()


class ScoreModel(ScoreFunction, PyTorchModelHubMixin):
    """A score model built from a configuration, with fresh weights.

    ``save_pretrained`` and ``from_pretrained`` use ``config.json`` and ``model.safetensors``.

    Args:
        config: a preset, a mapping in the official format, a file or a `Config`; see `load_config`.

    Raises:
        ValueError: the configuration is not valid.
    """

    def __init__(self, config: ConfigLike) -> None:
        parsed = load_config(config)
        data, model, training = parsed.data, parsed.model, parsed.training
        parametrisation = OfficialParametrisation(
            build_sde(parsed),
            continuous=training.continuous,
            num_scales=model.num_scales,
            mixed=model.mixed_score,
            label_scale=model.label_scale,
        )
        super().__init__(
            build_network(parsed).float(),  # whatever torch's default dtype
            parametrisation,
            (data.num_channels, data.image_size, data.image_size),
            (-1.0 if data.centered else 0.0, 1.0) if data.is_image else None,
        )
        self.config = parsed
        self._hub_mixin_config = parsed.to_dict()


def build_sde(config: Config) -> SDE:
    """Return the SDE of a configuration; its fields are the options of the same name, in "model" or "cld".

    A field whose option is None has its default.
    """
    sde = SDES[config.training.sde]
    options: Mapping[str, Any] = {**vars(config.model), **vars(config.cld)}
    return sde(**{field.name: options[field.name] for field in fields(sde) if options.get(field.name) is not None})


def build_network(config: Config) -> nn.Module:
    """Return the network of a configuration with fresh weights; its arguments are the options of the same name."""
    network = NETWORKS[config.model.name]
    in_channels = SDES[config.training.sde].parts * config.data.num_channels
    options: Mapping[str, Any] = {**vars(config.model), **vars(config.data), "in_channels": in_channels}
    return network(**{name: options[name] for name in inspect.signature(network).parameters if name in options})


def create(config: ConfigLike) -> ScoreModel:
    """Return a score model with fresh weights; arguments and errors are those of `ScoreModel`."""
    return ScoreModel(config)


def wrap(
    network: Callable[..., Any],
    schedule: SDE,
    *,
    prediction: Prediction,
    shape: Sequence[int],
    labels: str | LabelFunction | None = None,
    data_range: tuple[float, float] | None = (-1.0, 1.0),
    deep_modules: Sequence[str] = (),
) -> ScoreFunction:
    """Return a score model that uses a network of any library; it works wherever a loaded model does.

    The network is evaluated once, to check its output; if it has further arguments, a sampler does so with its inputs.
    It is not copied: later changes of its weights take effect.

    Args:
        network: ``network(x, labels)``, (B, *shape) float32, (B,) -> (B, *shape).  It may also return an object with
            the output as ``sample``, or twice the channels, of which the second half (a learned variance) is ignored.
            Pass an ``nn.Module``, rather than a function, so that its weights move to the device of a sampler.
        schedule: the marginals alpha(t), sigma(t) of the network's training: `Betas`, `EDM`, `RectifiedFlow`,
            `Schedule` or an SDE.
        prediction: what the network predicts, and
        labels: the time labels that it takes: see `PredictionParametrisation`.  By default "index" for `Betas`,
            "sigma" for `EDM` and `VESDE`, "time" for `RectifiedFlow` and CLD, else "time_999".
        shape: (C, H, W) of one sample.
        data_range: the values that black and white have in the network's data; None for points, which are neither
            scaled nor clipped.
        deep_modules: for the option ``cache_interval`` the names of modules whose outputs may be reused between steps,
            such as "mid_block": all blocks of a U-Net but those next to the image.

    Raises:
        TypeError: ``network`` cannot be called, or ``schedule`` is not a schedule.
        ValueError: the prediction or the labels do not fit the schedule, the network cannot be evaluated, its output
            has another shape, its weights are not float32, or it has no module of a name in ``deep_modules``.
    """
    name = type(network).__name__
    if isinstance(network, ScoreFunction) or inspect.isclass(network) or not callable(network):
        given = f"the class {network.__name__}" if inspect.isclass(network) else f"of type {name}"
        raise TypeError(f"network is {given}; pass a module or function network(x, labels)")
    if not isinstance(schedule, SDE):
        raise TypeError(
            f"schedule is of type {type(schedule).__name__}; pass a schedule such as Betas(array), EDM(), "
            "RectifiedFlow() or Schedule(alpha, sigma)"
        )
    if not isinstance(shape, Sequence) or not shape or not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"shape is {shape!r}; it must be the shape of one sample, such as (3, 32, 32)")
    is_range = isinstance(data_range, Sequence) and len(data_range) == 2
    if data_range is not None and not (is_range and -MOST_DATA <= data_range[0] < data_range[1] <= MOST_DATA):
        raise ValueError(f"data_range is {data_range!r}; it must be (low, high), such as (-1, 1), or None for points")
    label = usual_labels(schedule) if labels is None else labels
    parametrisation = PredictionParametrisation(schedule, prediction, label)
    if not isinstance(network, ScoreNetwork):  # networks of this package are folded
        integer_labels = parametrisation.integer_labels
        network = Adapter(network, shape[0], integer_labels=integer_labels, deep_modules=deep_modules)
    model = ScoreFunction(network, parametrisation, tuple(shape), data_range)
    if not network_inputs(network):  # otherwise the inputs of a sampler are needed
        require_output(model, {})
    return model


def required_inputs(network: Callable[..., Any]) -> list[str]:
    """Return the names of the inputs that a network needs besides the state and the time."""
    return [name for name, required in network_inputs(network).items() if required]


def network_inputs(network: Callable[..., Any]) -> dict[str, bool]:
    """Return the names of a network's arguments besides the state and the time, and whether each is required."""
    function = network.network if isinstance(network, Adapter) else network
    if isinstance(function, Conditional):
        return dict.fromkeys(function.required_inputs, True)
    try:
        parameters = inspect.signature(function.forward if isinstance(function, nn.Module) else function).parameters
    except (TypeError, ValueError):  # compiled
        return {}
    named = [each for each in parameters.values() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    return {each.name: each.default is each.empty for each in named[2:]}


def network_name(network: nn.Module) -> str:
    """Return the name of a network's class, without adapters."""
    return type(network.network if isinstance(network, Adapter) else network).__name__


@contextmanager
def evaluation_mode(*networks: nn.Module) -> Iterator[None]:
    """Set networks to evaluation mode, and restore the mode of each module afterwards."""
    training = [module for network in networks for module in network.modules() if module.training]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def require_float32(network: nn.Module) -> None:
    """Raise ``ValueError`` unless the weights of a network are float32."""
    other = next((weight for weight in network.parameters() if weight.dtype != torch.float32), None)
    if other is not None and other.is_floating_point():
        raise ValueError(
            f"the weights of {network_name(network)} are {str(other.dtype).removeprefix('torch.')}; call .float() on "
            "it: the option precision chooses the precision of its arithmetic"
        )


def require_output(model: ScoreFunction, inputs: Mapping[str, Tensor]) -> None:
    """Evaluate a model's network at eps and at T, with ``inputs`` (2, ...).

    Raises:
        ValueError: the network needs other inputs, cannot be evaluated, returns another shape, or its weights are not
            float32.
    """
    network, sde, shape = model.network, model.sde, model.image_shape
    name = network_name(network)
    if missing := [input for input in required_inputs(network) if input not in inputs]:
        raise ValueError(
            f"{name} needs the inputs {missing}, and was given {list(inputs)}: pass inputs={{{missing[0]!r}: ...}} "
            f"with a row per seed, on the command line --inputs {missing[0]}=..."
        )
    require_float32(network)
    x = torch.zeros(2, *model.state_shape, dtype=torch.float32, device=model.own_device)
    labels = torch.from_numpy(model.parametrisation.labels(np.array([sde.sampling_eps, sde.T]))).to(x.device, x.dtype)
    try:
        with torch.no_grad(), evaluation_mode(network):
            output = network(x, labels, **inputs)
    except Exception as error:
        kind = "int64" if getattr(network, "integer_labels", False) else "float32"
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        given = "".join(f", {name} {value.dtype} {tuple(value.shape)}" for name, value in inputs.items())
        if optional := [name for name in network_inputs(network) if name not in inputs]:
            given += f", without the inputs {optional}"
        raise ValueError(
            f"{name} cannot be evaluated on float32 samples {tuple(x.shape)} with {kind} labels "
            f"{[round(label, 4) for label in labels.tolist()]}{given}: {reason}; shape, labels and inputs must be "
            "those of its training"
        ) from error
    if output.shape != (2, *shape):
        raise ValueError(
            f"{name} returns shape {tuple(output.shape)} for samples {tuple(x.shape)}; with shape={shape} it must "
            f"return {(2, *shape)}"
        )


def describe_model(model: ScoreFunction) -> dict[str, Any]:
    """Return what identifies a model, as JSON values: a hash of its weights, and its configuration.

    Without a configuration: its network's code, its SDE and parametrisation, and the shape and range of its samples.
    """
    weights = {"weights_sha256": weights_sha256(model)}
    if isinstance(model, ScoreModel):
        return {**weights, "config": model.config.describe()}
    return {
        **weights,
        "network": type(model.network).__name__,
        "code_sha256": code_sha256(model.network),
        **model.parametrisation.describe(),
        "image_shape": list(model.image_shape),
        "data_range": None if model.data_range is None else list(model.data_range),
    }


def weights_sha256(model: nn.Module) -> str:
    """Return the SHA-256 of a model's weights and buffers: their names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
