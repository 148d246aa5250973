# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast eval``, ``eval stats`` and ``eval loss``: metrics of images, reference statistics, and losses."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from scoresde_fast.cli.options import (
    NO_DEFAULT,
    OWN_MODEL,
    BatchSize,
    Device,
    Flag,
    LoadingOptions,
    Model,
    SamplerOptions,
    Threads,
)
from scoresde_fast.cli.process import prepare_measurement, process_device, report, use_threads

if TYPE_CHECKING:
    from scoresde_fast.data.sources import ImageSource
    from scoresde_fast.evaluation import Extractor
    from scoresde_fast.evaluation.collect import Processes
    from scoresde_fast.evaluation.reference import Reference


SourceHelp = arg(
    help="Images (folder, .zip, .npz, .npy, .tar, .tar.gz, or data set like digits:test; photos@32,rgb crops, resizes "
    "and converts to RGB); or a model: embedded, a saved folder, a run of train or its state.pt, a .pth, or "
    f"{OWN_MODEL}."
)
ReferenceHelp = arg(
    help="Images in the same forms as SOURCE (their statistics are cached); a file of eval stats; or statistics of "
    "other programs (mu and sigma, or score_sde's cifar10_stats.npz).",
    help_behavior_hint="",
)


@dataclass(frozen=True, kw_only=True)
class ExtractorOptions:
    """Options of the feature extractor."""

    extractor: Annotated[str | None, arg(help_behavior_hint="(default: by the image size)")] = None
    """inception-v3-compat (published FID), vgg16, clip-..., or digits-features, the default for 16x16 colour images."""
    extractor_weights: Annotated[Path | None, NO_DEFAULT] = None
    """The extractor's weights: .safetensors, or a .pth in torch-fidelity's format. Nothing is downloaded."""
    trust_pickle: Flag = False
    """Allow weights and images in pickles, which can execute arbitrary code."""

    def load_extractor(self, shape: Sequence[int], device: str) -> Extractor:
        """Load the extractor for images (C, H, W); the errors are those of `load_extractor`."""
        from scoresde_fast.evaluation.extractors import default_extractor, load_extractor

        return load_extractor(
            default_extractor(shape) if self.extractor is None else self.extractor,
            weights=self.extractor_weights,
            trust_pickle=self.trust_pickle,
            device=process_device(device),
        )


@dataclass(frozen=True, kw_only=True)
class Eval(SamplerOptions, ExtractorOptions):
    """Compute FID, KID, Inception score, precision and recall of images or of a model's samples.

    Samples are not written to disk. Under torchrun the processes share the work; the results do not depend on the
    number of processes. See also: eval stats (statistics of a reference), eval loss (a model's loss), likelihood (bits
    per dimension).
    """

    source: Positional[Annotated[str, SourceHelp]]
    reference: Annotated[str | None, ReferenceHelp] = None
    metrics: Annotated[
        tuple[Literal["fid", "kid", "is", "pr"], ...],
        arg(help_behavior_hint="(default: all that the reference allows; above 100000 images only fid)"),
    ] = ()
    """fid, kid, is (Inception score), pr (precision and recall)."""
    seeds: str = "0-9999"
    """For a model: seeds of the samples."""
    rounding: Literal["floor", "round"] = "floor"
    """For a model: conversion of [0, 1] to 8 bits, as in scoresde-fast sample."""
    training_set: Annotated[str | None, NO_DEFAULT] = None
    """The model's training images. For some samples, the page of --html shows the nearest training images."""

    resamples: int = 20
    """Bootstrap resamples for the standard deviation of each metric; 0 computes none."""
    kid_subsets: int = 100
    """Number of random subsets over which KID is averaged."""
    kid_subset_size: Annotated[int | None, arg(help_behavior_hint="(default: 1000, or all images if fewer)")] = None
    """Number of images in a subset."""
    rng_seed: int = 2020
    """Seed of subsets and resamples; the default is torch-fidelity's."""
    curve: Flag = False
    """Also compute FID for fewer images: half, a quarter, ..."""
    few: Flag = False
    """Allow FID of fewer images than features, although it is hardly meaningful."""

    check: Flag = False
    """For a set that sample wrote: compare its files with their digests first, as verify does."""

    out: Annotated[Path | None, NO_DEFAULT] = None
    """JSON file for the metrics and all settings."""
    html: Annotated[Path | None, NO_DEFAULT] = None
    """File for a self-contained HTML page."""

    def run(self) -> None:
        from scoresde_fast.evaluation import MetricSettings, evaluate
        from scoresde_fast.evaluation.collect import torchrun_processes

        settings = MetricSettings(
            kid_subsets=self.kid_subsets,
            kid_subset_size=self.kid_subset_size,
            rng_seed=self.rng_seed,
            resamples=self.resamples,
        )
        prepare_measurement(self.html, self.loading.threads)
        images, title, batch_size = self._images()
        extractor = self.load_extractor(images.shape, self.device)
        with torchrun_processes() as processes:
            evaluation = evaluate(
                images,
                title,
                extractor,
                reference=self.reference,
                metrics=self.metrics or None,
                settings=settings,
                training_set=self.training_set,
                curve=self.curve,
                few=self.few,
                trust_pickle=self.trust_pickle,
                batch_size=batch_size,
                processes=processes,
            )
        if evaluation is None:
            return
        for warning in evaluation.result["warnings"]:
            print(f"scoresde-fast: {warning}", file=sys.stderr)
        print(evaluation)
        if self.out is not None:
            evaluation.write(self.out)
        report(evaluation, self.out, self.html)

    def _images(self) -> tuple[ImageSource, str, int]:
        """Return the images, their title, and the batch size."""
        import scoresde_fast as sf
        from scoresde_fast.data.sources import open_images
        from scoresde_fast.evaluation import SampledImages
        from scoresde_fast.generate import parse_seeds
        from scoresde_fast.generate.verify import require_sound

        if not _is_model(self.source):
            _check_source_name(self.source)
            if self.check:
                require_sound(self.source)
            size = self.computing.batch_size
            images = open_images(self.source, trust_pickle=self.trust_pickle)
            return images, self.source, size if isinstance(size, int) else 64
        seeds = parse_seeds(self.seeds)  # report mistakes before the model is loaded
        model = self.loading.load(self.source)
        if not model.is_image:
            raise ValueError(f"{self.source} is a model of points; these metrics are for images")
        sampler = sf.Sampler(model, **self.options())
        channels, height, width = model.image_shape
        sampled = SampledImages(sampler, (channels, height, width), seeds, self.rounding)
        return sampled, f"{self.source}, seeds {self.seeds}", sampler.batch_size


