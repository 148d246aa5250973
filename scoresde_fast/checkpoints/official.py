# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of PyTorch: reading without executing code, strict loading, and the presets that fit them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scoresde_fast.checkpoints.layouts import AVERAGED, RAW, find_weights
from scoresde_fast.checkpoints.pickles import require_checksums, require_modest
from scoresde_fast.checkpoints.tensor_files import REAL, is_safetensors, read_safetensors, require_real
from scoresde_fast.configs import Config, DataConfig, TrainingConfig, load_config, preset_names
from scoresde_fast.errors import listed
from scoresde_fast.model import ScoreModel, build_network
from scoresde_fast.networks import official_modules

SIGMAS = "sigmas"
"""Name of the noise levels among the weights of score_sde."""


class _Ignored:
    """Stand-in for the NumPy scalars that the warm-up of the official code leaves in the optimizer's section."""

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...


# In files written with NumPy 1 the module's name has no underscore.
_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_Ignored, name) for name in ("numpy.dtype", "numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar")
]


@dataclass(frozen=True)
class OfficialCheckpoint:
    """The weights in a checkpoint.

    Attributes:
        model: the raw weights by name, official or of this package's networks; may be empty.
        shadow: the averaged weights, by name, or as the official list without names; empty if there are none.
        bare: whether the file is a state dict and nothing else; its weights may be of either kind.
    """

    path: Path
    model: dict[str, Tensor]
    shadow: dict[str, Tensor] | list[Tensor]
    bare: bool = False

    @property
    def named(self) -> dict[str, Tensor]:
        """The raw weights, or the averaged ones if there are no raw ones."""
        return self.model or (self.shadow if isinstance(self.shadow, dict) else {})


def read_official(path: str | Path) -> OfficialCheckpoint:
    """Read a checkpoint onto the CPU; nothing in it is executed.

    It is a ``.pth`` file with the weights by themselves, under a key of `RAW`, or averaged under one of `AVERAGED`; or
    a safetensors file, or the index of several. Prefixes of names are removed.

    Raises:
        ValueError: the file is empty or truncated, is not a checkpoint, or contains more than tensors and numbers.
        FileNotFoundError: the file does not exist.
    """
    path = Path(path)
    content = _read(path)
    found = find_weights(content)
    if found is None:
        keys = listed(map(repr, content)) if isinstance(content, Mapping) else f"a {type(content).__name__}"
        raise ValueError(
            f"{str(path)!r} is not a checkpoint of weights: it must be a state dict, or have one as {RAW[0]!r} or "
            f"{RAW[1]!r}, with averages as {AVERAGED[0]!r}, but contains {keys or 'nothing'}"
        )
    return OfficialCheckpoint(path, found.raw, found.averaged, found.bare)


