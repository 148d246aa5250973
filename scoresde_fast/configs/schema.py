# SPDX-License-Identifier: Apache-2.0
"""Typed, validated sections of a configuration, compatible with the official score_sde files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from itertools import pairwise
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from scoresde_fast.errors import unknown_message

Section = TypeVar("Section")
SDEName = Literal["vesde", "vpsde", "subvpsde", "cld"]
ImageNetwork = Literal["ncsnpp", "ddpm"]
PointNetwork = Literal["mlp", "resnet"]

IGNORED: dict[str, frozenset[str]] = {
    "": frozenset({"eval", "seed", "device"}),
    "data": frozenset({"category", "tfrecords_path"}),
    "model": frozenset({"conv_size", "sigma_begin"}),
    "training": frozenset({"eval_freq", "snapshot_sampling"}),
    "optim": frozenset({"amsgrad"}),
}
"""Options of the official files that are accepted and ignored, by section; "" lists whole sections. The official code
uses them for its input pipeline and jobs, or does not read them (``conv_size``, ``sigma_begin``, ``amsgrad``)."""
JOB_OPTIONS = ("n_iters", "log_freq", "snapshot_freq", "snapshot_freq_for_preemption")
"""Options of ``training`` that may change when a run goes on: how long it is, and when it reports and saves."""


@dataclass(frozen=True)
class DataConfig:
    """The training data.

    Attributes:
        centered: images are scaled to [-1, 1] for the network; otherwise to [0, 1].
        is_image: false for points with ``num_channels`` coordinates. They are not scaled, and ``image_size`` is 1.
    """

    dataset: str = "CIFAR10"
    image_size: int = 32
    num_channels: int = 3
    centered: bool = False
    random_flip: bool = True
    uniform_dequantization: bool = False
    is_image: bool = True

    def __post_init__(self) -> None:
        require_positive("data", self, "image_size", "num_channels")


@dataclass(frozen=True)
class ModelConfig:
    """The network and the noise scales of its SDE.

    Attributes:
        name: an `ImageNetwork` ("ddpm" ignores ``embedding_type`` and ``resblock_type``), or a `PointNetwork` with
            ``num_res_blocks`` hidden layers or residual blocks of width ``nf``.
        num_scales: number of noise levels; 0 if the model has no table of noise levels.
        mixed_score: add the network's output to the score of Gaussian data (CLD and VP; Dockhorn et al. 2022,
            section 3.3).
        label_scale: the network of a continuous VP or sub-VP model receives ``label_scale`` times t.
    """

    name: Literal[ImageNetwork, PointNetwork]
    nf: int = 128
    ch_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    resblock_type: Literal["ddpm", "biggan"] = "biggan"
    embedding_type: Literal["fourier", "positional"] = "fourier"
    fourier_scale: float = 16.0
    conditional: bool = True
    progressive: Literal["none", "output_skip", "residual"] = "none"
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    progressive_combine: Literal["sum", "cat"] = "sum"
    fir: bool = True
    fir_kernel: tuple[float, ...] = (1.0, 3.0, 3.0, 1.0)
    resamp_with_conv: bool = True
    skip_rescale: bool = True
    scale_by_sigma: bool = False
    attention_type: Literal["ddpm"] = "ddpm"
    normalization: Literal["GroupNorm"] = "GroupNorm"
    nonlinearity: Literal["swish", "elu", "relu", "lrelu"] = "swish"
    init_scale: float = 0.0
    dropout: float = 0.1
    ema_rate: float = 0.9999
    num_scales: int = 1000
    sigma_min: float = 0.01
    sigma_max: float = 50.0
    beta_min: float = 0.1
    beta_max: float = 20.0
    mixed_score: bool = False
    label_scale: float = 999.0

    def __post_init__(self) -> None:
        require_positive(
            "model", self, "nf", "ch_mult", "num_res_blocks", "attn_resolutions", "fir_kernel", "fourier_scale",
            "sigma_min", "beta_min", "label_scale",
        )  # fmt: skip
        require(self.num_scales >= 0, f"model.num_scales is {self.num_scales}; it must not be negative")
        require(bool(self.ch_mult), "model.ch_mult is empty; it needs a number for each resolution")
        require(bool(self.fir_kernel), "model.fir_kernel is empty; the published filter is [1, 3, 3, 1]")
        require(self.init_scale >= 0, f"model.init_scale is {self.init_scale}; it must not be negative")
        require(0 <= self.dropout < 1, f"model.dropout is {self.dropout}; it must be at least 0 and below 1")
        require(0 <= self.ema_rate < 1, f"model.ema_rate is {self.ema_rate}; it must be at least 0 and below 1")
        for low, high in (("sigma_min", "sigma_max"), ("beta_min", "beta_max")):
            a, b = getattr(self, low), getattr(self, high)
            require(a < b, f"model.{low} is {a} and model.{high} is {b}; {low} must be smaller")
        for width in self._group_norm_widths() if self.is_for_images else ():
            groups = 32 if self.name == "ddpm" else min(max(width // 4, 1), 32)
            require(
                width % groups == 0,
                f"model.nf {self.nf} with model.ch_mult {list(self.ch_mult)} gives a layer of {width} channels, which "
                f"cannot be normalised in {groups} groups; any multiple of 32 is a valid model.nf",
            )

    @property
    def is_for_images(self) -> bool:
        """Whether the network is for images; otherwise it is for points."""
        return self.name in get_args(ImageNetwork)

    def _group_norm_widths(self) -> list[int]:
        """Return the channel counts of an image network's GroupNorm layers, also after skips are concatenated."""
        widths = [self.nf, *(self.nf * mult for mult in self.ch_mult)]
        return [*widths, *(2 * w for w in widths), *(a + b for a, b in pairwise(widths))]


