# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast eval``: how good images are; ``eval stats``: statistics to compare with; ``eval loss``: a model's."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from scoresde_fast.cli.extractor_options import ExtractorOptions
from scoresde_fast.cli.groups import NO_DEFAULT, Flag, LoadingOptions, process_device
from scoresde_fast.cli.sampler_options import SamplerOptions

if TYPE_CHECKING:
    from scoresde_fast.data.sources import ImageSource
    from scoresde_fast.evaluation.processes import Processes
    from scoresde_fast.evaluation.reference import Reference

NONE = arg(help_behavior_hint="(default: none)")


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is evaluated, against what, and what is told."""

    source: Positional[str]
    """Images (a folder, .zip, .npz or .tar of them, or a data set, digits:test), or a model to sample from (an embedded
    one, digits-vp, a saved folder, or a .pth with --config)."""
    reference: Annotated[str | None, NONE] = None
    """What to compare with: images like SOURCE, whose statistics are computed once and remembered; a file of eval
    stats; or statistics of others (mu and sigma, or score_sde's cifar10_stats.npz)."""
    metrics: Annotated[
        tuple[Literal["fid", "kid", "is", "pr"], ...],
        arg(help_behavior_hint="(default: all that can be; of more than 100000 images fid)"),
    ] = ()
    """Which: fid, kid, is (the Inception score), pr (precision and recall)."""
    seeds: str = "0-9999"
    """Of a model: which images."""
    rounding: Literal["floor", "round"] = "floor"
    """Of a model: how [0, 1] becomes 8 bits, as in scoresde-fast sample."""
    training_set: Annotated[str | None, NONE] = None
    """Images that the model learnt from: the nearest ones to some samples are shown on the page."""

    resamples: int = 20
    """Of the bootstrap that says how far chance moves a number; 0: none."""
    kid_subsets: int = 100
    """Random subsets that KID is averaged over."""
    kid_subset_size: Annotated[int | None, arg(help_behavior_hint="(default: 1000, or all where there are fewer)")] = (
        None
    )
    """Images in a subset."""
    rng_seed: int = 2020
    """Of the subsets and the resamples; torch-fidelity's own."""
    curve: Flag = False
    """Also FID against the number of images."""
    few: Flag = False
    """FID also of fewer images than features, which is of next to no use."""

    out: Annotated[Path | None, NO_DEFAULT] = None
    """Write the numbers, and all that they depend on, as JSON."""
    html: Annotated[Path | None, NO_DEFAULT] = None
    """Write one page to look at, everything in it."""


@dataclass(frozen=True, kw_only=True)
class Eval(SamplerOptions, ExtractorOptions, EvaluationOptions):
    """Compute FID, KID, Inception score, precision and recall of images, or of what a model draws.

    A model's images are not written: their features add up while it samples. Under torchrun the processes share the
    work, and the numbers do not depend on how many they are. Bits per dimension: scoresde-fast likelihood. A model's
    loss: scoresde-fast eval loss. Statistics of a reference: scoresde-fast eval stats.
    """

    def run(self) -> None:
        from scoresde_fast.bench.pages import require_libraries, write_html
        from scoresde_fast.cli.threads import use_threads
        from scoresde_fast.evaluation.metrics import MetricSettings
        from scoresde_fast.evaluation.processes import torchrun_processes
        from scoresde_fast.evaluation.results import as_text, write_json
        from scoresde_fast.evaluation.run import evaluate

        settings = MetricSettings(
            kid_subsets=self.kid_subsets,
            kid_subset_size=self.kid_subset_size,
            rng_seed=self.rng_seed,
            resamples=self.resamples,
        )
        if self.html is not None:
            require_libraries()  # before the work
        use_threads(self.loading.threads)
        images, title, batch_size = self._images()
        extractor = self.load_extractor(images.shape, self.device)
        with torchrun_processes() as processes:
            found = evaluate(
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
        if found is None:
            return
        for warning in found.result["warnings"]:
            print(f"scoresde-fast: {warning}", file=sys.stderr)
        print(as_text(found.result))
        if self.out is not None:
            write_json(found.result, self.out)
            print(self.out)
        if self.html is not None:
            write_html(found, self.html)
            print(self.html)

    def _images(self) -> tuple[ImageSource, str, int]:
        """The images, what they are called, and how many are worked on at once."""
        from scoresde_fast.data.sources import open_images

        if not _is_model(self.source):
            _require_known(self.source)
            size = self.computing.batch_size
            found = open_images(self.source, trust_pickle=self.trust_pickle)
            return found, self.source, size if isinstance(size, int) else 64
        from scoresde_fast.evaluation.sampled import SampledImages
        from scoresde_fast.generate import parse_seeds

        seeds = parse_seeds(self.seeds)  # a mistake here need not wait for the model
        model = self.loading.load(self.source)
        if not model.is_image:
            raise ValueError(f"{self.source} draws points; these metrics are of images")
        sampler = self.sampler(model)
        channels, height, width = model.image_shape
        images = SampledImages(sampler, (channels, height, width), seeds, self.rounding)
        return images, f"{self.source}, seeds {self.seeds}", sampler.batch_size


def _is_model(source: str) -> bool:
    """Whether a source is a model to sample from, rather than images."""
    from scoresde_fast.checkpoints import embedded_names
    from scoresde_fast.checkpoints.folder import is_saved

    return source in embedded_names() or is_saved(source) or Path(source).suffix == ".pth"


def _require_known(source: str) -> None:
    """Raises ValueError for a word that is neither a model nor a data set, with the nearest of both."""
    from scoresde_fast.checkpoints import embedded_names
    from scoresde_fast.data import DATASETS
    from scoresde_fast.errors import unknown

    name = source.partition(":")[0].partition("@")[0]
    path = Path(source)
    if not (name in DATASETS or path.exists() or path.suffix or len(path.parts) > 1):
        names = [*embedded_names(), *DATASETS]
        raise ValueError(unknown("model or data set", name, names) + ", or name a folder of images or an archive")


@dataclass(frozen=True, kw_only=True)
class EvalStats(ExtractorOptions):
    """Compute the statistics of a reference once, as a file for eval --reference.

    Several sources become one set; files of statistics of its parts may be among them.
    """

    sources: Positional[tuple[str, ...]]
    """Images as eval takes them, or files of statistics."""
    out: Path
    """The file, .npz: mu, sigma and a record of what they are of."""
    features: Flag = False
    """Keep the features too, which KID, precision and recall need: 8 kB an image of Inception's."""
    batch_size: int = 64
    """Images at once."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""
    threads: Annotated[int | None, arg(help_behavior_hint="(default: torch's)")] = None
    """CPU threads."""

    def run(self) -> None:
        from functools import reduce

        from scoresde_fast.cli.threads import use_threads
        from scoresde_fast.evaluation.processes import torchrun_processes
        from scoresde_fast.evaluation.reference import SUFFIX, merged, write_statistics

        if not self.sources:
            raise ValueError("no source: name images or files of statistics")
        if self.out.suffix != SUFFIX:
            raise ValueError(f"--out {self.out} is no {SUFFIX}, which statistics are known by; add the suffix")
        use_threads(self.threads)
        with torchrun_processes() as processes:
            parts = [self._statistics(source, processes) for source in self.sources]
        found = [part for part in parts if part is not None]
        if processes.rank == 0:
            reference = reduce(merged, found)
            write_statistics(reference, self.out)
            print(f"{self.out}: {reference.count} images, {len(reference.mean)} features")

    def _statistics(self, source: str, processes: Processes) -> Reference | None:
        from scoresde_fast.data.sources import open_images
        from scoresde_fast.evaluation.reference import compute_reference, has_statistics, read_statistics

        if has_statistics(Path(source)):
            return read_statistics(Path(source))
        images = open_images(source, trust_pickle=self.trust_pickle)
        extractor = self.load_extractor(images.shape, self.device)
        return compute_reference(
            images, source, extractor, features=self.features, batch_size=self.batch_size, processes=processes
        )


@dataclass(frozen=True, kw_only=True)
class EvalLoss:
    """Compute a model's training loss on a data set: its own objective, its averaged weights, every image."""

    model: Positional[str]
    """An embedded model (digits-vp), a saved folder, or an official checkpoint (.pth, with --config)."""
    data: Positional[str]
    """Images as eval takes them, of the model's size."""
    draws: int = 1
    """Times and noises an image."""
    run_seed: int = 0
    """Another run seed draws others."""
    batch_size: int = 64
    """Images at once."""
    device: str = "cpu"
    """cpu, cuda or cuda:1."""
    trust_pickle: Flag = False
    """Read images that are pickles of more than arrays, which may run any program."""
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    def run(self) -> None:
        from scoresde_fast.data.sources import open_images
        from scoresde_fast.evaluation.loss import data_set_loss

        model = self.loading.load(self.model).to(process_device(self.device))
        images = open_images(self.data, trust_pickle=self.trust_pickle)
        print(data_set_loss(model, images, draws=self.draws, run_seed=self.run_seed, batch_size=self.batch_size))
