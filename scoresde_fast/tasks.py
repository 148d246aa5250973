# SPDX-License-Identifier: Apache-2.0
"""The tasks in one call each: samples by seed or class, inpainting, colorisation, and restoring what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from scoresde_fast.checkpoints import load_classifier
from scoresde_fast.classifier import Classifier
from scoresde_fast.conditions.classes import CLASS_SCALE, ClassGuidance
from scoresde_fast.conditions.dps import DPS
from scoresde_fast.conditions.operators import Gray, LinearOperator, Mask
from scoresde_fast.conditions.pigdm import PiGDM
from scoresde_fast.conditions.projection import Projection, whole_mask
from scoresde_fast.conditions.seeds import SeedAssignment
from scoresde_fast.errors import unknown
from scoresde_fast.flow.options import AdaptiveOptions
from scoresde_fast.loop.condition import Condition, Conditions, as_conditions
from scoresde_fast.loop.run_monitor import OnStep
from scoresde_fast.model import ScoreFunction
from scoresde_fast.run_options import accepting_options
from scoresde_fast.sampler import Sampler
from scoresde_fast.solvers import SolverOptions

RestorationMethod = Literal["pigdm", "dps"]
CompletionMethod = Literal["projection", "pigdm"]
LEAST_NOISE = 0.02
"""What `PiGDM` takes for the noise of what is exact: about that of the last step of a run."""
GRAY_TOLERANCE = 1e-5
"""How far the channels of a gray image may be apart: rounding, and less than one level of 8 bits."""


@overload
def sample(
    model: ScoreFunction,
    seeds: Sequence[int] | None = None,
    *,
    return_velocity: Literal[False] = False,
    **options: Any,
) -> Tensor: ...


@overload
def sample(
    model: ScoreFunction, seeds: Sequence[int] | None = None, *, return_velocity: bool, **options: Any
) -> Tensor | tuple[Tensor, Tensor]: ...


@accepting_options(SolverOptions, AdaptiveOptions)
def sample(
    model: ScoreFunction,
    seeds: Sequence[int] | None = None,
    *,
    return_velocity: bool = False,
    classes: Sequence[int | str] | None = None,
    classifier: Classifier | str | Path | None = None,
    class_scale: float = CLASS_SCALE,
    condition: Conditions = None,
    **options: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Images of the seeds: (len(seeds), C, H, W) float32 in [0, 1], and of a CLD model their velocities if asked for.

    Args:
        model: any score model.
        seeds: one for each image; None with ``classes``: 0, 1, 2, ...
        return_velocity: see `Sampler.sample`.
        classes: the class of each image, by its number or name, to which ``classifier`` guides it.
        classifier: a `Classifier`, an embedded one's name ("digits-classifier"), or a folder.
        class_scale: see `ClassGuidance`.
        condition, options: those of `Sampler`; classes and conditions go together.

    Raises:
        ValueError: there are neither seeds nor classes, or not as many of both; classes without a classifier; or as
            `ClassGuidance` and `Sampler`.
    """
    if classes is None:
        if seeds is None:
            raise ValueError("there are no seeds: give one for each image, as seeds=range(16)")
        if classifier is not None:
            raise ValueError("there is a classifier and no classes: give the class of each image, as classes=[3, 3, 7]")
        return Sampler(model, condition=condition, **options).sample(seeds, return_velocity=return_velocity)
    seeds = range(len(classes)) if seeds is None else seeds
    if len(seeds) != len(classes):
        raise ValueError(f"there are {len(seeds)} seeds and {len(classes)} classes; give one of each for every image")
    if classifier is None:
        raise ValueError("classes need a classifier, as classifier='digits-classifier', or one of your own training")
    known = load_classifier(classifier) if isinstance(classifier, str | Path) else classifier
    guidance = ClassGuidance(classes, known, scale=class_scale, seeds=seeds)
    sampler = Sampler(model, condition=(guidance, *as_conditions(condition)), **options)
    return sampler.sample(seeds, return_velocity=return_velocity)


