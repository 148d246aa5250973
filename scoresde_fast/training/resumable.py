# SPDX-License-Identifier: Apache-2.0
"""Training runs that resume at any step: Adam, warm-up, gradient clipping, EMA, and snapshots written atomically."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from scoresde_fast.configs import Config
from scoresde_fast.environment import versions
from scoresde_fast.errors import require_packages
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.manifest import differences
from scoresde_fast.generate.pipeline import LINE_EVERY
from scoresde_fast.training.recipes import ClassifierRecipe

SEED_STRIDE = 0x9E3779B1
"""Factor of a run's seed in its step seeds; odd and near 2^32 / golden ratio, so that runs share no step seeds."""
OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}
RunConfig = TypeVar("RunConfig", Config, ClassifierRecipe)


def run_to_end(
    run: ResumableRun[Any],
    *,
    on_snapshot: Callable[[Any], object] | None = None,
    tensorboard: bool = False,
    progress: bool | None = None,
) -> None:
    """Train to the last step and report progress.

    Args:
        on_snapshot: called with the run after each snapshot.
        tensorboard: write TensorBoard events to ``events/``.
        progress: True shows a bar, False nothing; None shows a bar on a terminal, otherwise a line per minute.

    Raises:
        MissingPackageError: ``tensorboard`` is given, but the package is not installed.
    """
    writer = None
    if tensorboard:
        require_packages("--tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(run.folder / "events"))
    total, next_line = run.config.training.n_iters, perf_counter()
    prints_lines = progress is None and not sys.stderr.isatty()
    hides_bar = None if progress is None else not progress  # None hides it unless on a terminal
    with tqdm(total=total, initial=run.step, unit="step", disable=hides_bar, dynamic_ncols=True) as bar:
        for step, loss in run.run(on_snapshot):
            bar.update()
            if prints_lines and perf_counter() >= next_line:
                next_line = perf_counter() + LINE_EVERY
                print(f"step {step} of {total}, loss {loss:.4g}", file=sys.stderr, flush=True)
            if step % run.config.training.log_freq == 0:
                bar.set_postfix(loss=f"{run.curve[-1][1]:.4g}")
                if writer is not None:
                    writer.add_scalar("loss", run.curve[-1][1], step)
    if writer is not None:
        writer.close()


@dataclass
class ResumableRun(ABC, Generic[RunConfig]):
    """A training run that resumes from its last snapshot with the same result as an uninterrupted one.

    Args:
        config: the configuration of the run.
        folder: folder of ``state.pt``; an existing run is resumed.
        seed: seed of the initial weights and of every step.
        device: device to train on.

    Raises:
        ValueError: ``folder`` contains a run with another configuration or seed.
        FloatingPointError: the loss is not finite; the message names the step.
    """

    config: RunConfig
    folder: Path
    seed: int = 0
    device: str = "cpu"
    step: int = field(default=0, init=False)
    curve: list[tuple[int, float]] = field(default_factory=list, init=False)
    since_log: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.network = self._prepare()
        optim = self.config.optim
        self.optimizer = OPTIMIZERS[optim.optimizer](
            self.network.parameters(),
            lr=optim.lr,
            betas=(optim.beta1, 0.999),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        self.ema = EMA(self.network.parameters(), self._ema_rate)
        if self.state_path.exists():
            self._resume()

    @abstractmethod
    def _prepare(self) -> nn.Module:
        """Open the training data and return the network with fresh weights on the device."""

    @abstractmethod
    def _loss(self) -> Tensor:
        """Return the loss of the current step; its randomness depends only on the seed and the step number."""

    @property
    @abstractmethod
    def _ema_rate(self) -> float:
        """Decay of the moving average of the weights."""

    @property
    def state_path(self) -> Path:
        """Path of the snapshot."""
        return self.folder / "state.pt"

    def run(self, on_snapshot: Callable[[Any], object] | None = None) -> Iterator[tuple[int, float]]:
        """Train to the last step and yield (step, loss); save every ``snapshot_freq`` steps and at the end."""
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
        torch.manual_seed(step_seed(self.seed, self.step))  # for dropout
        self.network.train()
        self.optimizer.zero_grad()
        loss = self._loss()
        loss.backward()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        if self.config.optim.grad_clip >= 0:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), self.config.optim.grad_clip)
        value = loss.item()
        if not np.isfinite(value):
            raise FloatingPointError(
                f"the loss is {value} at step {self.step + 1}; the last snapshot is intact. Lower optim.lr in a new run"
            )
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        return value

    def save(self) -> None:
        """Write the snapshot atomically."""
        state = {
            "config": self.config.to_dict(),
            "seed": self.seed,
            "step": self.step,
            "curve": self.curve,
            "since_log": self.since_log,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        make_folder(self.folder)
        with replacing(self.state_path) as file:
            torch.save(state, file)

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self.state_path, weights_only=True, map_location=self.device)
        ours = {"config": self.config.to_dict(), "seed": self.seed}
        if different := list(differences({name: state[name] for name in ours}, ours)):
            raise ValueError(
                f"{self.state_path} is a run with other values ({'; '.join(different)}); choose another folder, or "
                "those values"
            )
        self.step, self.curve = state["step"], [tuple(point) for point in state["curve"]]
        self.since_log = list(state["since_log"])
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])

    def record(self) -> dict[str, Any]:
        """Return the record for ``recipe.json``: seed, steps, versions, device and loss curve."""
        return {
            "seed": self.seed,
            "steps": self.step,
            "versions": versions("torch"),
            "device": self.device,
            "loss": self.curve,
        }


class EMA:
    """Exponential moving average of weights, with the warm-up of the official code.

    shadow <- d shadow + (1 - d) weight, with d = min(decay, (1 + n) / (10 + n)) at the n-th update.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.parameters: list[Tensor] = [p for p in parameters if p.requires_grad]
        self.shadow = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages with the current weights."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.shadow, self.parameters, 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their averages."""
        for weight, average in zip(self.parameters, self.shadow, strict=True):
            copy = weight.clone()
            weight.copy_(average)
            average.copy_(copy)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Use the averages as weights within the block."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """Return the number of updates, and the averages in the order of the trainable parameters."""
        return {"updates": self.updates, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state that `state_dict` returned."""
        self.updates = state["updates"]
        for average, saved in zip(self.shadow, state["shadow"], strict=True):
            average.copy_(saved)


def step_seed(seed: int, step: int) -> int:
    """Return the seed of a step, within the 32 bits that PyTorch's CPU generator uses."""
    return (seed * SEED_STRIDE + step) % 2**32


def learning_rate(config: Config | ClassifierRecipe, step: int) -> float:
    """Return the learning rate of ``step`` (from 0), with linear warm-up and linear decay over the last steps."""
    optim = config.optim
    warmup = (step + 1) / optim.warmup if optim.warmup else 1.0
    decay = (config.training.n_iters - step) / optim.decay if optim.decay else 1.0
    return optim.lr * min(warmup, decay, 1.0)
