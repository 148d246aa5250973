# SPDX-License-Identifier: Apache-2.0
"""Training of score models by score matching, with grids of samples at each snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.checkpoints import save
from scoresde_fast.checkpoints.training_states import MODEL
from scoresde_fast.configs import Config
from scoresde_fast.data.codecs import encode_png
from scoresde_fast.data.conversion import parse_conversion
from scoresde_fast.data.in_memory import training_data
from scoresde_fast.data.public_sets import source_of
from scoresde_fast.data.sources import is_data_set
from scoresde_fast.files import make_folder, replacing, write_json
from scoresde_fast.generate.pixels import compose, point_plot, to_pixels
from scoresde_fast.model import ScoreModel
from scoresde_fast.sampler import Sampler
from scoresde_fast.training.data_identity import identify
from scoresde_fast.training.losses import objective, unit_images
from scoresde_fast.training.resumable import ResumableRun, run_to_end, step_seed

GRIDS = "grids"
GRID_IMAGES = 16
GRID_POINTS = 4096
GRID_STEPS = 100


def train(
    config: Config,
    out: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    half: bool = False,
    tensorboard: bool = False,
    progress: bool | None = None,
) -> Path:
    """Train or resume training, and return the folder of the trained model, ``out/model``.

    ``out`` also contains ``state.pt``, from which an interrupted run resumes, ``state.previous.pt``, the state before,
    and for every snapshot ``checkpoint_STEP/``, which `load` takes, and in ``grids/`` samples of the same seeds. The
    saved weights are the moving averages; ``recipe.json`` beside the trained model's records seed, steps, versions,
    device and the loss curve. Signals stop the run as in `run_to_end`.

    Args:
        half: save the trained weights in half precision.
        tensorboard: write TensorBoard events to ``out/events``.
        progress: as in `run_to_end`.

    Raises:
        ValueError: ``out`` contains a run with another configuration, seed or data, or one whose states are damaged;
            ``out`` is inside the folder of training images; or the data are not suitable.
        FileNotFoundError: the data do not exist.
        FloatingPointError: the loss is not finite.
        MissingPackageError: ``tensorboard`` is given, but the package is not installed.
    """
    trainer = Trainer(config, out, seed, device)
    run_to_end(trainer, on_snapshot=write_grid, tensorboard=tensorboard, progress=progress)
    folder = out / MODEL
    trainer.write_averaged(folder, torch.float16 if half else torch.float32)
    write_json(folder / "recipe.json", trainer.record())
    return folder


def write_grid(trainer: Trainer) -> None:
    """Sample with the averaged weights and write ``grids/step-NNNNNN.png``, for points a scatter plot."""
    is_image = trainer.model.is_image
    with trainer.ema.averaged():
        sampler = Sampler(trainer.model, steps=GRID_STEPS, device=trainer.device)
        samples = sampler.sample(range(GRID_IMAGES if is_image else GRID_POINTS))
    path = trainer.folder / GRIDS / f"step-{trainer.step:06d}.png"
    make_folder(path.parent)
    with replacing(path) as file:
        file.write(encode_png(compose(list(to_pixels(samples, "floor")))) if is_image else point_plot(samples))


@dataclass
class Trainer(ResumableRun[Config]):
    """A `ResumableRun` that trains the model of a configuration on its data set.

    ``config.data.dataset`` is the name of a data set or any source of images, see `open_images`.

    Raises:
        ValueError: the configuration is discrete in time; the data are unknown, corrupt, too large or of another shape.
        FileNotFoundError: the data do not exist.
    """

    def __post_init__(self) -> None:
        if not self.config.training.continuous:
            raise ValueError("training.continuous is false; training supports continuous score matching only")
        self._refuse_folder_of_data()
        super().__post_init__()

    def _prepare(self) -> nn.Module:
        self.model = ScoreModel(self.config).to(self.device)
        source = source_of(self.config.data.dataset)
        self.images = training_data(source, self.model.image_shape, is_image=self.model.is_image)
        self.data_identity = identify(self.images)
        # channels_last is 20% faster on a CPU, and the common layout on a GPU.
        network: nn.Module = self.model.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return network

    def _refuse_folder_of_data(self) -> None:
        """Raise ValueError if the grids would be written among the training images, and read as such later."""
        dataset = self.config.data.dataset
        name, _ = parse_conversion(dataset)
        is_folder = Path(name).is_dir() and not is_data_set(name)
        if is_folder and (self.folder / GRIDS).resolve().is_relative_to(Path(name).resolve()):
            raise ValueError(
                f"the run's folder {self.folder} is inside the training images {dataset}, where its sample grids would "
                "become training images; choose a folder elsewhere"
            )

    @property
    def _ema_rate(self) -> float:
        return self.config.model.ema_rate

    def _write_model(self, folder: Path, dtype: torch.dtype) -> None:
        save(self.model, folder, dtype)

    def _loss(self) -> Tensor:
        data = self.config.data
        batch = Batch.draw(self.seed, self.step, self.config.training.batch_size, len(self.images), self.model)
        images = self.images[batch.index]
        images = unit_images(images, batch.dequantization, data) if data.is_image else images.float()
        if data.random_flip:
            images = torch.where(batch.flip[:, None, None, None], images.flip(-1), images)
        x0 = self.model.from_images(images.to(self.device))
        return objective(self.model, x0, batch.u, batch.z.to(self.device), batch.z_v0.to(self.device))


@dataclass
class Batch:
    """The random numbers of one training step; they depend only on the seed and the step number."""

    index: Tensor
    flip: Tensor
    dequantization: Tensor
    u: np.ndarray
    z: Tensor
    z_v0: Tensor

    @classmethod
    def draw(cls, seed: int, step: int, size: int, count: int, model: ScoreModel) -> Batch:
        """Draw the numbers of ``step`` in a run with ``seed``: a batch of ``size`` from ``count`` images."""
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
