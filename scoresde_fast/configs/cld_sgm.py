# SPDX-License-Identifier: Apache-2.0
"""The flat configurations of CLD-SGM, one option beside the other, put into sections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scoresde_fast.errors import unknown

PLACES = {
    "name": "model.name",
    "normalization": "model.normalization",
    "nonlinearity": "model.nonlinearity",
    "n_channels": "model.nf",
    "ch_mult": "model.ch_mult",
    "n_resblocks": "model.num_res_blocks",
    "attn_resolutions": "model.attn_resolutions",
    "attention_type": "model.attention_type",
    "resamp_with_conv": "model.resamp_with_conv",
    "use_fir": "model.fir",
    "fir_kernel": "model.fir_kernel",
    "skip_rescale": "model.skip_rescale",
    "resblock_type": "model.resblock_type",
    "progressive": "model.progressive",
    "progressive_input": "model.progressive_input",
    "progressive_combine": "model.progressive_combine",
    "embedding_type": "model.embedding_type",
    "init_scale": "model.init_scale",
    "fourier_scale": "model.fourier_scale",
    "dropout": "model.dropout",
    "mixed_score": "model.mixed_score",
    "ema_rate": "model.ema_rate",
    "dataset": "data.dataset",
    "image_size": "data.image_size",
    "image_channels": "data.num_channels",
    "data_dim": "data.num_channels",
    "center_image": "data.centered",
    "is_image": "data.is_image",
    "sde": "training.sde",
    "weighting": "training.weighting",
    "loss_eps": "training.loss_eps",
    "training_batch_size": "training.batch_size",
    "n_train_iters": "training.n_iters",
    "log_freq": "training.log_freq",
    "snapshot_freq": "training.snapshot_freq",
    "sampling_method": "sampling.predictor",
    "n_discrete_steps": "sampling.steps",
    "striding": "sampling.grid",
    "denoising": "sampling.noise_removal",
    "sampling_eps": "sampling.eps",
    "optimizer": "optim.optimizer",
    "learning_rate": "optim.lr",
    "weight_decay": "optim.weight_decay",
    "n_warmup_iters": "optim.warmup",
    "grad_clip": "optim.grad_clip",
    "m_inv": "cld.m_inv",
    "gamma": "cld.gamma",
    "beta0": "cld.beta0",
    "beta1": "cld.beta1",
    "numerical_eps": "cld.numerical_eps",
    "cld_objective": "cld.objective",
}
"""Where each option goes, and under which name."""

IGNORED = frozenset(
    {
        "autocast_eval",
        "autocast_train",
        "beta_type",
        "conv_size",
        "device",
        "eval_freq",
        "fid_freq",
        "fid_samples_training",
        "fid_threshold",
        "likelihood_freq",
        "likelihood_hutchinson_type",
        "likelihood_threshold",
        "n_eval_batches",
        "n_likelihood_batches",
        "save_freq",
        "save_threshold",
        "snapshot_threshold",
        "sscs_num_stab",
        "testing_batch_size",
    }
)
"""Accepted and dropped: what steers the original's jobs, and what has one value here (beta is linear in t)."""

LISTS: dict[str, type] = {"ch_mult": int, "attn_resolutions": int, "fir_kernel": float}
"""Options written as numbers with commas between, or as one number."""

RENAMED: dict[str, dict[str, str]] = {
    "dataset": {"cifar10": "CIFAR10", "celeba_256": "CelebAHQ"},
    "sampling_method": {"em": "euler_maruyama"},
    "striding": {"linear": "uniform"},
}
"""Values that have another name here."""

FLAT_SDES = ("cld", "vpsde")


def is_flat(options: Mapping[str, Any]) -> bool:
    """Whether a configuration is CLD-SGM's rather than one in sections."""
    return isinstance(options.get("sde"), str)


def from_flat(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of a flat configuration.

    Raises ``ValueError`` for an option or an SDE that CLD-SGM does not have, and for a list that holds no numbers.
    """
    sections: dict[str, dict[str, Any]] = {"model": {}, "data": {}, "sampling": {}, "cld": {}}
    if options["sde"] not in FLAT_SDES:
        raise ValueError(unknown("sde of a flat configuration", options["sde"], FLAT_SDES))
    for flat, value in options.items():
        if flat in IGNORED:
            continue
        if flat not in PLACES:
            raise ValueError(unknown("option of a flat configuration", flat, PLACES))
        section, name = PLACES[flat].split(".")
        sections.setdefault(section, {})[name] = _written(flat, value)
    model, data, sampling = sections["model"], sections["data"], sections["sampling"]
    model["num_scales"] = 0
    sampling.setdefault("steps", 1000)
    if sampling.get("predictor") == "ode":
        sampling["method"] = sampling.pop("predictor")
    if data.get("is_image") is False:
        data.setdefault("image_size", 1)
        data["random_flip"] = False
    if options["sde"] == "vpsde":
        # The rate of that program's VP is written as its CLD's, and its networks are told the time itself.
        cld = sections.pop("cld")
        start, rise = _number("beta0", cld.get("beta0", 0.1)), _number("beta1", cld.get("beta1", 19.9))
        model |= {"beta_min": start, "beta_max": start + rise, "label_scale": 1.0}
    return sections


def _written(flat: str, value: Any) -> Any:
    """``value`` as a section holds it."""
    if flat in RENAMED and isinstance(value, str):
        return RENAMED[flat].get(value, value)
    if flat not in LISTS or isinstance(value, (list, tuple)):
        return value
    try:
        return [LISTS[flat](item) for item in str(value).split(",")]
    except ValueError:
        raise ValueError(f"{flat} must be numbers with commas between, as in '1,2,2', but is {value!r}") from None


def _number(flat: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{flat} must be a number, but is {value!r}")
    return value
