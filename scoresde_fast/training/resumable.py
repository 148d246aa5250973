# SPDX-License-Identifier: Apache-2.0
"""A training run that can stop at any step: Adam, warm-up, clipping, EMA, and snapshots that survive a kill."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from scoresde_fast.configs import OptimConfig
from scoresde_fast.environment import versions
from scoresde_fast.errors import require_packages
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.pipeline import LINE_EVERY
from scoresde_fast.training.ema import EMA

FAR_APART = 0x9E3779B1
"""Odd, near 2^32 times the golden ratio: the steps of different seeds share no randomness."""
OPTIMIZERS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW}


class Length(Protocol):
    """How long a run is, and how often it notes its loss and writes a snapshot."""

    @property
    def n_iters(self) -> int: ...
    @property
    def log_freq(self) -> int: ...
    @property
    def snapshot_freq(self) -> int: ...


class RunConfig(Protocol):
    """What a configuration of any run has."""

    @property
    def training(self) -> Length: ...
    @property
    def optim(self) -> OptimConfig: ...
    def to_dict(self) -> dict[str, Any]:
        """As plain values, by which runs are told apart."""


ConfigT = TypeVar("ConfigT", bound=RunConfig)


def step_seed(seed: int, step: int) -> int:
    """Of the randomness of a step: within 32 bits, which are all that PyTorch's generator for CPUs looks at."""
    return (seed * FAR_APART + step) % 2**32


def learning_rate(config: RunConfig, step: int) -> float:
    """The rate of step number ``step`` (from 0): a linear rise over the first steps, a linear fall over the last."""
    optim = config.optim
    rise = (step + 1) / optim.warmup if optim.warmup else 1.0
    fall = (config.training.n_iters - step) / optim.decay if optim.decay else 1.0
    return optim.lr * min(rise, fall, 1.0)


@dataclass
class ResumableRun(ABC, Generic[ConfigT]):
    """Trains a network by the steps of a configuration, and can stop and go on at any of them.

    Args:
        config: the whole run.
        folder: where ``state.pt`` is kept; a run found there goes on.
        seed: of the initial weights and of every step's randomness.
        device: where to train.

    Raises:
        ValueError: ``folder`` holds a run with another configuration or seed.
        FloatingPointError: the loss is not finite; names the step.
    """

    config: ConfigT
    folder: Path
    seed: int = 0
    device: str = "cpu"
    step: int = field(default=0, init=False)
    curve: list[tuple[int, float]] = field(default_factory=list, init=False)
    since_log: list[float] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        torch.manual_seed(self.seed)
        self.network = self._build()
        optim = self.config.optim
        self.optimizer = OPTIMIZERS[optim.optimizer](
            self.network.parameters(),
            lr=optim.lr,
            betas=(optim.beta1, 0.999),
            eps=optim.eps,
            weight_decay=optim.weight_decay,
        )
        self.ema = EMA(self.network.parameters(), self._ema_rate)
        self._open_data()
        if self.state_path.exists():
            self._resume()

    @abstractmethod
    def _build(self) -> nn.Module:
        """The network to train, with fresh weights, on the device."""

    @abstractmethod
    def _open_data(self) -> None:
        """Make the data ready."""

    @abstractmethod
    def _loss(self) -> Tensor:
        """The loss of the present step, whose randomness depends on the seed and the step's number alone."""

    @property
    @abstractmethod
    def _ema_rate(self) -> float:
        """Decay of the moving average of the weights."""

    @property
    def state_path(self) -> Path:
        """The snapshot from which a stopped run goes on."""
        return self.folder / "state.pt"

    def run(self, on_snapshot: Callable[[Any], object] | None = None) -> Iterator[tuple[int, float]]:
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
        torch.manual_seed(step_seed(self.seed, self.step))  # dropout
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
            "network": self.network.state_dict(),
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
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])

    def record(self) -> dict[str, Any]:
        """What is kept beside the trained weights: seed, steps, versions, device and the curve of the loss."""
        return {
            "seed": self.seed,
            "steps": self.step,
            "versions": versions("torch"),
            "device": self.device,
            "loss": self.curve,
        }


def follow(
    run: ResumableRun[Any],
    *,
    on_snapshot: Callable[[Any], object] | None = None,
    tensorboard: bool = False,
    progress: bool | None = None,
) -> None:
    """Train to the last step; ``tensorboard`` writes ``events/``.

    ``progress`` True shows a bar, False nothing; None a bar on a terminal, and otherwise a line a minute.

    Raises:
        MissingPackageError: ``tensorboard`` is asked for and not installed.
    """
    writer = None
    if tensorboard:
        require_packages("--tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(run.folder / "events"))
    total, due = run.config.training.n_iters, perf_counter()
    lines = progress is None and not sys.stderr.isatty()
    bar = tqdm(
        total=total,
        initial=run.step,
        unit="step",
        disable=None if progress is None else not progress,
        dynamic_ncols=True,
    )
    with bar:
        for step, loss in run.run(on_snapshot):
            bar.update()
            if lines and perf_counter() >= due:
                due = perf_counter() + LINE_EVERY
                print(f"step {step} of {total}, loss {loss:.4g}", file=sys.stderr, flush=True)
            if step % run.config.training.log_freq == 0:
                bar.set_postfix(loss=f"{run.curve[-1][1]:.4g}")
                if writer is not None:
                    writer.add_scalar("loss", run.curve[-1][1], step)
    if writer is not None:
        writer.close()