def copy_official(model: ScoreModel, checkpoint: OfficialCheckpoint, ema: bool = True) -> None:
    """Copy the averaged weights of a checkpoint into ``model``, or without ``ema`` the raw weights.

    A bare state dict has only one kind, which is copied with and without ``ema``.

    Raises:
        ValueError: the weights or the noise levels do not fit exactly, or are not finite numbers. The message lists
            missing, unexpected and misshapen weights, or identifies another kind of model, and names the presets that
            fit.
    """
    given = checkpoint.named
    weights = _named_alike(model.network, given)
    if problem := misfit(weights, given):
        others_fit = not misfit(*({name: each[name] for name in each if name != SIGMAS} for each in (weights, given)))
        if kind := _other_kind(model.config, given, others_fit=others_fit):
            raise ValueError(f"{str(checkpoint.path)!r} {kind}{_advice(given, 'give its own configuration')}")
        raise ValueError(f"{str(checkpoint.path)!r} does not fit the configuration ({problem}){_advice(given)}")
    values = dict(given)
    if ema and not checkpoint.bare:
        values |= _averaged(checkpoint, {name: weight for name, weight in weights.items() if weight.requires_grad})
    elif not ema and not checkpoint.model:
        raise ValueError(
            f"{str(checkpoint.path)!r} has averaged weights alone; leave out ema=False (on the command line --raw)"
        )
    require_real(checkpoint.path, values)
    if not _has_noise_levels(model.config, given):
        sigmas, ours = given[SIGMAS], model.config.model
        raise ValueError(
            f"{str(checkpoint.path)!r} belongs to another model: its noise levels run from {sigmas[-1]:.5g} to "
            f"{sigmas[0]:.5g}, the configuration's from {ours.sigma_min:.5g} to {ours.sigma_max:.5g}{_advice(given)}"
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(values[name])


def _named_alike(network: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of ``network`` by the names that agree best with ``given``: official, or those of its modules.

    The order is that of the averaged weights in a list.
    """
    own = {**network.state_dict(keep_vars=True), **dict(network.named_parameters())}
    return max(official_weights(network), own, key=lambda weights: len(weights.keys() & given.keys()))


def _averaged(checkpoint: OfficialCheckpoint, trainable: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the EMA weights by name. A list has no names, so its length and every shape must agree."""
    shadow = checkpoint.shadow
    if not shadow:
        raise ValueError(
            f"{str(checkpoint.path)!r} has no averaged weights; ema=False (on the command line --raw) loads the raw "
            "weights"
        )
    if isinstance(shadow, list) and len(shadow) != len(trainable):
        raise ValueError(
            f"{str(checkpoint.path)!r} has {len(shadow)} averaged weights for {len(trainable)} trainable weights; "
            "ema=False (on the command line --raw) loads the raw weights"
        )
    averaged = shadow if isinstance(shadow, dict) else dict(zip(trainable, shadow, strict=True))
    constants = {name: weight for name, weight in checkpoint.named.items() if name not in trainable}
    if problem := misfit({**constants, **trainable}, {**constants, **averaged}):
        raise ValueError(f"the averaged weights of {str(checkpoint.path)!r} do not fit ({problem})")
    return averaged


def _advice(weights: Mapping[str, Tensor], otherwise: str = "it fits no preset either") -> str:
    """Return the end of an error message: the presets that fit, or ``otherwise``."""
    names = fitting_presets(weights)
    return f"; it fits {' or '.join(map(repr, names))}" if names else f"; {otherwise}"


def _read(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"the checkpoint file {str(path)!r} does not exist")
    if path.stat().st_size == 0:
        raise ValueError(f"{str(path)!r} is empty")
    if is_safetensors(path):
        return read_safetensors(path)
    try:
        require_modest(path)
        require_checksums(path)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}") from error
    try:
        # No mmap: a training program may overwrite the file while it is being read.
        with torch.serialization.safe_globals(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # corrupt bytes may raise anything
        if refused := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise ValueError(
                f"{str(path)!r} contains more than tensors and numbers ({refused[1]}), which could execute code when "
                "read; save its weights alone and load that file"
            ) from error
        raise ValueError(f"{str(path)!r} is not a PyTorch checkpoint, or is truncated or corrupt") from error


def official_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return all weights of ``network`` by official name, first ``sigmas``, then in the order of the official EMA list.

    A module with several parts has a map ``OFFICIAL_NAMES`` from their names to the official names.
    """
    sigmas = dict(network.named_buffers(recurse=False)).get(SIGMAS)
    weights = {} if sigmas is None else {SIGMAS: sigmas}
    for index, module in enumerate(official_modules(network)):
        official_names: Mapping[str, str] = getattr(module, "OFFICIAL_NAMES", {})
        for path, tensor in module.state_dict(keep_vars=True).items():
            part, _, leaf = path.rpartition(".")
            name = f"{official_names[part]}.{leaf}" if part else leaf
            weights[f"all_modules.{index}.{name}"] = tensor
    return weights


def misfit(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> str:
    """Describe the weights that are missing from ``actual``, unexpected or misshapen; empty if all fit."""
    parts = {
        "missing": [name for name in expected if name not in actual],
        "unexpected": [name for name in actual if name not in expected],
        "misshapen": [
            f"{name} is {list(actual[name].shape)}, not {list(tensor.shape)}"
            for name, tensor in expected.items()
            if name in actual and actual[name].shape != tensor.shape
        ],
    }
    return "; ".join(f"{kind}: {listed(names)}" for kind, names in parts.items() if names)


def fitting_presets(weights: Mapping[str, Tensor]) -> list[str]:
    """Return the presets whose network has exactly these official names, shapes and noise levels.

    Several may fit: VP and sub-VP, or discrete and continuous models, can share a network.
    """
    configs = {preset: load_config(preset) for preset in preset_names()}
    return [
        preset
        for preset, config in configs.items()
        if _has_noise_levels(config, weights) and not misfit(_meta_weights(_network_options(config)), weights)
    ]


def _has_noise_levels(config: Config, weights: Mapping[str, Tensor]) -> bool:
    """Return whether ``sigmas`` in ``weights`` are the noise levels of ``config``; always True except for VE.

    Shapes alone do not distinguish the 256 px models, which differ in ``sigma_max``.
    """
    model, sigmas = config.model, weights.get(SIGMAS)
    if config.training.sde != "vesde":
        return True
    if sigmas is None or sigmas.shape != (model.num_scales,) or sigmas.is_meta or sigmas.dtype not in REAL:
        return False
    ends = torch.tensor([model.sigma_max, model.sigma_min], dtype=torch.float64)
    return torch.allclose(sigmas[[0, -1]].double(), ends, rtol=1e-4)


def _other_kind(config: Config, weights: Mapping[str, Tensor], *, others_fit: bool) -> str:
    """Describe the kind of model that ``weights`` belong to if it is not that of ``config``; otherwise empty.

    The networks of CLD take position and velocity and return one image. Checkpoints of CLD-SGM have no noise levels;
    those of score_sde always do; ``others_fit`` says whether all other weights are those of ``config``.
    """
    sde, scales = config.training.sde, config.model.num_scales
    channels = config.data.num_channels
    kernels = [tensor.shape for tensor in weights.values() if tensor.ndim == 4]
    inputs, outputs = (kernels[0][1], kernels[-1][0]) if kernels else (0, 0)
    if sde != "cld" and inputs == 2 * outputs > 0:
        return (
            f"is a CLD model: its network takes {inputs} channels (position and velocity), but the SDE {sde!r} needs "
            f"{channels} (an image)"
        )
    if sde == "cld" and inputs == outputs > 0:
        return (
            f"is not a CLD model: its network takes {inputs} channels (an image), but the SDE 'cld' needs "
            f"{2 * channels} (position and velocity)"
        )
    if not others_fit:
        return ""
    if SIGMAS in weights and not scales:
        return "has noise levels 'sigmas', like models of score_sde, but model.num_scales of the configuration is 0"
    if SIGMAS not in weights and scales:
        return (
            "has no noise levels 'sigmas', like models of CLD-SGM, but model.num_scales of the configuration is "
            f"{scales}, not 0"
        )
    return ""


def _network_options(config: Config) -> Config:
    """Return ``config`` reduced to the options that determine the network's weights, as key of `_meta_weights`."""
    data = config.data
    return Config(
        model=replace(config.model, dropout=0.0, ema_rate=0.0, scale_by_sigma=False, mixed_score=False),
        # The SDE only determines whether the network takes position and velocity.
        training=TrainingConfig("cld" if config.training.sde == "cld" else "vpsde"),
        data=DataConfig(image_size=data.image_size, num_channels=data.num_channels, is_image=data.is_image),
    )


@cache
def _meta_weights(config: Config) -> dict[str, Tensor]:
    with torch.device("meta"):
        return official_weights(build_network(config))