@dataclass(frozen=True, eq=False)
class TaskSampler:
    """The sampler of a task: a `Sampler` with a condition, and a last operation on its images.

    Attributes:
        sampler: with the condition.
        seeds: one for each sample, those of the first image first.
        assignment: the number of the image that each seed belongs to.
        finish: from samples (B, C, H, W) and the numbers of their images (B,) to images.
    """

    sampler: Sampler
    seeds: Sequence[int]
    assignment: SeedAssignment
    finish: Callable[[Tensor, Tensor], Tensor]

    @property
    def nfe(self) -> int | None:
        """See `Sampler.nfe`."""
        return self.sampler.nfe

    @property
    def device(self) -> torch.device:
        """Where it samples."""
        return self.sampler.device

    @property
    def batch_dependent(self) -> bool:
        """See `Sampler.batch_dependent`."""
        return self.sampler.batch_dependent

    def describe(self) -> dict[str, Any]:
        """See `Sampler.describe`."""
        return self.sampler.describe()

    def sample(self) -> Tensor:
        """The images of all seeds, in their order."""
        return torch.cat([images for _, images in self.stream(self.seeds)])

    def stream(
        self, seeds: Sequence[int], batch_size: int | None = None, on_step: OnStep | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """See `Sampler.stream`."""
        for batch, images in self.sampler.stream(seeds, batch_size, on_step):
            numbers = self.assignment.places(torch.tensor(batch, device=images.device))
            yield batch, self.finish(images, numbers)


@accepting_options(SolverOptions, AdaptiveOptions)
def inpaint(
    model: ScoreFunction,
    images: Tensor,
    mask: Tensor,
    *,
    seeds: Sequence[int] | None = None,
    samples: int = 1,
    method: CompletionMethod = "projection",
    original: bool = False,
    **options: Any,
) -> Tensor:
    """Images whose unknown part is sampled given the known one.

    Args:
        model: any score model; it need not have been trained for this.
        images: (N, C, H, W) or (C, H, W) in [0, 1]; what is unknown in them may be anything.
        mask: 1 or True where a pixel is known: (H, W), (C, H, W), or one for each image, (N, 1 or C, H, W).
        seeds: one for each sample, those of the first image first; None: 0, 1, 2, ...
        samples: how many for each image.
        method: "projection": what is known is held, as in the paper (`Projection`); "pigdm": it guides the rest too, by
            the network's gradient (`PiGDM`): two to three times slower, and the parts fit together better.
        original: see `Projection`.
        options: those of `scoresde_fast.Sampler`.

    Returns:
        (N samples, C, H, W) float32 in [0, 1], the samples of the first image first.  Known pixels are those of
        ``images``, bit for bit.

    Raises:
        ValueError: an image or the mask has another size, is out of range or not binary, a seed is given twice, or an
            option is not valid.
    """
    return inpainting(
        model, images, mask, seeds=seeds, samples=samples, method=method, original=original, **options
    ).sample()


@accepting_options(SolverOptions, AdaptiveOptions)
def inpainting(
    model: ScoreFunction,
    images: Tensor,
    mask: Tensor,
    *,
    seeds: Sequence[int] | None = None,
    samples: int = 1,
    method: CompletionMethod = "projection",
    original: bool = False,
    **options: Any,
) -> TaskSampler:
    """The sampler of `inpaint`, with its arguments and errors."""
    images = _batch("images", images, model, (model.image_shape[0],))
    seeds = task_seeds(len(images), seeds, samples)
    known = whole_mask(mask, images)
    conditions: list[Condition] = [Projection(images, mask, seeds=seeds, original=original)]
    if _guides(method, original):
        masks = known[:1] if (known == known[:1]).all() else known
        conditions.append(PiGDM(Mask(masks), images.where(known, 0.0), noise=LEAST_NOISE, seeds=seeds))

    def keep(filled: Tensor, numbers: Tensor) -> Tensor:
        # The way to the model's range and back rounds.
        where, exact = (tensor.to(filled.device)[numbers] for tensor in (known, images.float()))
        return torch.where(where, exact, filled)

    return _completing(model, images, conditions, seeds, original, options, keep)


@accepting_options(SolverOptions, AdaptiveOptions)
def colorize(
    model: ScoreFunction,
    gray: Tensor,
    *,
    seeds: Sequence[int] | None = None,
    samples: int = 1,
    method: CompletionMethod = "projection",
    original: bool = False,
    **options: Any,
) -> Tensor:
    """Colour images whose mean over the channels is ``gray``.

    A colour that does not fit in [0, 1] is made paler rather than clipped, which would change its gray.

    Args:
        gray: (N, 1, H, W) or (1, H, W) in [0, 1], or images with all channels alike.
        model, seeds, samples, method, original, options: as in `inpaint`; "pigdm" guides, and holds in the end.

    Returns:
        (N samples, C, H, W) float32 in [0, 1], the samples of the first image first.

    Raises:
        ValueError: the model has no colours, an image has some, or as in `inpaint`.
    """
    return colorization(model, gray, seeds=seeds, samples=samples, method=method, original=original, **options).sample()


@accepting_options(SolverOptions, AdaptiveOptions)
def colorization(
    model: ScoreFunction,
    gray: Tensor,
    *,
    seeds: Sequence[int] | None = None,
    samples: int = 1,
    method: CompletionMethod = "projection",
    original: bool = False,
    **options: Any,
) -> TaskSampler:
    """The sampler of `colorize`, with its arguments and errors."""
    channels = model.image_shape[0]
    if channels == 1:
        raise ValueError("the model's images have one channel; colorisation needs a model of colour images")
    gray = _batch("gray", gray, model, (1, channels))
    if not gray.isfinite().all():
        raise ValueError("gray has NaN or infinity; every pixel must be a number in [0, 1]")
    apart = (gray.amax(1) - gray.amin(1)).flatten(1).amax(1)
    if (worst := apart.max()) > GRAY_TOLERANCE:
        raise ValueError(
            f"gray has colours: the channels of image {int(apart.argmax())} are {worst:.3g} apart; give its gray, as "
            "images.mean(1, keepdim=True)"
        )
    gray, seeds = gray[:, :1], task_seeds(len(gray), seeds, samples)
    condition: Condition
    if _guides(method, original):
        condition = PiGDM(Gray(channels), gray, noise=LEAST_NOISE, seeds=seeds)
    else:
        condition = Projection(gray, seeds=seeds, original=original)

    def fit(coloured: Tensor, numbers: Tensor) -> Tensor:
        return fitting_colours(coloured, gray.to(coloured.device, torch.float32)[numbers])

    return _completing(model, gray, [condition], seeds, original, options, fit)


@accepting_options(SolverOptions, AdaptiveOptions)
def restore(
    model: ScoreFunction,
    operator: LinearOperator,
    measured: Tensor,
    *,
    noise: float = 0.0,
    method: RestorationMethod = "pigdm",
    scale: float = 1.0,
    seeds: Sequence[int] | None = None,
    samples: int = 1,
    **options: Any,
) -> Tensor:
    """Images that ``measured`` may have been made of, by `PiGDM` or `DPS`.

    Args:
        model: any score model; it need not have been trained for this.
        operator: how images in [0, 1] are measured, as `Blur(1.5)`; see `scoresde_fast.conditions.operators`.
        measured: (N, ...), A of N images plus noise.
        noise: the deviation of that noise; "dps" does not use it.
        method: "pigdm" or "dps".
        scale: of the guidance, see `PiGDM` and `DPS`.
        seeds, samples: as in `inpaint`.
        options: those of `scoresde_fast.Sampler`.

    Returns:
        (N samples, C, H, W) float32 in [0, 1], the samples of the first measurement first.

    Raises:
        ValueError: the operator or the measurements do not fit the model, the method is unknown, a seed is given twice,
            or an option is not valid.
    """
    return restoration(
        model, operator, measured, noise=noise, method=method, scale=scale, seeds=seeds, samples=samples, **options
    ).sample()


@accepting_options(SolverOptions, AdaptiveOptions)
def restoration(
    model: ScoreFunction,
    operator: LinearOperator,
    measured: Tensor,
    *,
    noise: float = 0.0,
    method: RestorationMethod = "pigdm",
    scale: float = 1.0,
    seeds: Sequence[int] | None = None,
    samples: int = 1,
    **options: Any,
) -> TaskSampler:
    """The sampler of `restore`, with its arguments and errors."""
    seeds = task_seeds(len(measured), seeds, samples)
    if method not in get_args(RestorationMethod):
        raise ValueError(unknown("method", method, get_args(RestorationMethod)))
    condition: Condition
    if method == "pigdm":
        condition = PiGDM(operator, measured, noise=noise, scale=scale, seeds=seeds)
    else:
        condition = DPS(operator, measured, scale=scale, seeds=seeds)
    sampler = Sampler(model, condition=condition, **options)
    return TaskSampler(sampler, seeds, SeedAssignment.of(seeds, len(measured), "image"), _as_they_are)


def _guides(method: CompletionMethod, original: bool) -> bool:
    """Whether what is known guides the rest.

    Raises:
        ValueError: the method is unknown, or not the original program's.
    """
    if method not in get_args(CompletionMethod):
        raise ValueError(unknown("method", method, get_args(CompletionMethod)))
    if original and method != "projection":
        raise ValueError(f"original=True is the original's projection; leave out method={method!r}")
    return method == "pigdm"


def _completing(
    model: ScoreFunction,
    known: Tensor,
    conditions: Sequence[Condition],
    seeds: Sequence[int],
    original: bool,
    options: dict[str, Any],
    finish: Callable[[Tensor, Tensor], Tensor],
) -> TaskSampler:
    if original:
        options = {"denoise": False, **options}
    sampler = Sampler(model, condition=conditions, **options)
    return TaskSampler(
        sampler, seeds, SeedAssignment.of(seeds, len(known), "image"), _as_they_are if original else finish
    )


def _as_they_are(images: Tensor, numbers: Tensor) -> Tensor:
    return images


def fitting_colours(images: Tensor, gray: Tensor) -> Tensor:
    """Images (N, C, H, W) with their hues and the mean ``gray`` (N, 1, H, W): as far from it as [0, 1] has room."""
    away = images - images.mean(1, keepdim=True)
    room = torch.where(away > 0, (1 - gray) / away, gray / -away).where(away != 0, 1.0)
    return (gray + room.amin(1, keepdim=True).clamp(max=1) * away).clamp(0, 1)


def _batch(name: str, images: Tensor, model: ScoreFunction, channels: tuple[int, ...]) -> Tensor:
    """Images (N, C, H, W), with one of ``channels``.

    Raises:
        ValueError: they have another shape.
    """
    images = torch.as_tensor(images)  # NumPy's arrays are welcome
    batch = images[None] if images.ndim == 3 else images
    height, width = model.image_shape[1:]
    if batch.ndim != 4 or batch.shape[1] not in channels or batch.shape[2:] != (height, width) or not len(batch):
        allowed = " or ".join(f"(N, {count}, {height}, {width})" for count in channels)
        raise ValueError(f"{name} has shape {tuple(images.shape)}; for this model it must be {allowed}")
    return batch


def task_seeds(images: int, seeds: Sequence[int] | None, samples: int) -> Sequence[int]:
    """A seed for each of ``samples`` samples of each image: those given, or 0, 1, 2, ...

    Raises:
        ValueError: there are not as many, or ``samples`` is no number of samples.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise ValueError(f"samples is {samples!r}; it must be a whole number of at least 1")
    count = images * samples
    if seeds is not None and len(seeds) != count:
        sizes = f"{images} images with {samples} samples each"
        raise ValueError(f"there are {len(seeds)} seeds for {sizes}; give {count}, or none")
    return range(count) if seeds is None else seeds
