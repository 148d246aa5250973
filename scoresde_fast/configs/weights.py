# SPDX-License-Identifier: Apache-2.0
"""The number of weights of a configuration's network, by arithmetic: nothing is built."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from scoresde_fast.configs.options import require

if TYPE_CHECKING:
    from scoresde_fast.configs.schema import Config, ModelConfig

MAX_WEIGHTS = 10**9
"""Most weights of a network, 4 GB in float32; the largest official network has about 1e8."""
POINT_FEATURES = 32
"""Features of the time embedding of a network of points; each coordinate has eight Fourier features."""


def require_size(weights: int, widths: str) -> None:
    """Raise ``ValueError`` if a network has more than `MAX_WEIGHTS` weights; ``widths`` are the options to lower."""
    require(
        weights <= MAX_WEIGHTS,
        f"the network of this configuration has {weights:.3g} weights; at most {MAX_WEIGHTS:.3g} are allowed: lower "
        f"{widths}",
    )


def count_weights(config: Config) -> int:
    """Return the number of parameters of a configuration's network, those without gradient included."""
    outputs = config.data.num_channels
    inputs = outputs * (2 if config.training.sde == "cld" else 1)
    if config.model.is_for_images:
        return _Unet(config.model).count(config.data.image_size, inputs, outputs)
    model = config.model
    layers = model.num_res_blocks * (2 if model.name == "resnet" else 1)
    mixing = _dense(POINT_FEATURES, (inputs // outputs) ** 2)
    hidden = _dense(9 * inputs + POINT_FEATURES, model.nf) + layers * _dense(model.nf, model.nf)
    return mixing + hidden + _dense(model.nf, outputs)


def count_classifier_weights(image_shape: Sequence[int], widths: Sequence[int], blocks: int, classes: int) -> int:
    """Return the number of parameters of a `WideResNet` with ``blocks`` residual blocks per resolution."""
    channels, height, width = image_shape
    first, last, halvings = widths[0], widths[-1], len(widths) - 1
    time = 2 * first
    weights = 2 * _dense(time, time) + _conv(channels, first) + blocks * _block(first, first, time)
    for before, after in pairwise(widths):
        weights += _block(before, after, time, resamples=True) + (blocks - 1) * _block(after, after, time)
    return weights + 2 * last + _dense(last * (height >> halvings) * (width >> halvings), classes)


class _Unet:
    """Counts of the layers of NCSN++ and DDPM."""

    def __init__(self, model: ModelConfig) -> None:
        self.model = model
        self.is_ddpm = model.name == "ddpm"
        self.resamples_in_blocks = not self.is_ddpm and model.resblock_type == "biggan"

    def count(self, image_size: int, inputs: int, outputs: int) -> int:
        """Return the number of weights for images of ``image_size`` pixels, from ``inputs`` to ``outputs`` channels."""
        model = self.model
        lowest = len(model.ch_mult) - 1
        attends = [image_size // 2**i in model.attn_resolutions for i in range(lowest + 1)]
        progressive = "none" if self.is_ddpm else model.progressive
        weights = self._embedding() + _conv(inputs, model.nf)
        channels, pyramid, skips = model.nf, inputs, [model.nf]
        for i, multiplier in enumerate(model.ch_mult):
            for _ in range(model.num_res_blocks):
                weights += self._block(channels, model.nf * multiplier)
                channels = model.nf * multiplier
                weights += self._attention(channels) if attends[i] else 0
                skips.append(channels)
            if i != lowest:
                weights += self._resampling(channels)
                if not self.is_ddpm and model.progressive_input == "input_skip":
                    weights += _conv(pyramid, channels, 1)
                    channels *= 2 if model.progressive_combine == "cat" else 1
                elif not self.is_ddpm and model.progressive_input == "residual":
                    weights += _conv(pyramid, channels)
                    pyramid = channels
                skips.append(channels)
        weights += 2 * self._block(channels, channels) + self._attention(channels)
        for i, multiplier in reversed(list(enumerate(model.ch_mult))):
            for _ in range(model.num_res_blocks + 1):
                weights += self._block(channels + skips.pop(), model.nf * multiplier)
                channels = model.nf * multiplier
            weights += self._attention(channels) if attends[i] else 0
            if progressive == "output_skip":
                weights += _head(channels, outputs)
            elif progressive == "residual":
                weights += _head(channels, channels) if i == lowest else _conv(pyramid, channels)
            pyramid = channels
            weights += self._resampling(channels) if i else 0
        return weights + (0 if progressive == "output_skip" else _head(channels, outputs))

    def _embedding(self) -> int:
        nf, is_fourier = self.model.nf, not self.is_ddpm and self.model.embedding_type == "fourier"
        dense = _dense(2 * nf if is_fourier else nf, 4 * nf) + _dense(4 * nf, 4 * nf)
        return (nf if is_fourier else 0) + (dense if self.model.conditional else 0)

    def _block(self, inputs: int, outputs: int, resamples: bool = False) -> int:
        return _block(inputs, outputs, 4 * self.model.nf if self.model.conditional else None, resamples)

    def _resampling(self, channels: int) -> int:
        if self.resamples_in_blocks:
            return self._block(channels, channels, resamples=True)
        return _conv(channels, channels) if self.model.resamp_with_conv else 0

    def _attention(self, channels: int) -> int:
        return 2 * channels + 4 * _dense(channels, channels)


def _dense(inputs: int, outputs: int) -> int:
    return _conv(inputs, outputs, 1)


def _conv(inputs: int, outputs: int, size: int = 3) -> int:
    return (size**2 * inputs + 1) * outputs


def _head(channels: int, outputs: int) -> int:
    return 2 * channels + _conv(channels, outputs)


def _block(inputs: int, outputs: int, time: int | None, resamples: bool = False) -> int:
    shortcut = _dense(inputs, outputs) if inputs != outputs or resamples else 0
    shift = 0 if time is None else _dense(time, outputs)
    return 2 * (inputs + outputs) + _conv(inputs, outputs) + shift + _conv(outputs, outputs) + shortcut
