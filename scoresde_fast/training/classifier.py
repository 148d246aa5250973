# SPDX-License-Identifier: Apache-2.0
"""Training of noise-conditional classifiers by cross-entropy at the noise levels of every SDE that they guide."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scoresde_fast.checkpoints import load_classifier, save_classifier
from scoresde_fast.checkpoints.training_states import MODEL
from scoresde_fast.classifier import Classifier, ClassifierConfig
from scoresde_fast.data.in_memory import READ_BATCH, read_data
from scoresde_fast.files import write_json
from scoresde_fast.training.data_identity import identify
from scoresde_fast.training.recipes import ClassifierRecipe, LabelledData, NoiseRange
from scoresde_fast.training.resumable import ResumableRun, run_to_end, step_seed

NOISE_LEVELS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Standard deviations of the noise, on images in [-1, 1], at which the held-out accuracy is recorded."""


def train_classifier(
    recipe: ClassifierRecipe,
    out: Path,
    *,
    seed: int = 0,
    device: str = "cpu",
    half: bool = False,
    tensorboard: bool = False,
    progress: bool | None = None,
) -> Path:
    """Train or resume training, and return the folder of the trained classifier, ``out/model``.

    Arguments, files and errors are those of `train`, but no grids are written. ``recipe.json`` also records the recipe
    and, if there are held-out images, the accuracy on them at each noise level.
    """
    trainer = ClassifierTrainer(recipe, out, seed, device)
    held_out = None if recipe.data.held_out is None else labelled_images(recipe.data.held_out, recipe.classifier)
    run_to_end(trainer, tensorboard=tensorboard, progress=progress)
    folder = out / MODEL
    trainer.write_averaged(folder, torch.float16 if half else torch.float32)
    record = trainer.record() | {"recipe": recipe.to_dict()}
    if held_out is not None:
        classifier = load_classifier(folder)  # the weights as saved, on the CPU
        record["held_out_accuracy"] = [(noise, accuracy(classifier, *held_out, noise)) for noise in NOISE_LEVELS]
    write_json(folder / "recipe.json", record)
    return folder


@dataclass
class ClassifierTrainer(ResumableRun[ClassifierRecipe]):
    """A `ResumableRun` that trains the classifier of a recipe; it also raises the errors of `labelled_images`."""

    def _prepare(self) -> nn.Module:
        self.classifier = Classifier(self.config.classifier).to(self.device)
        self.noise_ranges = [NoiseRange.of_model(name) for name in self.config.models]
        self.images, self.labels = labelled_images(self.config.data.dataset, self.config.classifier)
        self.data_identity = identify(self.images, self.labels)
        return self.classifier

    @property
    def _ema_rate(self) -> float:
        return self.config.training.ema_rate

    def _write_model(self, folder: Path, dtype: torch.dtype) -> None:
        save_classifier(self.classifier, folder, dtype)

    def _loss(self) -> Tensor:
        size = self.config.training.batch_size
        generator = torch.Generator().manual_seed(step_seed(self.seed, self.step))
        index = torch.randint(len(self.images), (size,), generator=generator)
        x = augmented(_centred(self.images[index]), self.config.data, generator)
        noise = self._noise(size, generator)
        x = x + noise[:, None, None, None] * torch.randn(x.shape, generator=generator)
        log_p = self.classifier(x.to(self.device), noise.to(self.device))
        return F.nll_loss(log_p, self.labels[index].to(self.device))

    def _noise(self, size: int, generator: torch.Generator) -> Tensor:
        """Draw a noise std for each image: the std of a random SDE at a random time."""
        sde_index = torch.randint(len(self.noise_ranges), (size,), generator=generator).numpy()
        u = torch.rand(size, generator=generator, dtype=torch.float64).numpy()
        noise = np.empty(size)
        for index, noise_range in enumerate(self.noise_ranges):
            noise[sde_index == index] = noise_range.std(u[sde_index == index])
        return torch.from_numpy(noise).float()


def labelled_images(source: str, config: ClassifierConfig) -> tuple[Tensor, Tensor]:
    """Read images (N, C, H, W) uint8 and labels (N,) int64 that fit ``config``.

    Raises:
        ValueError: the source has no labels or too many classes, or `read_data` refuses it.
        FileNotFoundError: the file does not exist.
    """
    images, _, labels = read_data(source, config.image_shape)
    if labels is None:
        raise ValueError(
            f"{source} has no labels, which a classifier needs; give a data set, shards with classes, or a folder or "
            ".zip with one folder for each class"
        )
    if (largest := int(labels.max())) >= len(config.classes):
        raise ValueError(
            f"{source} has labels up to {largest}, but classifier.classes names {len(config.classes)}; name every class"
        )
    return images, labels


def augmented(x: Tensor, data: LabelledData, generator: torch.Generator) -> Tensor:
    """Shuffle the channels of images (B, C, H, W), mirror and shift them at random, as configured in ``data``."""
    size, channels, height, width = x.shape
    order = torch.rand(size, channels, generator=generator).argsort(1)
    shuffled = torch.rand(size, generator=generator) < data.shuffle_channels  # a fraction of the images
    order[~shuffled] = torch.arange(channels)
    x = x[torch.arange(size)[:, None], order]
    flipped = torch.rand(size, generator=generator) < (0.5 if data.random_flip else 0)
    x = torch.where(flipped[:, None, None, None], x.flip(-1), x)
    dy, dx = torch.randint(2 * data.shift + 1, (2,), generator=generator).tolist()
    return F.pad(x, (data.shift,) * 4, mode="replicate")[:, :, dy : dy + height, dx : dx + width]


@torch.no_grad()
def accuracy(classifier: Classifier, images: Tensor, labels: Tensor, noise: float, seed: int = 0) -> float:
    """Return the fraction of 8-bit images (N, C, H, W) that is classified correctly with noise of std ``noise``."""
    correct = 0
    generator = torch.Generator().manual_seed(seed)
    device = next(classifier.parameters()).device
    for batch, truth in zip(images.split(READ_BATCH), labels.split(READ_BATCH), strict=True):
        x = _centred(batch) + noise * torch.randn(batch.shape, generator=generator)
        predicted = classifier(x.to(device), torch.full((len(x),), noise, device=device)).argmax(1).cpu()
        correct += int((predicted == truth).sum())
    return correct / len(images)


def _centred(images: Tensor) -> Tensor:
    """Scale 8-bit images to [-1, 1]."""
    return images.float() / 127.5 - 1
