# SPDX-License-Identifier: Apache-2.0
"""Typed, validated sections of a configuration, compatible with the official score_sde files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args, get_type_hints

from scoresde_fast.configs.options import Length, Options, Range, require
from scoresde_fast.configs.weights import count_weights, require_size
from scoresde_fast.errors import unknown_message

SDEName = Literal["vesde", "vpsde", "subvpsde", "cld"]
ImageNetwork = Literal["ncsnpp", "ddpm"]
PointNetwork = Literal["mlp", "resnet"]

IGNORED: dict[str, tuple[str, ...]] = {
    "": ("eval", "seed", "device"),
    "data": ("category", "tfrecords_path"),
    "model": ("conv_size", "interpolation", "sigma_begin"),
    "training": ("eval_freq", "snapshot_sampling", "n_jitted_steps"),
    "optim": ("amsgrad",),
}
"""Options of the official files that are accepted and ignored, by section; "" lists whole sections. The official code
uses them for its input pipeline and jobs (``n_jitted_steps`` in JAX), for networks that are not here
(``interpolation``), or does not read them (``conv_size``, ``sigma_begin``, ``amsgrad``)."""
JOB_OPTIONS = ("n_iters", "log_freq", "snapshot_freq", "snapshot_freq_for_preemption")
"""Options of ``training`` that may change when a run goes on: how long it is, and when it reports and saves."""
MIN_WIDTH = 4
"""Fewest channels of a network of images: a group of its GroupNorm has at least four."""

Count = Annotated[int, Range(1, 10**9)]
Time = Annotated[float, Range(1e-10, 1, below=True)]
Fraction = Annotated[float, Range(0, 1, below=True)]


@dataclass(frozen=True)
class DataConfig(Options, section="data", ignored=IGNORED["data"]):
    """The training data.

    Attributes:
        centered: images are scaled to [-1, 1] for the network; otherwise to [0, 1].
        is_image: false for points with ``num_channels`` coordinates. They are not scaled, and ``image_size`` is 1.
    """

    dataset: Annotated[str, Length(1, 1000)] = "CIFAR10"
    image_size: Annotated[int, Range(1, 4096)] = 32
    num_channels: Annotated[int, Range(1, 4096)] = 3
    centered: bool = False
    random_flip: bool = True
    uniform_dequantization: bool = False
    is_image: bool = True


@dataclass(frozen=True)
class ModelConfig(Options, section="model", ignored=IGNORED["model"]):
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
    nf: Annotated[int, Range(1, 8192)] = 128
    ch_mult: Annotated[tuple[int, ...], Range(1, 256), Length(1, 13)] = (1, 2, 2, 2)
    num_res_blocks: Annotated[int, Range(1, 64)] = 4
    attn_resolutions: Annotated[tuple[int, ...], Range(1, 4096), Length(0, 13)] = (16,)
    resblock_type: Literal["ddpm", "biggan"] = "biggan"
    embedding_type: Literal["fourier", "positional"] = "fourier"
    fourier_scale: Annotated[float, Range(1e-3, 1e4)] = 16.0
    conditional: bool = True
    progressive: Literal["none", "output_skip", "residual"] = "none"
    progressive_input: Literal["none", "input_skip", "residual"] = "none"
    progressive_combine: Literal["sum", "cat"] = "sum"
    fir: bool = True
    fir_kernel: Annotated[tuple[float, ...], Range(1e-6, 1e6), Length(1, 16)] = (1.0, 3.0, 3.0, 1.0)
    resamp_with_conv: bool = True
    skip_rescale: bool = True
    scale_by_sigma: bool = False
    attention_type: Literal["ddpm"] = "ddpm"
    normalization: Literal["GroupNorm"] = "GroupNorm"
    nonlinearity: Literal["swish", "elu", "relu", "lrelu"] = "swish"
    init_scale: Annotated[float, Range(0, 1e3)] = 0.0
    dropout: Fraction = 0.1
    ema_rate: Fraction = 0.9999
    num_scales: Annotated[int, Range(0, 10**6)] = 1000
    sigma_min: Annotated[float, Range(1e-8, 1e6)] = 0.01
    sigma_max: Annotated[float, Range(1e-8, 1e6)] = 50.0
    beta_min: Annotated[float, Range(1e-6, 1e3)] = 0.1
    beta_max: Annotated[float, Range(1e-6, 1e3)] = 20.0
    mixed_score: bool = False
    label_scale: Annotated[float, Range(1e-6, 1e6)] = 999.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.nf >= MIN_WIDTH or not self.is_for_images,
            f"model.nf is {self.nf}; networks for images need at least {MIN_WIDTH} channels",
        )
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
class TrainingConfig(Options, section="training", ignored=IGNORED["training"]):
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
    loss_eps: Time = 1e-5
    loss_times: Literal["uniform", "quadratic"] = "uniform"
    batch_size: Annotated[int, Range(1, 10**6)] = 128
    n_iters: Count = 1300001
    log_freq: Count = 50
    snapshot_freq: Count = 50000
    snapshot_freq_for_preemption: Count = field(default=10000, compare=False)


@dataclass(frozen=True)
class SamplingConfig(Options, section="sampling"):
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
    n_steps_each: Annotated[int, Range(1, 10**4)] = 1
    steps: Annotated[int | None, Range(1, 10**5)] = None
    noise_removal: bool = True
    probability_flow: bool = False
    snr: Annotated[float, Range(1e-6, 1e3)] = 0.16
    grid: Literal[
        "uniform", "quadratic", "sqrt", "karras", "logsnr", "beta", "kl_optimal", "ays", "ays_sdxl"
    ] = "uniform"  # fmt: skip
    order: Annotated[int | None, Range(1, 4)] = None
    eps: Annotated[float | None, Range(1e-10, 1, below=True)] = None


@dataclass(frozen=True)
class OptimConfig(Options, section="optim", ignored=IGNORED["optim"]):
    """The optimiser, Adam or AdamW.

    Attributes:
        warmup: number of steps at the start, over which the learning rate rises linearly.
        decay: number of steps at the end, over which the learning rate falls linearly to 0; extension of the format.
        grad_clip: maximum gradient norm; a negative number disables clipping.
    """

    optimizer: Literal["Adam", "AdamW"] = "Adam"
    lr: Annotated[float, Range(0, 1e3, above=True)] = 2e-4
    beta1: Fraction = 0.9
    eps: Annotated[float, Range(0, 1, above=True)] = 1e-8
    weight_decay: Annotated[float, Range(0, 1e3)] = 0.0
    warmup: Annotated[int, Range(0, 10**9)] = 5000
    decay: Annotated[int, Range(0, 10**9)] = 0
    grad_clip: Annotated[float, Range(-1e9, 1e9)] = 1.0


@dataclass(frozen=True)
class CLDConfig(Options, section="cld"):
    """The diffusion of a CLD model: the arguments of `CLDSDE`."""

    m_inv: Annotated[float, Range(1e-6, 1e6)] = 4.0
    friction: Annotated[float | None, Range(1e-6, 1e6)] = None
    beta0: Annotated[float, Range(0, 1e3)] = 4.0
    beta1: Annotated[float, Range(-1e3, 1e3)] = 0.0
    gamma: Annotated[float, Range(1e-6, 1e3)] = 0.04
    numerical_eps: Annotated[float, Range(0, 1)] = 1e-9
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
        require_size(count_weights(self), "model.nf, model.ch_mult or model.num_res_blocks")
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
        return cls(**{name: section.from_dict(options.get(name, {})) for name, section in sections.items()})

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return the options as JSON values, for ``Config.from_dict``."""
        return {section.name: getattr(self, section.name).to_dict() for section in fields(self)}

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