def _is_model(source: str) -> bool:
    """Return whether ``source`` names a model; "NAME:SPLIT" of a data set does not."""
    from scoresde_fast.checkpoints import embedded_names
    from scoresde_fast.checkpoints.loading import is_model
    from scoresde_fast.checkpoints.python_models import is_found, is_python_name
    from scoresde_fast.data.sources import is_data_set

    if source in embedded_names() or is_model(source) or Path(source).suffix == ".pth":
        return True
    return is_python_name(source) and not is_data_set(source.partition(":")[0]) and is_found(source)


def _check_source_name(source: str) -> None:
    """Raise ValueError with a suggestion if ``source`` is neither a path nor the name of a model or data set."""
    from scoresde_fast.checkpoints import embedded_names
    from scoresde_fast.data import DATASETS
    from scoresde_fast.data.conversion import parse_conversion
    from scoresde_fast.errors import unknown_message

    path = Path(parse_conversion(source)[0])
    name = str(path).partition(":")[0]
    if not (name in DATASETS or path.exists() or path.suffix or len(path.parts) > 1):
        names = [*embedded_names(), *DATASETS]
        raise ValueError(
            unknown_message("model or data set", name, names) + ", or give a folder or an archive of images"
        )


@dataclass(frozen=True, kw_only=True)
class EvalStats(ExtractorOptions):
    """Compute the statistics of a reference, and write them to a file for eval --reference.

    Several sources are merged into one set; they may include files of statistics.
    """

    sources: Positional[tuple[str, ...]]
    """Images in any form that eval accepts, or files of statistics."""
    out: Path
    """Output file, .npz: mu, sigma and a record of their origin."""
    features: Flag = False
    """Keep the features, which KID, precision and recall need: for Inception, 8 kB for each image."""
    batch_size: BatchSize = 64
    device: Device = None
    threads: Threads = None

    def run(self) -> None:
        from functools import reduce

        from scoresde_fast.evaluation.collect import torchrun_processes
        from scoresde_fast.evaluation.reference import SUFFIX, merged, write_statistics

        if not self.sources:
            raise ValueError("no source is given; name images or files of statistics")
        if self.out.suffix != SUFFIX:
            raise ValueError(f"--out is {self.out}; its suffix must be {SUFFIX}")
        use_threads(self.threads)
        with torchrun_processes() as processes:
            parts = [self._statistics(source, processes) for source in self.sources]
        if processes.rank == 0:
            reference = reduce(merged, [part for part in parts if part is not None])
            write_statistics(reference, self.out)
            print(f"{self.out}: {reference.count} images, {len(reference.mean)} features")

    def _statistics(self, source: str, processes: Processes) -> Reference | None:
        """Read the statistics of a source, or compute them and return None on processes other than the first."""
        from scoresde_fast.data.sources import open_images
        from scoresde_fast.evaluation.reference import compute_reference, has_statistics, read_statistics

        if has_statistics(Path(source)):
            return read_statistics(Path(source))
        images = open_images(source, trust_pickle=self.trust_pickle)
        extractor = self.load_extractor(images.shape, process_device(self.device))
        return compute_reference(
            images, source, extractor, features=self.features, batch_size=self.batch_size, processes=processes
        )


@dataclass(frozen=True, kw_only=True)
class EvalLoss:
    """Compute a model's training loss on a data set, with its own objective and averaged weights."""

    model: Model
    data: Positional[str]
    """Images of the model's size, in any form that eval accepts."""
    draws: int = 1
    """Number of random times and noises for each image."""
    run_seed: int = 0
    """Seed of the times and the noise."""
    batch_size: BatchSize = 64
    device: Device = None
    trust_pickle: Flag = False
    """Allow images in pickles, which can execute arbitrary code."""
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    def run(self) -> None:
        from scoresde_fast.data.sources import open_images
        from scoresde_fast.evaluation import data_set_loss
        from scoresde_fast.model import ScoreModel

        model = self.loading.load(self.model).to(process_device(self.device))
        if not isinstance(model, ScoreModel):
            raise ValueError(
                f"{self.model} has no configuration, which defines the training loss; likelihood takes any model"
            )
        images = open_images(self.data, trust_pickle=self.trust_pickle)
        print(data_set_loss(model, images, draws=self.draws, run_seed=self.run_seed, batch_size=self.batch_size))
