# SPDX-License-Identifier: Apache-2.0
"""Samples that belong to images: one file for each, named by the image and the seed, a sheet, and ``run.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from scoresde_fast.data.image_files import decoded
from scoresde_fast.data.pictures import stem
from scoresde_fast.data.png import Pixels
from scoresde_fast.files import make_folder, replacing
from scoresde_fast.generate.manifest import Json, Manifest, environment
from scoresde_fast.generate.pixels import encode_png, to_pixels
from scoresde_fast.generate.progress import Progress, Report
from scoresde_fast.generate.run import ImageSource
from scoresde_fast.generate.seed_set import SeedSet
from scoresde_fast.generate.seeds import check_seeds
from scoresde_fast.generate.shards import Shard
from scoresde_fast.generate.sheet import ROWS, sheet

RUN, SHEET = "run.json", "sheet.png"
ROUNDING = "round"
"""To the nearest level, so that what is known of an 8-bit image comes back."""


@dataclass
class _Written:
    """What `Progress` wants to know; these images are written at once."""

    waited: float = 0.0
    written: int = 0


def write_samples(
    source: ImageSource,
    names: Sequence[str],
    seeds: Sequence[int],
    given: Mapping[str, Sequence[Pixels]],
    out: Path,
    *,
    options: Json,
    batch_size: int,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Write ``NAME-SEED.png`` for each seed to the folder ``out``, ``sheet.png`` and ``run.json``.

    What is finished stays, and is made again by none.  A batch with a missing image is computed again as a whole, so
    that what interrupts a run does not show in its images.

    Args:
        source: makes the images of the seeds.
        names: of the images that the samples belong to.
        seeds: as many for each image, those of the first one first.
        given: what the sheet shows of each image before its samples, by its title: (H, W, 1 or 3) uint8.
        options: what was asked for, to be told and compared.
        batch_size: samples computed together.
        stop: asked after every batch; once it says so, the run ends as if there were no more to do.

    Raises:
        ValueError: bad seeds or batch size, this is one of several processes, two images would have one name, or
            ``out`` has a suffix, samples of another run, or samples without a description.
        OSError: a file cannot be written; finished ones are kept.
        FloatingPointError: the network returned NaN; the images of earlier batches are kept.
    """
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} makes no images; it is at least 1")
    if Shard.of_process().count > 1:
        raise ValueError("samples of images are made by one process, and torchrun started several: run it without")
    if out.suffix:
        raise ValueError(f"--out {out}: samples of images go to a folder, whose name has no suffix")
    seeds = check_seeds(seeds)
    paths = _paths(out, names, seeds)
    configuration = {**options, "images": list(names), "nfe": source.nfe, "sampler": source.describe()}
    if source.batch_dependent:
        configuration["batch_size"] = batch_size
    manifest = Manifest.begin(out / RUN, configuration)
    missing = {seed for seed, path in paths.items() if not path.exists()}
    found = len(seeds) - len(missing)
    if found and not manifest.seeds:
        raise ValueError(f"{out} has images but no {RUN}; choose another --out or move them")
    make_folder(out)
    if missing:
        # First of all: no image without its description.
        manifest.extended(SeedSet.of(seeds), environment(source.device, batch_size)).write(out / RUN)
    written, start, stopped = _Written(), perf_counter(), False
    with Progress(len(seeds), found, source.nfe, Shard(), written, enabled=True) as progress:
        for first in range(0, len(seeds), batch_size):
            batch = list(seeds[first : first + batch_size])
            if missing.isdisjoint(batch):
                continue
            if stopped := stop():
                break
            new = sum(seed in missing for seed in batch)
            for made, images in source.stream(batch, batch_size=batch_size, on_step=progress.batch(new)):
                for seed, pixels in zip(made, to_pixels(images, ROUNDING), strict=True):
                    if seed in missing:
                        written.written += _write(paths[seed], pixels)
            progress.made(new)
            missing.difference_update(batch)
    seconds, count = perf_counter() - start, len(seeds) - found - len(missing)
    if not stopped:
        _write(out / SHEET, _sheet(names, given, list(paths.values())))
    return Report(count, found, source.nfe, seconds, 0.0, len(missing), stopped, out if stopped else out / SHEET)


def _paths(out: Path, names: Sequence[str], seeds: Sequence[int]) -> dict[int, Path]:
    """The file of each seed."""
    stems = [stem(name).replace("/", "-") for name in names]
    twice, times = Counter(stems).most_common(1)[0]
    if times > 1:
        both = [name for name, each in zip(names, stems, strict=True) if each == twice][:2]
        raise ValueError(f"the samples of {both[0]} and {both[1]} would have the same names; rename one of them")
    each = len(seeds) // len(names)
    return {seed: out / f"{stems[place // each]}-{seed:06d}.png" for place, seed in enumerate(seeds)}


def _write(path: Path, pixels: Pixels) -> int:
    """Write a PNG; the number of its bytes."""
    png = encode_png(pixels)
    with replacing(path) as file:
        file.write(png)
    return len(png)


def _read(path: Path) -> Pixels:
    return decoded(str(path.parent), path.name, path.read_bytes(), None).pixels


def _sheet(names: Sequence[str], given: Mapping[str, Sequence[Pixels]], paths: Sequence[Path]) -> Pixels:
    """The sheet of samples that are all there, by their files in the order of the seeds."""
    each = len(paths) // len(names)
    of_rows = [paths[each * row : each * (row + 1)] for row in range(min(len(names), ROWS))]
    return sheet(names, given, [[_read(path) for path in row] for row in of_rows])
