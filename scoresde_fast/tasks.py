# SPDX-License-Identifier: Apache-2.0
"""Tasks in one call: sampling by seed or class, inpainting, colorization and restoration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from scoresde_fast.checkpoints import load_classifier
from scoresde_fast.classifier import Classifier
from scoresde_fast.conditions.classes import CLASS_SCALE, ClassGuidance, classes_list
from scoresde_fast.conditions.guidance import DPS, PiGDM
from scoresde_fast.conditions.operators import Gray, LinearOperator, Mask
from scoresde_fast.conditions.operators.mask import expand_mask
from scoresde_fast.conditions.projection import Projection
from scoresde_fast.data.arrays import ArrayLike, as_unit_images
from scoresde_fast.errors import require_integer, unknown_message
from scoresde_fast.flow.options import AdaptiveOptions
from scoresde_fast.loop.condition import Condition, Conditions, as_conditions
from scoresde_fast.loop.inputs import Inputs, InputValues
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.loop.seeds import SeedAssignment
from scoresde_fast.loop.step import Callback
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import seed_sequence
from scoresde_fast.run_options import accepting_options
from scoresde_fast.sampler import Sampler
from scoresde_fast.solvers import SolverOptions

RestorationMethod = Literal["pigdm", "dps"]
CompletionMethod = Literal["projection", "pigdm"]
ASSUMED_NOISE = 0.02
"""The noise that `PiGDM` assumes for exact measurements: about the noise of a run's last step."""
GRAY_TOLERANCE = 1e-5
"""Allowed difference between the channels of a gray image: rounding error, far below one 8-bit step."""


@accepting_options(SolverOptions, AdaptiveOptions)
def sample(
    model: ScoreFunction,
    seeds: Sequence[int] | int | None = None,
    *,
    return_velocity: bool = False,
    trajectory: bool = False,
    noise: ArrayLike | None = None,
    callback: Callback | None = None,
    progress: bool = False,
    classes: int | str | Sequence[int | str] | ArrayLike | None = None,
    classifier: Classifier | str | Path | None = None,
    class_scale: float = CLASS_SCALE,
    condition: Conditions = None,
    inputs: InputValues = None,
    **options: Any,
) -> Any:
    """Return the images of seeds, (len(seeds), C, H, W) float32 in [0, 1], and optionally a CLD model's velocities.

    Args:
        model: any score model.
        seeds: one for each image, or the number n of images for 0, 1, ..., n - 1; None: one for each of ``classes``.
        return_velocity, trajectory, noise, callback, progress: see `Sampler.sample`.
        classes: the class of each image, by index or name, also as an array, to which ``classifier`` guides it.
        classifier: a `Classifier`, the name of an embedded one ("digits-classifier"), or a folder.
        class_scale: the scale of `ClassGuidance`.
        inputs: inputs of the network, such as {"y": labels}, with a row for each seed, or one for all.
        condition, options: as in `Sampler`; classes and conditions can be combined.

    Raises:
        ValueError: there are neither seeds nor classes, their numbers differ, or only one of classes and classifier is
            given; or as `ClassGuidance` and `Sampler`.
    """
    if classes is None:
        if seeds is None:
            raise ValueError("there are no seeds: give the number of images, such as 16, or a seed for each")
        if classifier is not None:
            raise ValueError("a classifier is given without classes: add one for each image, such as classes=[3, 3, 7]")
        seeds = seed_sequence(seeds)
        conditions = as_conditions(condition)
    else:
        classes = classes_list(classes)
        seeds = range(len(classes)) if seeds is None else seed_sequence(seeds)
        if len(seeds) != len(classes):
            raise ValueError(
                f"there are {len(seeds)} seeds and {len(classes)} classes; give one of each for every image"
            )
        if classifier is None:
            raise ValueError("classes need a classifier: pass classifier='digits-classifier', or one that you trained")
        loaded = load_classifier(classifier) if isinstance(classifier, str | Path) else classifier
        guidance = ClassGuidance(classes, loaded, scale=class_scale, seeds=seeds)
        conditions = (guidance, *as_conditions(condition))
    sampler = Sampler(model, condition=conditions, inputs=Inputs.of(inputs, seeds), **options)
    return sampler.sample(
        seeds, return_velocity=return_velocity, trajectory=trajectory, noise=noise, callback=callback, progress=progress
    )


