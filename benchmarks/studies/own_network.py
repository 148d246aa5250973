# SPDX-License-Identifier: Apache-2.0
"""The cost of sampling with a network of one's own, on a CPU: python -m benchmarks.studies.own_network

Compares a run of DDIM with as many bare evaluations of the same U-Net, in channels_last and inference mode, for a batch
of 16 images of 3x32x32.  The rounds are interleaved; each ratio is that of the medians.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import scoresde_fast as sf
from benchmarks.files import RESULTS, parser, save

WIDTHS = (32, 64, 96)
BATCH, STEPS, ROUNDS = 16, 10, 21
SHAPE = (3, 32, 32)


class Block(nn.Module):
    """A residual block with the embedding of the index."""

    def __init__(self, channels: int, out_channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(16, channels), nn.GroupNorm(16, out_channels)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shift = nn.Linear(embedding, out_channels)
        self.skip = nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.shift(embedding)[:, :, None, None]
        return self.conv2(F.silu(self.norm2(h))) + self.skip(x)


class UNet(nn.Module):
    """A U-Net of two resolutions, as a user would write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(1000, 4 * width)
        self.stem, self.head = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, 3, 3, padding=1)
        self.first, self.last = Block(width, width, 4 * width), Block(2 * width, width, 4 * width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.up = nn.Conv2d(2 * width, width, 3, padding=1)
        self.middle = nn.ModuleList(Block(2 * width, 2 * width, 4 * width) for _ in range(2))

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        embedding = F.silu(self.embedding(index))
        first = self.first(self.stem(x), embedding)
        h = self.down(first)
        for block in self.middle:
            h = block(h, embedding)
        h = torch.cat([self.up(F.interpolate(h, scale_factor=2)), first], dim=1)
        return self.head(self.last(h, embedding))


def measure(width: int) -> dict[str, Any]:
    """Return the median seconds of a run and of its bare evaluations, and their ratio."""
    torch.manual_seed(0)
    network = UNet(width).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
    model = sf.wrap(network, sf.Betas.linear(), prediction="epsilon", shape=SHAPE)
    sampler = sf.Sampler(model, "ddim", STEPS, batch_size=BATCH)
    x = torch.randn(BATCH, *SHAPE).to(memory_format=torch.channels_last)
    index = torch.full((BATCH,), 500)

    @torch.inference_mode()
    def bare() -> None:
        for _ in range(STEPS):
            network(x, index)

    seconds: dict[str, list[float]] = {"sampler": [], "bare": []}
    for number in range(ROUNDS + 1):
        for name, run in (("sampler", lambda: sampler.sample(range(BATCH))), ("bare", bare)):
            start = time.perf_counter()
            run()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "width": width,
        "parameters": sum(weight.numel() for weight in network.parameters()),
        **{f"{name}_seconds": round(value, 4) for name, value in medians.items()},
        "ratio": round(medians["sampler"] / medians["bare"], 4),
    }


def main() -> None:
    """Measure, print and write own-network.json."""
    parser(__doc__).parse_args()
    rows = [measure(width) for width in WIDTHS]
    result = {"batch": BATCH, "evaluations": STEPS, "threads": torch.get_num_threads(), "rows": rows}
    save(result, RESULTS / "own-network.json")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
