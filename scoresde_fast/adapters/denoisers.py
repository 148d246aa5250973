# SPDX-License-Identifier: Apache-2.0
"""Score models from denoisers D(x, sigma): those of k-diffusion, and the networks of EDM and EDM2."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scoresde_fast.model import ScoreFunction, wrap
from scoresde_fast.networks.adapter import Conditional
from scoresde_fast.sdes import EDM


def from_k_diffusion(
    denoiser: Callable[..., Any],
    *,
    shape: Sequence[int],
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    inputs: Sequence[str] = (),
    data_range: tuple[float, float] | None = (-1.0, 1.0),
) -> ScoreFunction:
    """Return a score model that uses a denoiser of k-diffusion, such as `Denoiser`, `VDenoiser` or `CompVisDenoiser`.

    Args:
        denoiser: ``denoiser(x, sigma, **inputs)``, (B, *shape), (B,) -> the denoised x(0) (B, *shape).
        shape: (C, H, W) of one sample.
        sigma_min, sigma_max: the noise levels of its training; by default its attributes of these names, or without
            them those of `EDM`.
        inputs: the names of the keyword arguments that it needs, such as ("class_cond",); their values are those of
            `Sampler(inputs=...)`.
        data_range: as in `wrap`.

    Raises:
        ValueError, TypeError: as `wrap` and `EDM`.
    """
    own = EDM(*(float(getattr(denoiser, name, getattr(EDM, name))) for name in ("sigma_min", "sigma_max")))
    return _wrapped(denoiser, own, sigma_min, sigma_max, shape, inputs, data_range)


def from_edm(
    network: Any,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    data_range: tuple[float, float] | None = (-1.0, 1.0),
) -> ScoreFunction:
    """Return a score model that uses a network of EDM or EDM2 (Karras et al. 2022, 2024), preconditioning included.

    If its ``label_dim`` is not 0, it needs class labels, one-hot: ``inputs={"class_labels": (N, label_dim)}``; zeros
    stand for no class.

    Args:
        network: ``network(x, sigma, class_labels)``, with the attributes ``img_channels`` and ``img_resolution``, and
            if it has them ``label_dim``, ``sigma_min`` and ``sigma_max``.
        sigma_min, sigma_max: the noise levels of sampling; by default those of `EDM`, as far as the network supports
            them.
        data_range: as in `wrap`; None for latents.

    Raises:
        TypeError: the network lacks the attributes of its shape.
        ValueError: as `wrap` and `EDM`.
    """
    if missing := [name for name in ("img_channels", "img_resolution") if not hasattr(network, name)]:
        raise TypeError(
            f"{type(network).__name__} has no attribute {missing[0]!r}; pass a network of EDM, or use "
            "from_k_diffusion(denoiser, shape=...)"
        )
    own = EDM(
        max(float(getattr(network, "sigma_min", 0.0)), EDM.sigma_min),
        min(float(getattr(network, "sigma_max", EDM.sigma_max)), EDM.sigma_max),
    )
    shape = (network.img_channels, network.img_resolution, network.img_resolution)
    inputs = ["class_labels"] if getattr(network, "label_dim", 0) else []
    return _wrapped(network, own, sigma_min, sigma_max, shape, inputs, data_range)


def _wrapped(
    denoiser: Callable[..., Any],
    own: EDM,
    sigma_min: float | None,
    sigma_max: float | None,
    shape: Sequence[int],
    inputs: Sequence[str],
    data_range: tuple[float, float] | None,
) -> ScoreFunction:
    """Return the model of a denoiser whose noise levels are those of ``own``, unless others are given."""
    schedule = EDM(own.sigma_min if sigma_min is None else sigma_min, own.sigma_max if sigma_max is None else sigma_max)
    network = Conditional(denoiser, inputs) if inputs else denoiser
    return wrap(network, schedule, prediction="denoiser", shape=shape, data_range=data_range)
