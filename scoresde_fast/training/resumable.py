# SPDX-License-Identifier: Apache-2.0
"""Training runs that resume at any step: Adam, warm-up, gradient clipping, EMA, and snapshots written atomically."""

from __future__ import annotations

import os
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from scoresde_fast.checkpoints.training_states import (
    MODEL,
    PREVIOUS,
    STATE,
    DamagedStateError,
    State,
    averaged_weights,
    copy_weights,
    is_run,
    newest_state,
    snapshot_name,
    snapshots,
)
from scoresde_fast.configs import Config
from scoresde_fast.configs.schema import without_job_options
from scoresde_fast.environment import versions
from scoresde_fast.errors import require_packages
from scoresde_fast.files import make_folder, replacing, temporary_name
from scoresde_fast.generate.manifest import differences, require_unused
from scoresde_fast.locks import ProcessLock
from scoresde_fast.training.data_identity import describe_change
from scoresde_fast.training.log_lines import LogLines
from scoresde_fast.training.recipes import ClassifierRecipe
from scoresde_fast.training.stopping import requested_stop, stop_by

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

    After SIGINT (Ctrl-C), SIGTERM or SIGHUP the current step is finished and saved; a second signal stops at once.

    Args:
        on_snapshot: called with the run after each snapshot.
        tensorboard: write TensorBoard events to ``events/``.
        progress: True shows a bar, False nothing; None shows a bar on a terminal, otherwise a line per minute.

    Raises:
        MissingPackageError: ``tensorboard`` is given, but the package is not installed.
        ValueError: another process is training into the same folder.
        KeyboardInterrupt: SIGINT was received.
        SystemExit: SIGTERM or SIGHUP was received; the code is 128 + its number, 143 for SIGTERM.
    """
    writer = None
    if tensorboard:
        require_packages("--tensorboard", "tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(run.folder / "events"))
    total = run.config.training.n_iters
    lines = LogLines(run.step, total) if progress is None and not sys.stderr.isatty() else None
    hides_bar = None if progress is None else not progress  # None hides it unless on a terminal
    with (
        _only_process(run.folder),
        requested_stop() as stop,
        tqdm(total=total, initial=run.step, unit="step", disable=hides_bar, dynamic_ncols=True) as bar,
    ):
        for step, loss in run.run(on_snapshot, lambda: stop() is not None):
            bar.update()
            if lines is not None:
                lines.add(step, loss)
            if step % run.config.training.log_freq == 0:
                bar.set_postfix(loss=f"{run.curve[-1][1]:.4g}")
                if writer is not None:
                    writer.add_scalar("loss", run.curve[-1][1], step)
    if writer is not None:
        writer.close()
    if (received := stop()) is not None and run.step < total:
        print(f"{run.state_path} holds step {run.step} of {total}, from which the run goes on", file=sys.stderr)
        stop_by(received)


def _keep(path: Path, previous: Path) -> None:
    """Give a file the name ``previous`` too, so that others can read ``path`` at any moment until it is replaced."""
    link = temporary_name(previous)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # the file system has no hard links
        link = path
    os.replace(link, previous)


class _Writer:
    """A file whose first error is kept: `torch.save` replaces errors of the disk by one of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self._file.flush()


def _save(state: State, file: BinaryIO) -> None:
    """Write a state; raise OSError if the disk is full."""
    writer = _Writer(file)
    try:
        torch.save(state, writer)  # type: ignore[arg-type]  # it needs no more of a file
    except RuntimeError as error:
        raise writer.error or error from error


@contextmanager
def _only_process(folder: Path) -> Iterator[None]:
    """Make this process the only one that trains into a folder; raise ValueError if another one does."""
    lock = ProcessLock(folder / "training.lock")
    if not lock.acquire(wait=False):
        raise ValueError(f"{lock.owner} is training into {folder}: wait for it, or choose another folder")
    try:
        yield
    finally:
        lock.release()


