# SPDX-License-Identifier: Apache-2.0
"""Sets of images on the disk: named by seed, described, resumable, the same whatever interrupted them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde_fast.errors import unknown
from scoresde_fast.files import replacing
from scoresde_fast.generate.archives import NpzArchive, ZipArchive
from scoresde_fast.generate.folder import PngFolder
from scoresde_fast.generate.grid import MOST as GRID_MOST
from scoresde_fast.generate.grid import compose
from scoresde_fast.generate.manifest import Manifest, environment
from scoresde_fast.generate.pixels import ROUNDINGS, encode_png, to_pixels
from scoresde_fast.generate.progress import Bar, Report
from scoresde_fast.generate.seeds import check_seeds, format_seeds, parse_seeds
from scoresde_fast.generate.states import write_states

__all__ = ["FORMATS", "ImageSource", "Report", "format_seeds", "generate", "parse_seeds", "write_states"]

FORMATS: dict[str, type[PngFolder]] = {"": PngFolder, ".npz": NpzArchive, ".zip": ZipArchive}
"""The kind of set for each suffix of ``--out``."""


class ImageSource(Protocol):
    """What :func:`generate` needs; ``scoresde_fast.Sampler`` is one."""

    @property
    def nfe(self) -> int | None:
        """Network evaluations an image."""

    @property
    def device(self) -> torch.device: ...

    @property
    def batch_dependent(self) -> bool:
        """Whether an image depends on the others of its batch, as with ``langevin_norm="batch"``."""

    def describe(self) -> dict[str, Any]:
        """Everything that decides the pixels, for JSON."""

    def stream(
        self, seeds: Sequence[int], batch_size: int, on_step: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[list[int], Tensor]]:
        """(seeds, images (B, C, H, W) in [0, 1]) batch by batch; ``on_step(done, of)`` counts a batch's evaluations."""


def generate(
    sampler: ImageSource,
    seeds: Iterable[int],
    out: str | Path,
    *,
    batch_size: int = 64,
    rounding: str = "floor",
    grid: bool = True,
    progress: bool = True,
) -> Report:
    """Write one image for each seed to ``out``, with ``samples.json`` and a grid; what is finished already stays.

    The seeds are split into fixed batches. A batch with a missing image is computed again as a whole, and only what is
    missing is written, so that a set completed after any interruption has the same bytes as one made in one go. More
    seeds may be added to a set later.

    Args:
        sampler: makes float images (B, C, H, W) in [0, 1].
        seeds: distinct integers >= 0.
        out: a folder of PNG, or one file that ends in ``.npz`` or ``.zip``.
        batch_size: images computed together.
        rounding: ``"floor"`` of 255 x as in the original programs, or ``"round"`` to the nearest.
        grid: whether to write the picture of the first images, ``grid.png`` or ``SET.grid.png``.
        progress: whether to show a bar over images where stderr is a terminal.

    Raises:
        ValueError: bad seeds, batch size or rounding; ``out`` has an unknown suffix, holds images of another
            configuration, or images without a description.
        OSError: a file cannot be written; finished ones are kept.
        FloatingPointError: the network returned NaN; the images of earlier batches are kept.
    """
    seeds, out = check_seeds(seeds), Path(out)
    if batch_size < 1:
        raise ValueError(f"batch size {batch_size} makes no images; it is at least 1")
    if rounding not in ROUNDINGS:
        raise ValueError(unknown("rounding", rounding, ROUNDINGS))
    images = _open(out)
    configuration = {"format": images.format, "rounding": rounding, "nfe": sampler.nfe, "sampler": sampler.describe()}
    if sampler.batch_dependent:
        configuration["batch_size"] = batch_size
    manifest = Manifest.begin(images.manifest, configuration)
    if images.finished and not manifest.seeds:
        raise ValueError(f"{out} has images but no {images.manifest.name}; choose another --out or move them")
    images.clean()

    missing = set(seeds) - images.finished
    found, started = len(seeds) - len(missing), perf_counter()
    if missing:
        manifest = manifest.extended(seeds, environment(sampler.device, batch_size))
        images.open()
        manifest.write(images.manifest)  # first of all: no image without its description
    made = 0
    with Bar(len(seeds), found, progress) as bar:
        for batch in manifest.batches(batch_size):
            if wanted := missing.intersection(batch):
                on_step = bar.batch(len(wanted), sampler.nfe)
                for made_seeds, tensor in sampler.stream(batch, batch_size=batch_size, on_step=on_step):
                    made += _write_missing(images, made_seeds, to_pixels(tensor, rounding))
    seconds = perf_counter() - started
    if grid and (made or not images.grid.exists()):
        _write_grid(images, manifest)
    images.close(manifest.all_seeds())
    return Report(made, found, sampler.nfe, seconds, images.grid if grid else out)


def _open(out: Path) -> PngFolder:
    # a folder's name may have a dot (run-0.5), a misspelt archive's should not become a folder
    suffix = out.suffix if out.suffix[1:].isalpha() and not out.is_dir() else ""
    if suffix not in FORMATS:
        archives = ", ".join(filter(None, FORMATS))
        raise ValueError(f"--out {out}: no format has the suffix {suffix!r}; use {archives}, or none for a folder")
    return FORMATS[suffix](out)


def _write_missing(images: PngFolder, seeds: list[int], pixels: Any) -> int:
    missing = [i for i, seed in enumerate(seeds) if seed not in images.finished]
    for i in missing:
        images.write(seeds[i], pixels[i])
    return len(missing)


def _write_grid(images: PngFolder, manifest: Manifest) -> None:
    first = [seed for seed in manifest.all_seeds() if seed in images.finished][:GRID_MOST]
    by_seed = dict(images.read(first))
    png = encode_png(compose([by_seed[seed] for seed in first]))
    with replacing(images.grid) as file:
        file.write(png)