@dataclass(frozen=True)
class TrainingConfig:
    """The SDE, the objective and the length of the run.

    Attributes:
        continuous: false for models with a finite number of noise levels.
        weighting: weights of CLD's objective (Dockhorn et al. 2022, section 3.1).
        loss_eps: smallest training time.
        loss_times: extension of the official format. "quadratic" squares uniform times, so that half of them lie
            below 1/4. CLD with constant beta generates most image content there.
        snapshot_freq: steps between snapshots of the averaged weights, which are kept.
        snapshot_freq_for_preemption: steps between saved states, of which only the last two are kept.
    """

    sde: SDEName
    continuous: bool = True
    likelihood_weighting: bool = False
    reduce_mean: bool = False
    weighting: Literal["reweightedv2", "reweightedv1", "likelihood"] = "reweightedv2"
    loss_eps: float = 1e-5
    loss_times: Literal["uniform", "quadratic"] = "uniform"
    batch_size: int = 128
    n_iters: int = 1300001
    log_freq: int = 50
    snapshot_freq: int = 50000
    snapshot_freq_for_preemption: int = field(default=10000, compare=False)

    def __post_init__(self) -> None:
        require_positive("training", self, "batch_size", "loss_eps", *JOB_OPTIONS)
        require(self.loss_eps < 1, f"training.loss_eps is {self.loss_eps}; it must be below 1")


@dataclass(frozen=True)
class SamplingConfig:
    """The model's default sampler.

    Attributes:
        steps: number of steps, by default ``num_scales``; extension of the official format.
        grid, order: as in `SolverOptions`.
        eps: time at which sampling stops, by default the SDE's.
    """

    method: Literal["pc", "ode"] = "pc"
    predictor: Literal["none", "euler_maruyama", "reverse_diffusion", "ancestral_sampling", "sscs", "gddim"] = (
        "euler_maruyama"
    )
    corrector: Literal["none", "langevin", "ald"] = "none"
    n_steps_each: int = 1
    steps: int | None = None
    noise_removal: bool = True
    probability_flow: bool = False
    snr: float = 0.16
    grid: Literal["uniform", "quadratic", "sqrt", "karras", "logsnr"] = "uniform"
    order: int | None = None
    eps: float | None = None

    def __post_init__(self) -> None:
        require_positive("sampling", self, "n_steps_each", "snr")
        require(self.steps is None or self.steps > 0, f"sampling.steps is {self.steps}; it must be greater than 0")


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser, Adam or AdamW.

    Attributes:
        warmup: number of steps at the start, over which the learning rate rises linearly.
        decay: number of steps at the end, over which the learning rate falls linearly to 0; extension of the format.
        grad_clip: maximum gradient norm; a negative number disables clipping.
    """

    optimizer: Literal["Adam", "AdamW"] = "Adam"
    lr: float = 2e-4
    beta1: float = 0.9
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 5000
    decay: int = 0
    grad_clip: float = 1.0

    def __post_init__(self) -> None:
        require_positive("optim", self, "lr", "eps")
        require(0 <= self.beta1 < 1, f"optim.beta1 is {self.beta1}; it must be at least 0 and below 1")
        for name in ("weight_decay", "warmup", "decay"):
            require(getattr(self, name) >= 0, f"optim.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True)
class CLDConfig:
    """The diffusion of a CLD model: the arguments of `CLDSDE`."""

    m_inv: float = 4.0
    friction: float | None = None
    beta0: float = 4.0
    beta1: float = 0.0
    gamma: float = 0.04
    numerical_eps: float = 1e-9
    objective: Literal["hsm", "dsm"] = "hsm"


@dataclass(frozen=True)
class Config:
    """A complete configuration. ``model.name`` and ``training.sde`` are required; defaults are the official values."""

    model: ModelConfig
    training: TrainingConfig
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    cld: CLDConfig = field(default_factory=CLDConfig)

    def __post_init__(self) -> None:
        halvings = len(self.model.ch_mult) - 1 if self.data.is_image else 0
        require(
            self.data.image_size % 2**halvings == 0,
            f"data.image_size is {self.data.image_size}; the {halvings + 1} resolutions of model.ch_mult halve it "
            f"{halvings} times, so it must be a multiple of {2**halvings}",
        )
        require(
            self.model.num_scales > 0 or (self.training.continuous and self.training.sde != "vesde"),
            "model.num_scales is 0, which means no table of noise levels; VE and discrete models need a table",
        )
        require(
            self.model.num_scales > 0 or not self.model.scale_by_sigma,
            "model.scale_by_sigma is true, but model.num_scales is 0, so there is no noise level to divide by: set "
            "scale_by_sigma to false",
        )
        require(
            self.training.continuous or self.training.sde != "cld",
            "training.continuous is false; CLD models are continuous in time: set it to true",
        )
        require(
            not self.model.mixed_score or self.training.sde in ("cld", "vpsde"),
            f"model.mixed_score is for the SDEs 'cld' and 'vpsde', but training.sde is {self.training.sde!r}",
        )
        require(
            self.data.is_image == self.model.is_for_images,
            f"model.name is {self.model.name!r} and data.is_image is {str(self.data.is_image).lower()}: "
            f"{' and '.join(map(repr, get_args(ImageNetwork)))} are for images, "
            f"{' and '.join(map(repr, get_args(PointNetwork)))} for points",
        )
        require(
            self.data.is_image or self.data.image_size == 1,
            f"data.image_size is {self.data.image_size}; with data.is_image false it must be 1, and data.num_channels "
            "is the number of coordinates of a point",
        )
        require(
            self.training.continuous or self.model.name == "ddpm" or self.model.embedding_type == "positional",
            "model.embedding_type 'fourier' embeds continuous noise levels; with training.continuous false it must be "
            "'positional'",
        )

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> Config:
        """Build a configuration from ``{section: {option: value}}``.

        Raises:
            ValueError: a section or an option is unknown or invalid; the message lists the valid values.
        """
        sections = get_type_hints(cls)
        for name in options:
            if name not in sections and name not in IGNORED[""]:
                raise ValueError(unknown_message("section of a configuration", name, sections))
        return cls(**{name: read_section(name, section, options.get(name, {})) for name, section in sections.items()})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the options as JSON values, for ``Config.from_dict``."""
        return {section.name: to_plain_dict(getattr(self, section.name)) for section in fields(self)}

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return `to_dict` for the manifests of sets, without an option that older ones lack and no sample needs."""
        options = self.to_dict()
        del options["training"]["snapshot_freq_for_preemption"]
        return options


def without_job_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without `JOB_OPTIONS`, which do not change what a step of training does."""
    training = config.get("training")
    if not isinstance(training, Mapping):
        return dict(config)
    return {**config, "training": {name: value for name, value in training.items() if name not in JOB_OPTIONS}}