@dataclass(frozen=True, eq=False)
class TaskSampler:
    """A `Sampler` with the condition of a task, and an operation that finishes its images.

    Attributes:
        sampler: a sampler with the condition.
        seeds: one for each sample, those of the first image first.
        assignment: the assignment of the task's images to seeds.
        finish: ``finish(samples, indices)`` returns the images, for samples (B, C, H, W) and the indices (B,) of the
            task's images; None leaves the samples as they are.
    """

    sampler: Sampler
    seeds: Sequence[int]
    assignment: SeedAssignment
    finish: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def nfe(self) -> int | None:
        """See `Sampler.nfe`."""
        return self.sampler.nfe

    @property
    def device(self) -> torch.device:
        """The device of the sampler."""
        return self.sampler.device

    @property
    def implementation(self) -> str:
        """See `Sampler.implementation`."""
        return self.sampler.implementation

    @property
    def batch_dependent(self) -> bool:
        """See `Sampler.batch_dependent`."""
        return self.sampler.batch_dependent

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        return self.sampler.describe()

    def sample(self) -> Tensor:
        """Return the images of all seeds, in their order."""
        return torch.cat([images for _, images in self.stream(self.seeds)])

    def stream(
        self, seeds: Sequence[int], batch_size: int | None = None, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """See `Sampler.stream`."""
        for batch, images in self.sampler.stream(seeds, batch_size, on_step):
            if self.finish is not None:
                images = self.finish(images, self.assignment.item_indices(torch.tensor(batch, device=images.device)))
            yield batch, images


@accepting_options(SolverOptions, AdaptiveOptions)
def inpaint(
    model: ScoreFunction,
    images: ArrayLike,
    mask: ArrayLike,
    *,
    seeds: Sequence[int] | int | None = None,
    samples: int = 1,
    method: CompletionMethod = "projection",
    original: bool = False,
    **options: Any,
) -> Tensor:
    """Sample the unknown part of images given the known part.

    Args:
        model: any score model; it needs no training for this task.
        images: (N, C, H, W) or (C, H, W) in [0, 1]; unknown pixels may have any value.
        mask: 1 or True where a pixel is known: (H, W), (1 or C, H, W), or a mask per image, (N, 1 or C, H, W).
        seeds: one for each sample, those of the first image first; None: 0, 1, 2, ...
        samples: number of samples of each image.
        method: "projection" replaces known pixels, as in the paper (`Projection`); "pigdm" also guides the unknown
            pixels by the network's gradient (`PiGDM`).  Guidance takes two to three times as long and fits the unknown
            pixels better to the known ones.
        original: see `Projection`.
        options: as in `scoresde_fast.Sampler`.

    Returns:
        (N * samples, C, H, W) float32 in [0, 1], the samples of the first image first.  Known pixels equal those of
        ``images``, bit for bit, unless ``original`` is True.

    Raises:
        ValueError: the images or the mask have another size, a known pixel is outside [0, 1], the mask is not binary,
            a seed is repeated, or an option is invalid.
    """
    return inpainting(
        model, images, mask, seeds=seeds, samples=samples, method=method, original=original, **options
    ).sample()


def inpainting(
    model: ScoreFunction,
    images: ArrayLike,
    mask: ArrayLike,
    *,
    seeds: Sequence[int] | int | None = None,
    samples: int = 1,
    method: CompletionMethod = "projection",
    original: bool = False,
    **options: Any,
) -> TaskSampler:
    """Return the sampler of `inpaint`; arguments and errors are the same."""
    images = _batch("images", images, model, (model.image_shape[0],))
    seeds = task_seeds(len(images), seeds, samples)
    full_mask = expand_mask(mask, images.shape).to(images.device)
    conditions: list[Condition] = [Projection(images, mask, seeds=seeds, original=original)]
    if _guides(method, original):
        masks = full_mask[:1] if (full_mask == full_mask[:1]).all() else full_mask
        conditions.append(PiGDM(Mask(masks), images.where(full_mask, 0.0), noise=ASSUMED_NOISE, seeds=seeds))

    def restore_known(filled: Tensor, indices: Tensor) -> Tensor:
        # The conversion to the model's range and back has rounded the known pixels.
        batch_mask, batch_images = (tensor.to(filled.device)[indices] for tensor in (full_mask, images.float()))
        return torch.where(batch_mask, batch_images, filled)

    return _task_sampler(model, conditions, seeds, len(images), options, restore_known, original=original)


@accepting_options(SolverOptions, AdaptiveOptions)
def colorize(
    model: ScoreFunction,
    gray: ArrayLike,
    *,
    seeds: Sequence[int] | int | None = None,
    samples: int = 1,
    method: CompletionMethod = "projection",
    original: bool = False,
    **options: Any,
) -> Tensor:
    """Sample colour images whose mean over the channels is ``gray``.

    Colours outside [0, 1] are desaturated rather than clipped, which would change their gray.

    Args:
        gray: (N, 1, H, W) or (1, H, W) in [0, 1], or images with equal channels.
        model, seeds, samples, method, original, options: as in `inpaint`, except that "pigdm" uses no projection: it
            guides, and the gray is imposed at the end.

    Returns:
        (N * samples, C, H, W) float32 in [0, 1], the samples of the first image first.

    Raises:
        ValueError: the model has one channel, or the channels of an image differ; or as in `inpaint`.
    """
    return colorization(model, gray, seeds=seeds, samples=samples, method=method, original=original, **options).sample()


def colorization(
    model: ScoreFunction,
    gray: ArrayLike,
    *,
    seeds: Sequence[int] | int | None = None,
    samples: int = 1,
    method: CompletionMethod = "projection",
    original: bool = False,
    **options: Any,
) -> TaskSampler:
    """Return the sampler of `colorize`; arguments and errors are the same."""
    channels = model.image_shape[0]
    if channels == 1:
        raise ValueError("the model's images have one channel; colorization needs a model of colour images")
    gray = _batch("gray", gray, model, (1, channels))
    if not gray.isfinite().all():
        raise ValueError("gray contains NaN or infinity; every pixel must be a number in [0, 1]")
    spread = (gray.amax(1) - gray.amin(1)).flatten(1).amax(1)
    if (worst := spread.max()) > GRAY_TOLERANCE:
        raise ValueError(
            f"gray has colours: the channels of image {int(spread.argmax())} differ by {worst:.3g}; convert it with "
            "images.mean(1, keepdim=True)"
        )
    gray, seeds = gray[:, :1], task_seeds(len(gray), seeds, samples)
    condition: Condition
    if _guides(method, original):
        condition = PiGDM(Gray(channels), gray, noise=ASSUMED_NOISE, seeds=seeds)
    else:
        condition = Projection(gray, seeds=seeds, original=original)

    def impose_gray(coloured: Tensor, indices: Tensor) -> Tensor:
        return fit_colours(coloured, gray.to(coloured.device, torch.float32)[indices])

    return _task_sampler(model, [condition], seeds, len(gray), options, impose_gray, original=original)


@accepting_options(SolverOptions, AdaptiveOptions)
def restore(
    model: ScoreFunction,
    operator: LinearOperator,
    measured: ArrayLike,
    *,
    noise: float = 0.0,
    method: RestorationMethod = "pigdm",
    scale: float = 1.0,
    seeds: Sequence[int] | int | None = None,
    samples: int = 1,
    **options: Any,
) -> Tensor:
    """Sample images from noisy linear measurements y = A x + noise, by `PiGDM` or `DPS`.

    Args:
        model: any score model; it needs no training for this task.
        operator: A on images in [0, 1], such as `Blur(1.5)`; see `scoresde_fast.conditions.operators`.
        measured: (N, ...), the measurements y of N images.
        noise: the standard deviation of the noise; ignored by "dps".
        method: "pigdm" or "dps".
        scale: the scale of the guidance; see `PiGDM` and `DPS`.
        seeds, samples: as in `inpaint`.
        options: as in `scoresde_fast.Sampler`.

    Returns:
        (N * samples, C, H, W) float32 in [0, 1], the samples of the first measurement first.

    Raises:
        ValueError: the operator or the measurements do not fit the model, the method is unknown, a seed is repeated, or
            an option is invalid.
    """
    return restoration(
        model, operator, measured, noise=noise, method=method, scale=scale, seeds=seeds, samples=samples, **options
    ).sample()


def restoration(
    model: ScoreFunction,
    operator: LinearOperator,
    measured: ArrayLike,
    *,
    noise: float = 0.0,
    method: RestorationMethod = "pigdm",
    scale: float = 1.0,
    seeds: Sequence[int] | int | None = None,
    samples: int = 1,
    **options: Any,
) -> TaskSampler:
    """Return the sampler of `restore`; arguments and errors are the same."""
    measured = as_unit_images(measured)
    seeds = task_seeds(len(measured), seeds, samples)
    if method not in get_args(RestorationMethod):
        raise ValueError(unknown_message("method", method, get_args(RestorationMethod)))
    condition: Condition = (
        PiGDM(operator, measured, noise=noise, scale=scale, seeds=seeds)
        if method == "pigdm"
        else DPS(operator, measured, scale=scale, seeds=seeds)
    )
    return _task_sampler(model, [condition], seeds, len(measured), options)


def task_seeds(images: int, seeds: Sequence[int] | int | None, samples: int) -> Sequence[int]:
    """Return ``seeds``, by default 0, 1, 2, ...: one for each of ``samples`` samples of each of ``images`` images.

    Raises:
        ValueError: there are more or fewer seeds than samples, ``seeds`` is neither a sequence nor a number, or
            ``samples`` is not an integer of at least 1.
    """
    require_integer("samples", samples, 1)
    count = images * samples
    if seeds is None:
        return range(count)
    seeds = seed_sequence(seeds)
    if len(seeds) != count:
        raise ValueError(
            f"there are {len(seeds)} seeds for {images} images with {samples} samples each; give {count}, or none"
        )
    return seeds


def fit_colours(images: Tensor, gray: Tensor) -> Tensor:
    """Return images (N, C, H, W) shifted to the mean ``gray`` (N, 1, H, W), desaturated where [0, 1] requires it."""
    colour = images - images.mean(1, keepdim=True)
    largest_factor = torch.where(colour > 0, (1 - gray) / colour, gray / -colour).where(colour != 0, 1.0)
    return (gray + largest_factor.amin(1, keepdim=True).clamp(max=1) * colour).clamp(0, 1)


def _task_sampler(
    model: ScoreFunction,
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    images: int,
    options: dict[str, Any],
    finish: Callable[[Tensor, Tensor], Tensor] | None = None,
    *,
    original: bool = False,
) -> TaskSampler:
    """Return the sampler of ``images`` images; ``original`` leaves out ``finish`` and, by default, denoising."""
    if original:
        options, finish = {"denoise": False, **options}, None
    options = {**options, "inputs": Inputs.of(options.get("inputs"), seeds)}
    sampler = Sampler(model, condition=conditions, **options)
    return TaskSampler(sampler, seeds, SeedAssignment(images, "image", seeds), finish)


def _guides(method: CompletionMethod, original: bool) -> bool:
    """Return whether the method guides; raise ``ValueError`` if it is unknown, or excluded by ``original``."""
    if method not in get_args(CompletionMethod):
        raise ValueError(unknown_message("method", method, get_args(CompletionMethod)))
    if original and method != "projection":
        raise ValueError(f"original=True requires method='projection'; leave out method={method!r}")
    return method == "pigdm"


def _batch(name: str, images: ArrayLike, model: ScoreFunction, channels: tuple[int, ...]) -> Tensor:
    """Return images (N, C, H, W); raise ``ValueError`` unless C is one of ``channels`` and the size is the model's."""
    images = as_unit_images(images, channels)
    batch = images[None] if images.ndim == 3 else images
    height, width = model.image_shape[1:]
    if batch.ndim != 4 or batch.shape[1] not in channels or batch.shape[2:] != (height, width) or not len(batch):
        allowed = " or ".join(f"(N, {count}, {height}, {width})" for count in channels)
        raise ValueError(f"{name} has shape {tuple(images.shape)}; for this model it must be {allowed}")
    return batch
