# SPDX-License-Identifier: Apache-2.0
"""Quality and speed of an embedded model with its default sampler: python benchmarks/embedded.py digits-ve

Draws samples, and reports how many a support vector classifier recognises as digits, the share of every class, whether
the tint is that of the class, and the Frechet distance to the data in the features of digits-features.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import scoresde_fast as sf
from scoresde_fast.bench.machine import provenance
from scoresde_fast.data import digits
from scoresde_fast.evaluation import Recogniser, frechet_distance

RESULTS = Path(__file__).resolve().parent / "results"


def measure(name: str, samples: int, options: dict[str, Any]) -> dict[str, Any]:
    """Draw ``samples`` images of the embedded model ``name`` and score them."""
    sampler = sf.Sampler(sf.load(name), **options)
    batches, seconds = [], 0.0
    with tqdm(total=samples, unit="image", disable=None) as bar:
        start = time.perf_counter()
        for seeds, images in sampler.stream(range(samples)):
            batches.append(images)
            bar.update(len(seeds))
        seconds = time.perf_counter() - start
    images = torch.cat(batches)
    recogniser = Recogniser()
    accuracy, real = recogniser.held_out()
    data = digits("all")[0] / 255
    halves = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))].chunk(2)
    return {
        "model": name,
        "samples": samples,
        "options": asdict(sampler.options),
        "nfe": sampler.nfe,
        "seconds": round(seconds, 1),
        "images_per_second": round(samples / seconds, 2),
        "generated": asdict(recogniser.report(images)),
        "real_held_out": {"accuracy": accuracy, **asdict(real)},
        "frechet_to_data": frechet_distance(images, data),
        "frechet_between_halves_of_data": frechet_distance(*halves),
        **provenance(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", help="an embedded model: digits-ve, digits-vp, digits-subvp, digits-cld")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--solver")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--out", type=Path, help="JSON (default: benchmarks/results/embedded-MODEL.json)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    options = {"solver": arguments.solver, "steps": arguments.steps, "batch_size": arguments.batch_size}
    result = measure(arguments.model, arguments.samples, options)
    out = arguments.out or RESULTS / f"embedded-{arguments.model}.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    made, real = result["generated"], result["real_held_out"]
    shares = made["class_shares"]
    print(f"{arguments.samples} images of {arguments.model}, {result['nfe']} NFE each, {result['images_per_second']}/s")
    print(f"recognised   {made['recognised']:.1%}   (real held-out {real['recognised']:.1%})")
    print(f"tint matches {made['tint_matches']:.1%}   (real held-out {real['tint_matches']:.1%})")
    print(f"class shares {min(shares):.1%} to {max(shares):.1%}")
    print(
        f"Frechet      {result['frechet_to_data']:.2f}   "
        f"(between halves of the data {result['frechet_between_halves_of_data']:.2f})\n-> {out}"
    )


if __name__ == "__main__":
    main()
