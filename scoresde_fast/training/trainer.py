# SPDX-License-Identifier: Apache-2.0
"""The training loop: score matching with Adam, warm-up, clipping, EMA, and snapshots that survive a kill."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.configs import Config
from scoresde_fast.data.images import training_data
from scoresde_fast.data.official import source_of
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.model import ScoreModel
from scoresde_fast.training.ema import EMA
from scoresde_fast.training.objective import objective, unit_images

FAR_APART = 0x9E3779B1
"""Odd, near 2^32 times the golden ratio: the steps of different seeds share no randomness."""
OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


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
        generator = torch.Generator().manual_seed(_step_seed(seed, step))
        return cls(
            torch.randint(count, (size,), generator=generator),
            torch.rand(size, generator=generator) < 0.5,
            torch.rand(size, *shape, generator=generator),
            torch.rand(size, generator=generator, dtype=torch.float64).numpy(),
            torch.randn(size, *model.state_shape, generator=generator),
            torch.randn(size, *shape, generator=generator),
        )


def _step_seed(seed: int, step: int) -> int:
    """Of the randomness of a step: within 32 bits, which are all that PyTorch's generator for CPUs looks at."""
    return (seed * FAR_APART + step) % 2**32


def learning_rate(config: Config, step: int) -> float:
    """The rate of step number ``step`` (from 0): a linear rise over the first steps, a linear fall over the last."""
    optim = config.optim
    rise = (step + 1) / optim.warmup if optim.warmup else 1.0
    fall = (config.training.n_iters - step) / optim.decay if optim.decay else 1.0
    return optim.lr * min(rise, fall, 1.0)


@dataclass
class Trainer:
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

    config: Config
    folder: Path
    seed: int = 0
    device: str = "cpu"
    step: int = field(default=0, init=False)
    curve: list[tuple[int, float]] = field(default_factory=list, init=False)
    since_log: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        if not self.config.training.continuous:
            raise ValueError("training.continuous is false: only continuous score matching is trained; set it to true")
        torch.manual_seed(self.seed)
        self.model = ScoreModel(self.config).to(self.device)
        # A fifth faster on a CPU, and what a GPU wants.
        self.model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optim = self.config.optim
        self.optimizer = OPTIMIZERS[optim.optimizer](
            self.model.network.parameters(),
            lr=optim.lr,
            betas=(optim.beta1, 0.999),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        self.ema = EMA(self.model.network.parameters(), self.config.model.ema_rate)
        source = source_of(self.config.data.dataset)
        self.images = training_data(source, self.model.image_shape, is_image=self.model.is_image)
        if self.state_path.exists():
            self._resume()

    @property
    def state_path(self) -> Path:
        """The snapshot from which a stopped run goes on."""
        return self.folder / "state.pt"

    def run(self, on_snapshot: Callable[[Trainer], object] | None = None) -> Iterator[tuple[int, float]]:
        """Train to the last step, yielding (step, loss); snapshots every ``snapshot_freq`` steps and at the end."""
        training = self.config.training
        while self.step < training.n_iters:
            loss = self._train_step()
            self.since_log.append(loss)
            if self.step % training.log_freq == 0:
                self.curve.append((self.step, sum(self.since_log) / len(self.since_log)))
                self.since_log.clear()
            if self.step % training.snapshot_freq == 0 or self.step == training.n_iters:
                self.save()
                if on_snapshot is not None:
                    on_snapshot(self)
            yield self.step, loss

    def _train_step(self) -> float:
        training, optim, data = self.config.training, self.config.optim, self.config.data
        batch = Batch.draw(self.seed, self.step, training.batch_size, len(self.images), self.model)
        torch.manual_seed(_step_seed(self.seed, self.step))  # dropout
        images = self.images[batch.index]
        images = unit_images(images, batch.dequantization, data) if data.is_image else images.float()
        if data.random_flip:
            images = torch.where(batch.flip[:, None, None, None], images.flip(-1), images)
        self.model.train()
        self.optimizer.zero_grad()
        x0 = self.model.from_images(images.to(self.device))
        loss = objective(self.model, x0, batch.u, batch.z.to(self.device), batch.z_v0.to(self.device))
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        if optim.grad_clip >= 0:
            torch.nn.utils.clip_grad_norm_(self.model.network.parameters(), optim.grad_clip)
        value = loss.item()
        if not np.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {self.step + 1}; the last snapshot is whole; lower optim.lr"
            )
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        return value

    def save(self) -> None:
        """Write the snapshot aside, then rename: a kill leaves the old one or the new one, never half of one."""
        state = {
            "config": self.config.to_dict(),
            "seed": self.seed,
            "step": self.step,
            "curve": self.curve,
            "since_log": self.since_log,
            "network": self.model.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        make_folder(self.folder)
        with replacing(self.state_path) as file:
            torch.save(state, file)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self.state_path, weights_only=True, map_location=self.device)
        for name, mine in (("config", self.config.to_dict()), ("seed", self.seed)):
            if state[name] != mine:
                raise ValueError(
                    f"{self.state_path} is a run with another {name}: choose another folder, or that run's {name}"
                )
        self.step, self.curve = state["step"], [tuple(point) for point in state["curve"]]
        self.since_log = list(state["since_log"])
        self.model.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