@dataclass
class ResumableRun(ABC, Generic[RunConfig]):
    """A training run that resumes from its last snapshot with the same result as an uninterrupted one.

    Args:
        config: the configuration of the run.
        folder: folder of ``state.pt``; an existing run is resumed.
        seed: seed of the initial weights and of every step.
        device: device to train on.

    Raises:
        ValueError: ``folder`` contains a run with another configuration, seed or data, or one whose states are damaged.
        FloatingPointError: the loss is not finite; the message names the step.
    """

    config: RunConfig
    folder: Path
    seed: int = 0
    device: str = "cpu"
    step: int = field(default=0, init=False)
    curve: list[tuple[int, float]] = field(default_factory=list, init=False)
    since_log: list[float] = field(default_factory=list, init=False)
    saved_step: int | None = field(default=None, init=False)
    data_identity: dict[str, Any] = field(default_factory=dict, init=False)
    _keeps_previous: bool = field(default=True, init=False)

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
        require_unused(self.folder, STATE)
        if is_run(self.folder):
            newest_state(self.folder, self._resume)
        elif saved := [*snapshots(self.folder), *self.folder.glob(MODEL)]:
            raise ValueError(
                f"{self.folder} has {saved[0].name} of a run but not its {STATE}; choose another folder, or move them"
            )
        for name in (STATE, PREVIOUS):
            if (path := self.folder / name).is_dir():
                raise ValueError(f"{path} is a folder, but the state of the run is written there; move it")

    @abstractmethod
    def _prepare(self) -> nn.Module:
        """Open the training data, set ``data_identity`` and return the network with fresh weights on the device."""

    @abstractmethod
    def _loss(self) -> Tensor:
        """Return the loss of the current step; its randomness depends only on the seed and the step number."""

    @property
    @abstractmethod
    def _ema_rate(self) -> float:
        """Decay of the moving average of the weights."""

    @abstractmethod
    def _write_model(self, folder: Path, dtype: torch.dtype) -> None:
        """Write the model with its current weights to ``folder``."""

    @property
    def state_path(self) -> Path:
        """Path of the newest state."""
        return self.folder / STATE

    def run(
        self, on_snapshot: Callable[[Any], object] | None = None, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[int, float]]:
        """Train to the last step, or until ``stop()`` before a step, and yield (step, loss).

        The state is saved at the start, every ``snapshot_freq_for_preemption`` steps, at each snapshot and at the end.
        Snapshots are taken every ``snapshot_freq`` steps; ``on_snapshot(self)`` is called after them and at the end.
        """
        training = self.config.training
        if self.saved_step is None:
            self.save()  # a folder that cannot be written is reported before the first step
        while self.step < training.n_iters and not stop():
            try:
                loss = self._train_step()
            except (OSError, ValueError):  # the data cannot be read, and the weights are those of the last step
                self._save_if_new()
                raise
            self.since_log.append(loss)
            if self.step % training.log_freq == 0:
                self.curve.append((self.step, sum(self.since_log) / len(self.since_log)))
                self.since_log.clear()
            is_snapshot, is_last = self.step % training.snapshot_freq == 0, self.step == training.n_iters
            if is_snapshot:  # before the state, so that a killed run lacks no snapshot
                self.write_averaged(self.folder / snapshot_name(self.step))
            if is_snapshot or is_last or self.step % training.snapshot_freq_for_preemption == 0:
                self.save()
            if on_snapshot is not None and (is_snapshot or is_last):
                on_snapshot(self)
            yield self.step, loss
        self._save_if_new()

    def write_averaged(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the model with the averaged weights to ``folder``."""
        with self.ema.averaged():
            self._write_model(folder, dtype)

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
        """Write the state atomically, and keep the one before as ``state.previous.pt``."""
        state = {
            "config": self.config.to_dict(),
            "seed": self.seed,
            "data": self.data_identity,
            "step": self.step,
            "curve": self.curve,
            "since_log": self.since_log,
            "network": self.network.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        make_folder(self.folder)
        with replacing(self.state_path) as file:
            _save(state, file)
            if self._keeps_previous and self.state_path.exists():
                _keep(self.state_path, self.folder / PREVIOUS)
        self.saved_step, self._keeps_previous = self.step, True

    def _save_if_new(self) -> None:
        if self.step != self.saved_step:
            self.save()

    def _resume(self, path: Path, state: State) -> None:
        """Take over a state; raise ValueError if it has other values than this run, and if it is damaged."""
        saved = {"config": without_job_options(state["config"]), "seed": state["seed"]}
        ours = {"config": without_job_options(self.config.to_dict()), "seed": self.seed}
        if different := list(differences(saved, ours)):
            raise ValueError(
                f"{path} is a run with other values ({'; '.join(different)}); choose another folder, or those values"
            )
        if "data" in state and (change := describe_change(state["data"], self.data_identity)):
            raise ValueError(
                f"the training data {self.config.data.dataset} have changed since {path} was written: {change}; "
                "restore them, or choose another folder for a new run"
            )
        self._check_length(path, state)
        copy_weights(path, self.network, state, ema=False)
        averaged_weights(path, self.network, state)
        try:
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self._check_moments()
            self.curve = [(int(step), float(loss)) for step, loss in state["curve"]]
            self.since_log = [float(loss) for loss in state["since_log"]]
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise DamagedStateError(f"{path} does not fit its configuration") from error
        self.step = self.saved_step = state["step"]
        self._keeps_previous = path == self.state_path  # a damaged one does not replace the intact one before it

    def _check_length(self, path: Path, state: State) -> None:
        """Raise ValueError if the run has more steps than are requested; warn if its rate fell towards another end."""
        step, n_iters, decay = state["step"], self.config.training.n_iters, self.config.optim.decay
        if step > n_iters:
            raise ValueError(
                f"training.n_iters is {n_iters}, but {path} has done {step} steps; give at least as many, or choose "
                "another folder"
            )
        before = state["config"]["training"].get("n_iters", n_iters)
        if before != n_iters and decay and step > min(before, n_iters) - decay:
            warnings.warn(
                f"{path} is at step {step} of {before}, where optim.decay {decay} lowers the learning rate; with "
                f"training.n_iters {n_iters} it jumps, so the result is not that of one run of {n_iters} steps",
                stacklevel=2,
            )

    def _check_moments(self) -> None:
        """Raise ValueError unless the optimiser's averages have the shapes of their weights, which torch lets pass."""
        for weight, averages in self.optimizer.state.items():
            if any(average.ndim and average.shape != weight.shape for average in averages.values()):
                raise ValueError("the optimiser's averages do not fit the weights")

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
        self.updates = int(state["updates"])
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
