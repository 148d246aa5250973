# SPDX-License-Identifier: Apache-2.0
"""The flat configurations of CLD-SGM, one option beside the other, put into sections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
    "center_image": "data.centered",
    "is_image": "data.is_image",
    "sde": "training.sde",
    "weighting": "training.weighting",
    "loss_eps": "training.loss_eps",
    "training_batch_size": "training.batch_size",
    "n_train_iters": "training.n_iters",
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
    {"autocast_eval", "autocast_train", "beta_type", "conv_size", "device", "likelihood_hutchinson_type", "sscs_num_stab"}
)
"""Accepted and dropped: what steers the original's jobs, and what has one value here (beta is linear in t)."""


def _numbers(kind: type) -> Callable[[Any], Any]:
    return lambda value: [kind(item) for item in value.split(",")] if isinstance(value, str) else value


WRITTEN: dict[str, Callable[[Any], Any]] = {
    "ch_mult": _numbers(int),
    "attn_resolutions": _numbers(int),
    "fir_kernel": _numbers(float),
    "sampling_method": lambda value: {"em": "euler_maruyama"}.get(value, value),
    "striding": lambda value: {"linear": "uniform"}.get(value, value),
}
"""How the values of some options are written in a section."""


def is_flat(options: Mapping[str, Any]) -> bool:
    """Whether a configuration is CLD-SGM's rather than one in sections."""
    return isinstance(options.get("sde"), str)


def from_flat(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The sections of a flat configuration; raises ``ValueError`` for an option that CLD-SGM does not have."""
    sections: dict[str, dict[str, Any]] = {}
    for flat, value in options.items():
        if flat in IGNORED:
            continue
        if flat not in PLACES:
            raise ValueError(unknown("option of a flat configuration", flat, PLACES))
        section, name = PLACES[flat].split(".")
        sections.setdefault(section, {})[name] = WRITTEN.get(flat, lambda value: value)(value)
    model, cld = sections.setdefault("model", {}), sections.get("cld", {})
    model["num_scales"] = 0
    sections.setdefault("sampling", {}).setdefault("steps", 1000)
    if options["sde"] == "vpsde":
        # The rate of that program's VP is written as its CLD's, and its networks are told the time itself.
        model["beta_min"] = cld.get("beta0", 0.1)
        model["beta_max"] = model["beta_min"] + cld.get("beta1", 19.9)
        model["label_scale"] = 1.0
        sections.pop("cld", None)
    return sections
