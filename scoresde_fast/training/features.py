# SPDX-License-Identifier: Apache-2.0
"""Training of ``digits-features``, the feature extractor for the Frechet distance between sets of digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save

from scoresde_fast.data import digits
from scoresde_fast.files import make_folder, replacing, write_json
from scoresde_fast.networks import FeatureNet

EPOCHS = 12
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
SHIFT = 1
"""Maximum shift of the images in each direction, in pixels."""


def train_features(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Train a classifier on the digits' training split; return its record: seed, epochs, losses, held-out accuracy.

    Writes ``features.safetensors`` (half precision) and the record, ``recipe.json``, to ``folder``.  The hue alone
    identifies the class, so the channels of half of the images are shuffled to make the features also describe shape.
    """
    images, labels = digits("train")
    held_out, held_out_labels = digits("test")
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = FeatureNet()
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    losses = []
    for _ in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(images), generator=generator).split(BATCH_SIZE):
            x = images[batch].float() / 255
            channels = torch.randperm(3, generator=generator)
            shuffled = torch.rand(len(x), generator=generator) < 0.5
            x = torch.where(shuffled[:, None, None, None], x[:, channels], x)
            dy, dx = (int(n) for n in torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator))
            loss = F.cross_entropy(network(x.roll((dy, dx), (2, 3))), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        schedule.step()
        losses.append(total / len(images))
    network.eval()
    with torch.inference_mode():
        correct = network(held_out.float() / 255).argmax(1) == held_out_labels
    accuracy = correct.double().mean().item()
    record = {"seed": seed, "epochs": EPOCHS, "loss": losses, "held_out_accuracy": accuracy}
    make_folder(folder)
    weights = {name: tensor.half().contiguous() for name, tensor in network.state_dict().items()}
    with replacing(folder / "features.safetensors") as file:
        file.write(save(weights))
    write_json(folder / "recipe.json", record)
    return record
