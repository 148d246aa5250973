# SPDX-License-Identifier: Apache-2.0
"""The flat configurations of CLD-SGM: the names of their options here, and their text files."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping
from typing import Any

from scoresde_fast.errors import shown, unknown_message

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
    "mode", "n_eval_batches", "n_gpus_per_node", "n_likelihood_batches", "root", "sampling_batch_size", "save_freq",
    "save_threshold", "seed", "snapshot_threshold", "sscs_num_stab", "testing_batch_size", "workdir",
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


def flat_sections(flat: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the sections of a flat configuration of CLD-SGM; raise ValueError if CLD-SGM could not have written it."""
    sections: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "sampling": {}, "cld": {}}
    if flat.get("sde") not in FLAT_SDES:
        raise ValueError(unknown_message("sde of a flat configuration", flat.get("sde"), FLAT_SDES))
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
        return [FLAT_LISTS[option](item) for item in str(value).strip("[]() ").split(",")]
    except ValueError:
        raise ValueError(f"{option} is {shown(value)}; it must be comma-separated numbers, as in '1,2,2'") from None


def _number(option: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{option} is {shown(value)}; it must be a number")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{option} is {shown(value)}; it must be a finite number") from None


def parse_flags(text: str) -> dict[str, Any]:
    """Return the options in a text of lines ``key = value``, ``key: value`` or ``--key value``; the last one counts.

    Comments begin with ``#`` or ``;``.  A key without a value is true, and one with the value None is left out.

    Raises:
        ValueError: a line has none of these forms.
    """
    options: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        line = re.sub(r"(^|\s)[#;].*", "", line).strip().removesuffix("\\")
        if line in ("", "---") or re.fullmatch(r"\[\w+\]", line):
            continue
        for key, value in _pairs(line, number):
            options[key.replace("-", "_")] = _plain(value)
    return {key: value for key, value in options.items() if value is not None}


def _pairs(line: str, number: int) -> list[tuple[str, str]]:
    """Return the keys and values of a line."""
    if flags := re.search(r"(^|\s)--\w", line):
        try:
            words = shlex.split(line[flags.start() :])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        pairs: list[tuple[str, str]] = []
        for word in words:
            if word.startswith("--"):
                key, _, value = word[2:].partition("=")
                pairs.append((key, value))
            elif pairs[-1][1]:
                raise ValueError(f"line {number}: --{pairs[-1][0]} has two values; write --key value")
            else:
                pairs[-1] = (pairs[-1][0], word)
        return pairs
    if pair := re.fullmatch(r"([A-Za-z][\w-]*)\s*[=:\s]?\s*(.*)", line):
        return [(pair[1], pair[2].strip("\"'"))]
    raise ValueError(f"line {number} is {shown(line)}; it must be key = value, or --key value")


def _plain(text: str) -> Any:
    """Return the number, truth value or list that a text stands for, otherwise the text; True for none."""
    words = {"": True, "true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
