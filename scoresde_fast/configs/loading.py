# SPDX-License-Identifier: Apache-2.0
"""Loading of configurations from presets, mappings and JSON files, with sections or in the flat form of CLD-SGM."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from scoresde_fast.configs.schema import Config
from scoresde_fast.errors import unknown_message

ConfigLike = str | Path | Mapping[str, Any] | Config
Parsed = TypeVar("Parsed")


def preset_names() -> list[str]:
    """Return the sorted names of the official configurations, such as ``ve/cifar10_ncsnpp_continuous``."""
    return sorted(_presets())


def load_config(config: ConfigLike) -> Config:
    """Load a configuration from a preset's name, a mapping, or a JSON file.

    A mapping has sections, as in score_sde, or is flat, as in CLD-SGM. It may also have other keys, such as notes, if
    its key ``config`` contains the configuration.

    Raises:
        ValueError: the preset is unknown, the file is not a JSON object, or an option is invalid.
        FileNotFoundError: the file does not exist.
    """
    if isinstance(config, Config):
        return config
    if isinstance(config, Mapping):
        nested = config.get("config")
        options = nested if isinstance(nested, Mapping) else config
        return Config.from_dict(_sections(options) if isinstance(options.get("sde"), str) else options)
    if isinstance(config, str):
        if config in _presets():
            return Config.from_dict(_presets()[config])
        if not config.endswith(".json"):
            raise ValueError(unknown_message("preset", config, preset_names()) + ", or give the path of a .json file")
    return read_json(Path(config), load_config)


def read_json(path: Path, parse: Callable[[Mapping[str, Any]], Parsed]) -> Parsed:
    """Return the result of ``parse`` on the object in a JSON file.

    Raises:
        ValueError: the file is not JSON, does not contain an object, or ``parse`` raises it. The message names the
            file.
        FileNotFoundError: the file does not exist.
    """
    if not path.is_file():
        raise FileNotFoundError(f"the configuration file {str(path)!r} does not exist")
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: not a JSON file: {error}") from error
    try:
        if not isinstance(options, Mapping):
            raise ValueError("a configuration file must contain one JSON object, with the sections of a configuration")
        return parse(options)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


@cache
def _presets() -> dict[str, dict[str, Any]]:
    """Return the options of each preset that differ from the schema's defaults."""
    presets: dict[str, dict[str, Any]] = json.loads((Path(__file__).parent / "official.json").read_text("utf-8"))
    return presets


FLAT_SDES = ("cld", "vpsde")
FLAT_NAMES = {
    "model": (
        "name", "normalization", "nonlinearity", "ch_mult", "attn_resolutions", "attention_type", "resamp_with_conv",
        "fir_kernel", "skip_rescale", "resblock_type", "progressive", "progressive_input", "progressive_combine",
        "embedding_type", "init_scale", "fourier_scale", "dropout", "mixed_score", "ema_rate",
    ),
    "data": ("dataset", "image_size", "is_image"),
    "training": ("sde", "weighting", "loss_eps", "log_freq", "snapshot_freq"),
    "optim": ("optimizer", "weight_decay", "grad_clip"),
    "cld": ("m_inv", "gamma", "beta0", "beta1", "numerical_eps"),
}  # fmt: skip
"""Options whose names are the same in CLD-SGM and here, by section."""
FLAT_OPTIONS = {
    **{name: (section, name) for section, names in FLAT_NAMES.items() for name in names},
    "n_channels": ("model", "nf"),
    "n_resblocks": ("model", "num_res_blocks"),
    "use_fir": ("model", "fir"),
    "image_channels": ("data", "num_channels"),
    "data_dim": ("data", "num_channels"),
    "center_image": ("data", "centered"),
    "training_batch_size": ("training", "batch_size"),
    "n_train_iters": ("training", "n_iters"),
    "sampling_method": ("sampling", "predictor"),
    "n_discrete_steps": ("sampling", "steps"),
    "striding": ("sampling", "grid"),
    "denoising": ("sampling", "noise_removal"),
    "sampling_eps": ("sampling", "eps"),
    "learning_rate": ("optim", "lr"),
    "n_warmup_iters": ("optim", "warmup"),
    "cld_objective": ("cld", "objective"),
}
"""The section and name here of each option of CLD-SGM."""
FLAT_IGNORED = frozenset([
    "autocast_eval", "autocast_train", "beta_type", "conv_size", "device", "eval_freq", "fid_freq",
    "fid_samples_training", "fid_threshold", "likelihood_freq", "likelihood_hutchinson_type", "likelihood_threshold",
    "n_eval_batches", "n_likelihood_batches", "save_freq", "save_threshold", "snapshot_threshold", "sscs_num_stab",
    "testing_batch_size",
])  # fmt: skip
"""Options of CLD-SGM that are accepted and ignored: they control its jobs, or have one value here, like beta_type."""
FLAT_LISTS: dict[str, type] = {"ch_mult": int, "attn_resolutions": int, "fir_kernel": float}
"""Options that are lists of numbers, in a string or as one number, and the type of the numbers."""
FLAT_VALUES: dict[str, dict[str, str]] = {
    "dataset": {"cifar10": "CIFAR10", "celeba_256": "CelebAHQ"},
    "sampling_method": {"em": "euler_maruyama"},
    "striding": {"linear": "uniform"},
}
"""Values of options that have other names here."""


def _sections(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections of a flat configuration of CLD-SGM; raise ValueError if CLD-SGM could not have written it."""
    sections: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "sampling": {}, "cld": {}}
    if flat["sde"] not in FLAT_SDES:
        raise ValueError(unknown_message("sde of a flat configuration", flat["sde"], FLAT_SDES))
    for option, value in flat.items():
        if option in FLAT_IGNORED:
            continue
        if option not in FLAT_OPTIONS:
            raise ValueError(unknown_message("option of a flat configuration", option, FLAT_OPTIONS))
        section, name = FLAT_OPTIONS[option]
        sections.setdefault(section, {})[name] = _translate(option, value)
    model, data, sampling = sections["model"], sections["data"], sections["sampling"]
    model["num_scales"] = 0
    sampling.setdefault("steps", 1000)
    if sampling.get("predictor") == "ode":
        sampling["method"] = sampling.pop("predictor")
    if data.get("is_image") is False:
        data.setdefault("image_size", 1)
        data["random_flip"] = False
    if flat["sde"] == "vpsde":
        # CLD-SGM parametrises beta(t) of VP as beta0 + beta1 t, and its networks receive t unscaled.
        cld = sections.pop("cld")
        beta0, beta1 = _number("beta0", cld.get("beta0", 0.1)), _number("beta1", cld.get("beta1", 19.9))
        model |= {"beta_min": beta0, "beta_max": beta0 + beta1, "label_scale": 1.0}
    return sections


def _translate(option: str, value: Any) -> Any:
    """Return the value of a flat option in the form that sections use."""
    if option in FLAT_VALUES and isinstance(value, str):
        return FLAT_VALUES[option].get(value, value)
    if option not in FLAT_LISTS or isinstance(value, (list, tuple)):
        return value
    try:
        return [FLAT_LISTS[option](item) for item in str(value).split(",")]
    except ValueError:
        raise ValueError(f"{option} is {value!r}; it must be comma-separated numbers, as in '1,2,2'") from None


def _number(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{option} is {value!r}; it must be a number")
    return value
