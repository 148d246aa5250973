# SPDX-License-Identifier: Apache-2.0
"""Samples that belong to images: a PNG for each image and seed, a sheet of all, and the manifest ``run.json``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter

from scoresde_fast.data.codecs import Pixels
from scoresde_fast.data.images import decode_item, stem
from scoresde_fast.files import make_folder
from scoresde_fast.generate.manifest import Json, Manifest, environment
from scoresde_fast.generate.pipeline import Progress, Report, WriteStats
from scoresde_fast.generate.pixels import SHEET_ROWS, sheet, to_pixels, write_png
from scoresde_fast.generate.run import ImageSampler
from scoresde_fast.generate.seeds import SeedSet, Shard, check_seeds

MANIFEST, SHEET = "run.json", "sheet.png"
ROUNDING = "round"
"""To the nearest value, so that the known pixels of an 8-bit image come back."""


def write_samples(
    source: ImageSampler,
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

    Finished files are kept and never recomputed.  A batch with a missing image is computed again as a whole, so that
    the images do not tell where a run was interrupted.

    Args:
        source: makes the images of the seeds.
        names: of the images that the samples belong to.
        seeds: the seeds of the first image, then those of the second one, and so on; equally many for each.
        given: known pictures of each image by their titles, shown in the sheet: (H, W, 1 or 3) uint8.
        options: what the user asked for, recorded and compared.
        batch_size: samples computed together.
        stop: polled before each batch; True ends the run early.

    Raises:
        ValueError: bad seeds or batch size, this is one of several processes, two images would have one name, or
            ``out`` has a suffix, samples of another run, or samples without a manifest.
        OSError: a file cannot be written; finished ones are kept.
        FloatingPointError: the network returned NaN; the images of earlier batches are kept.
    """
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} makes no images; it is at least 1")
    if Shard.of_process().count > 1:
        raise ValueError("samples of images are made by one process, but torchrun started several: run it without")
    if out.suffix:
        raise ValueError(f"--out {out}: samples of images go to a folder, whose name has no suffix")
    seeds = check_seeds(seeds)
    paths = _paths(out, names, seeds)
    configuration = {**options, "images": list(names), "nfe": source.nfe, "sampler": source.describe()}
    if source.batch_dependent:
        configuration["batch_size"] = batch_size
    manifest = Manifest.begin(out / MANIFEST, configuration)
    missing = {seed for seed, path in paths.items() if not path.exists()}
    found = len(seeds) - len(missing)
    if found and not manifest.seeds:
        raise ValueError(f"{out} has images but no {MANIFEST}; choose another --out or move them")
    make_folder(out)
    if missing:  # the manifest comes before the first image
        manifest.extended(SeedSet.of(seeds), environment(source.device, batch_size)).write(out / MANIFEST)
    stats, start, stopped = WriteStats(), perf_counter(), False
    with Progress(len(seeds), found, source.nfe, Shard(), stats, enabled=True) as progress:
        for first in range(0, len(seeds), batch_size):
            batch = list(seeds[first : first + batch_size])
            if missing.isdisjoint(batch):
                continue
            if stopped := stop():
                break
            new = sum(seed in missing for seed in batch)
            for made, images in source.stream(batch, batch_size=batch_size, on_step=progress.on_step(new)):
                for seed, pixels in zip(made, to_pixels(images, ROUNDING), strict=True):
                    if seed in missing:
                        stats.size += write_png(paths[seed], pixels)
            progress.add(new)
            missing.difference_update(batch)
    seconds, count = perf_counter() - start, len(seeds) - found - len(missing)
    if not stopped:
        write_png(out / SHEET, _sheet(names, given, list(paths.values())))
    return Report(count, found, source.nfe, seconds, 0.0, len(missing), stopped, out if stopped else out / SHEET)


def _paths(out: Path, names: Sequence[str], seeds: Sequence[int]) -> dict[int, Path]:
    """Return the file of each seed."""
    stems = [stem(name).replace("/", "-") for name in names]
    repeated, times = Counter(stems).most_common(1)[0]
    if times > 1:
        both = [name for name, its in zip(names, stems, strict=True) if its == repeated][:2]
        raise ValueError(f"the samples of {both[0]} and {both[1]} would have the same names; rename one of them")
    each = len(seeds) // len(names)
    return {seed: out / f"{stems[place // each]}-{seed:06d}.png" for place, seed in enumerate(seeds)}


def _sheet(names: Sequence[str], given: Mapping[str, Sequence[Pixels]], paths: Sequence[Path]) -> Pixels:
    """Return the sheet of all samples, read from their files in the order of the seeds."""
    each = len(paths) // len(names)
    rows = [paths[each * row : each * (row + 1)] for row in range(min(len(names), SHEET_ROWS))]
    read = [[decode_item(str(path.parent), path.name, path.read_bytes()).pixels for path in row] for row in rows]
    return sheet(names, given, read)
