# SPDX-License-Identifier: Apache-2.0
"""Samples of the embedded models: python -m benchmarks.studies.embedded quality MODEL | precision [MODEL ...]

quality    samples of the model's own sampler: the share that a support vector classifier recognises, the share of each
           class, the share whose tint matches the class, and the Frechet distance to the data in the features of
           digits-features; writes embedded-MODEL.json
precision  images in bf16 and float32 with the same noise: PSNR, and the recogniser's report on both; writes
           precision.json
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save
from scoresde_fast.bench.sampling import image_error
from scoresde_fast.data import digits
from scoresde_fast.devices import Precision, keep_freed_memory
from scoresde_fast.evaluation import Recogniser, frechet_distance

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def data() -> Tensor:
    """Return all digits, (N, 3, 16, 16) in [0, 1]."""
    return digits("all")[0] / 255


def real_digits(recogniser: Recogniser) -> dict[str, Any]:
    """Score the held-out digits, and measure the distance between halves of the data."""
    accuracy, report = recogniser.held_out()
    images = data()
    halves = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))].chunk(2)
    return {
        "real_held_out": {"accuracy": accuracy, **asdict(report)},
        "frechet_between_halves_of_data": frechet_distance(*halves),
    }


def quality(name: str, samples: int, options: dict[str, Any]) -> dict[str, Any]:
    """Draw ``samples`` images of the embedded model ``name`` and score them."""
    sampler, recogniser = sf.Sampler(sf.load(name), **options), Recogniser()
    batches, start = [], time.perf_counter()
    with tqdm(total=samples, unit="image", disable=None) as bar:
        for seeds, images in sampler.stream(range(samples)):
            batches.append(images)
            bar.update(len(seeds))
    seconds, images = time.perf_counter() - start, torch.cat(batches)
    return {
        "model": name,
        "samples": samples,
        "options": asdict(sampler.options),
        "nfe": sampler.nfe,
        "seconds": round(seconds, 1),
        "images_per_second": round(samples / seconds, 2),
        "generated": asdict(recogniser.report(images)),
        "frechet_to_data": frechet_distance(images, data()),
        **real_digits(recogniser),
    }


def precision(name: str, samples: int, device: str) -> dict[str, Any]:
    """Compare the images of the model's own sampler in bf16 and float32."""
    images = {}
    for kind in PRECISIONS:
        sampler = sf.Sampler(sf.load(name), precision=kind, device=device, batch_size=128)
        images[kind] = sampler.sample(range(samples)).cpu()
    recogniser = Recogniser()
    psnr, max_error = image_error(images["bf16"], images["fp32"])
    psnr_of_images = [image_error(*pair)[0] for pair in zip(images["bf16"], images["fp32"], strict=True)]
    return {
        "samples": samples,
        "nfe": sampler.nfe,
        "psnr_db": psnr,
        "psnr_db of the worst image": min(value for value in psnr_of_images if value is not None),
        "max_error": max_error,
        **{kind: asdict(recogniser.report(samples)) for kind, samples in images.items()},
    }


def main() -> None:
    """Run the chosen measurement."""
    arguments = parser(__doc__)
    arguments.add_argument("--out", type=Path, help="output file (default: the file in benchmarks/results)")
    commands = arguments.add_subparsers(dest="command", required=True)
    of_quality = commands.add_parser("quality", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    of_quality.add_argument("model", help="an embedded model: digits-ve, digits-vp, digits-subvp, digits-cld")
    of_quality.add_argument("--samples", type=int, default=2000)
    of_quality.add_argument("--solver", help="replaces the model's own")
    of_quality.add_argument("--steps", type=int, help="replaces the model's own")
    of_quality.add_argument("--batch-size", type=int, default=100)
    of_precision = commands.add_parser("precision", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    of_precision.add_argument("models", nargs="*", default=("digits-ve", "digits-vp", "digits-subvp"))
    of_precision.add_argument("--samples", type=int, default=512)
    chosen = arguments.parse_args()
    keep_freed_memory()
    if chosen.command == "quality":
        options = {"solver": chosen.solver, "steps": chosen.steps, "batch_size": chosen.batch_size}
        result, out = quality(chosen.model, chosen.samples, options), RESULTS / f"embedded-{chosen.model}.json"
    else:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        result = {name: precision(name, chosen.samples, device) for name in chosen.models}
        out = RESULTS / "precision.json"
    save(result, chosen.out or out)
    print(json.dumps(result, indent=1), f"-> {chosen.out or out}", sep="\n")


if __name__ == "__main__":
    main()
