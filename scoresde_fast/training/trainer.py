# SPDX-License-Identifier: Apache-2.0
"""Training of score models by score matching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.configs import Config
from scoresde_fast.data.images import training_data
from scoresde_fast.data.official import source_of
from scoresde_fast.model import ScoreModel
from scoresde_fast.training.objective import objective, unit_images
from scoresde_fast.training.resumable import ResumableRun, step_seed


@dataclass
class Batch:
    """One training step's randomness, drawn for the step's number alone, so that a resumed run repeats none of it."""

    index: Tensor
    flip: Tensor
    dequantization: Tensor
    u: np.ndarray
    z: Tensor
    z_v0: Tensor

    @classmethod
    def draw(cls, seed: int, step: int, size: int, count: int, model: ScoreModel) -> Batch:
        """``size`` of ``count`` images for ``model``, at step ``step`` of the run ``seed``."""
        shape = model.image_shape
        generator = torch.Generator().manual_seed(step_seed(seed, step))
        return cls(
            torch.randint(count, (size,), generator=generator),
            torch.rand(size, generator=generator) < 0.5,
            torch.rand(size, *shape, generator=generator),
            torch.rand(size, generator=generator, dtype=torch.float64).numpy(),
            torch.randn(size, *model.state_shape, generator=generator),
            torch.randn(size, *shape, generator=generator),
        )


@dataclass
class Trainer(ResumableRun[Config]):
    """Trains the model of a configuration on its data set, and can stop and go on at any step.

    Args:
        config: the whole run: data, model, objective, optimiser, number of steps, snapshot interval.  ``data.dataset``
            is a data set's name or any other source of images, see `open_images`; see `training_data` for its size.
        folder: where ``state.pt`` is kept; a run found there goes on.
        seed: of the initial weights and of every step's randomness.
        device: where to train.

    Raises:
        ValueError: the configuration is discrete in time; its data are unknown, damaged, too large or of another
            shape; or ``folder`` holds a run with another configuration or seed.
        FileNotFoundError: its data are not there.
        FloatingPointError: the loss is not finite; names the step.
    """

    def __post_init__(self) -> None:
        if not self.config.training.continuous:
            raise ValueError("training.continuous is false: only continuous score matching is trained; set it to true")
        super().__post_init__()

    def _build(self) -> nn.Module:
        self.model = ScoreModel(self.config).to(self.device)
        # A fifth faster on a CPU, and what a GPU wants.
        network: nn.Module = self.model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _open_data(self) -> None:
        source = source_of(self.config.data.dataset)
        self.images = training_data(source, self.model.image_shape, is_image=self.model.is_image)

    @property
    def _ema_rate(self) -> float:
        return self.config.model.ema_rate

    def _loss(self) -> Tensor:
        data = self.config.data
        batch = Batch.draw(self.seed, self.step, self.config.training.batch_size, len(self.images), self.model)
        images = self.images[batch.index]
        images = unit_images(images, batch.dequantization, data) if data.is_image else images.float()
        if data.random_flip:
            images = torch.where(batch.flip[:, None, None, None], images.flip(-1), images)
        x0 = self.model.from_images(images.to(self.device))
        return objective(self.model, x0, batch.u, batch.z.to(self.device), batch.z_v0.to(self.device))