def read_section(section: str, cls: type[Section], options: Any) -> Section:
    """Build the dataclass ``cls`` from the options of a section.

    Raises:
        ValueError: an option is unknown, missing or of the wrong type, or ``options`` is not a mapping; the message
            lists the valid values.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"section {section!r} of a configuration is {options!r}; it must be a mapping of options")
    hints = get_type_hints(cls)
    ignored = IGNORED.get(section, frozenset())
    for name in options:
        if name not in hints and name not in ignored:
            raise ValueError(unknown_message(f"option of section {section!r}", name, hints))
    for option in fields(cls):  # type: ignore[arg-type]
        if option.default is MISSING and option.name not in options:
            choices = get_args(hints[option.name]) if get_origin(hints[option.name]) is Literal else ()
            allowed = f": one of {', '.join(map(repr, choices))}" if choices else ""
            raise ValueError(f"a configuration must contain {section}.{option.name}{allowed}")
    return cls(**{name: _checked(f"{section}.{name}", hints[name], v) for name, v in options.items() if name in hints})


def to_plain_dict(section: Any) -> dict[str, Any]:
    """Return the options of a section as JSON values, for `read_section`."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(section).items()}


def _checked(name: str, kind: Any, value: Any) -> Any:
    """Return ``value`` as the option's type ``kind``; raise ValueError if it has another type."""
    if get_origin(kind) is UnionType:
        return None if value is None else _checked(name, get_args(kind)[0], value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(unknown_message(name, value, get_args(kind)))
        return value
    if get_origin(kind) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name} is {value!r}; it must be a list")
        return tuple(_checked(name, get_args(kind)[0], item) for item in value)
    # Python counts bool as int, but `true` as a number is a mistake.
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if kind is float:
        if not is_integer and not (isinstance(value, float) and math.isfinite(value)):
            raise ValueError(f"{name} is {value!r}; it must be a finite number")
        return float(value)
    if not (is_integer if kind is int else isinstance(value, kind)):
        expected = {int: "an integer", bool: "true or false", str: "a string"}[kind]
        raise ValueError(f"{name} is {value!r}; it must be {expected}")
    return value


def require_positive(section: str, options: object, *names: str) -> None:
    """Raise ValueError unless the named options, numbers or tuples of numbers, are all greater than 0."""
    for name in names:
        value = getattr(options, name)
        for number in value if isinstance(value, tuple) else (value,):
            require(number > 0, f"{section}.{name} is {number}; it must be greater than 0")


def require(condition: bool, message: str) -> None:
    """Raise ValueError with ``message`` unless ``condition`` is true."""
    if not condition:
        raise ValueError(message)
