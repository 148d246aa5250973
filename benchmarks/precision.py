# SPDX-License-Identifier: Apache-2.0
"""What 16 bits cost: python benchmarks/precision.py [MODEL ...] [--samples 512]

Images of the embedded models in bf16 and in float32 with the same noise: peak signal-to-noise ratio of the one to the
other, and what the recogniser says of both.  Writes benchmarks/results/precision.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

import torch
from embedded import RESULTS

import scoresde_fast as sf
from scoresde_fast.bench.machine import provenance
from scoresde_fast.bench.sampling import image_error
from scoresde_fast.devices import Precision, keep_freed_memory
from scoresde_fast.evaluation import Recogniser

MODELS = ("digits-ve", "digits-vp", "digits-subvp")
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")


def measure(name: str, samples: int, device: str) -> dict[str, Any]:
    """The model's own sampler in each precision."""
    images = {}
    for precision in PRECISIONS:
        sampler = sf.Sampler(sf.load(name), precision=precision, device=device, batch_size=128)
        images[precision] = sampler.sample(range(samples)).cpu()
    recogniser = Recogniser()
    psnr, largest = image_error(images["bf16"], images["fp32"])
    each = [image_error(*pair)[0] for pair in zip(images["bf16"], images["fp32"], strict=True)]
    return {
        "samples": samples,
        "nfe": sampler.nfe,
        "psnr_db": psnr,
        "psnr_db of the worst image": min(value for value in each if value is not None),
        "max_error": largest,
        **{precision: asdict(recogniser.report(made)) for precision, made in images.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--samples", type=int, default=512)
    options = parser.parse_args()
    keep_freed_memory()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    result: dict[str, Any] = {
        **provenance(),
    }
    for name in options.models:
        result[name] = found = measure(name, options.samples, device)
        print(
            f"{name}: {found['psnr_db']:.1f} dB, worst image {found['psnr_db of the worst image']:.1f} dB", flush=True
        )
        for precision in PRECISIONS:
            report = found[precision]
            print(f"  {precision}: recognised {report['recognised']:.1%}, tint matches {report['tint_matches']:.1%}")
    (RESULTS / "precision.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
