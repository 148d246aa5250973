# SPDX-License-Identifier: Apache-2.0
"""From images to features: torch-fidelity's extractors and ``digits-features``, with weights that are on this disk."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scoresde_fast.devices import usable_device
from scoresde_fast.errors import unknown
from scoresde_fast.evaluation.features import SHAPE
from scoresde_fast.evaluation.fidelity import DIGITS_FEATURES, torch_fidelity
from scoresde_fast.fingerprint import weights_sha256

INCEPTION = "inception-v3-compat"
HUB_FILES = {INCEPTION: "weights-inception-2015-12-05-6726825d.pth", "vgg16": "vgg16-397923af.pth"}
"""What torch-fidelity downloads, in torch hub's folder; files that are there already are used."""
FROM_FILES = (*HUB_FILES, "clip-")
CODE_FROM_HUB = "dinov2-"


def default_extractor(shape: Sequence[int]) -> str:
    """``digits-features`` for images (3, 16, 16), which it is made for, else Inception."""
    return DIGITS_FEATURES if tuple(shape) == SHAPE else INCEPTION


@dataclass(frozen=True)
class Extractor:
    """A network that makes features of 8-bit images.

    Attributes:
        name: as torch-fidelity knows it.
        network: its `FeatureExtractorBase`.
        layer: whose features are compared: by FID, KID, precision and recall.
        logits: the layer of the Inception score.
        weights_sha256: of the weights, whatever file they came in.
        device: where it computes.
    """

    name: str
    network: Any
    layer: str
    logits: str
    weights_sha256: str
    device: torch.device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """(B, 1 or 3, H, W) uint8 -> features (B, D) float32 of each layer; gray images are seen as RGB.

        Raises:
            ValueError: the images have another number of channels, or a shape that the extractor does not take.
        """
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images have {images.shape[1]} channels; extractors take 1 (gray) or 3 (RGB)")
        found = self.network(images.to(self.device).expand(-1, 3, -1, -1))
        return self.network.convert_features_tuple_to_dict(found)

    def dimensions(self, shape: Sequence[int]) -> int:
        """Features of an image (C, H, W); the errors of a call."""
        return self(torch.zeros(1, *shape, dtype=torch.uint8))[self.layer].shape[1]

    def describe(self) -> dict[str, Any]:
        """What decides the features, as plain values."""
        return {"extractor": self.name, "weights_sha256": self.weights_sha256, "layer": self.layer}


def load_extractor(
    name: str,
    *,
    weights: Path | None = None,
    trust_pickle: bool = False,
    device: torch.device | str = "cpu",
) -> Extractor:
    """An extractor of torch-fidelity's registry, ready to compute.

    Args:
        name: "digits-features", "inception-v3-compat", "vgg16", "clip-...", or one that the caller registered.
        weights: a file of weights (.safetensors, or a .pth); None: Inception and VGG16 are looked for where torch hub
            keeps them. Nothing is downloaded.
        trust_pickle: whether weights may be unpickled, which can run any code of whoever wrote the file; those that are
            tensors only need no trust.
        device: where to compute.

    Raises:
        ValueError: there is no such extractor or device, torch-fidelity is not installed, ``weights`` does not fit the
            extractor or needs trust.
        FileNotFoundError: there are no weights here; names the file and the option.
    """
    fidelity = torch_fidelity()
    registry = fidelity.registry.FEATURE_EXTRACTORS_REGISTRY
    if name not in registry:
        raise ValueError(unknown("extractor", name, registry))
    if name.startswith(CODE_FROM_HUB):
        raise ValueError(f"{name} is code that torch hub downloads and runs, which is not done here: choose another")
    where = usable_device(device)
    layer, logits = (registry[name].get_default_feature_layer_for_metric(metric) for metric in ("fid", "isc"))
    options = {"feature_extractor_weights_path": _weights(name, weights, trust_pickle), "verbose": False}
    try:
        network = fidelity.utils.create_feature_extractor(name, list({layer, logits}), cuda=False, **options)
    except (RuntimeError, KeyError, AttributeError) as error:
        if weights is None:
            raise
        raise ValueError(
            f"{weights} does not fit the extractor {name}: {' '.join(str(error).split())[:200]}"
        ) from error
    return Extractor(name, network.to(where), layer, logits, weights_sha256(network), where)


def _weights(name: str, path: Path | None, trust_pickle: bool) -> Any:
    """What the extractor's class reads: a path, a buffer of tensors that were found harmless, or None."""
    if not name.startswith(FROM_FILES):
        if path is not None:
            raise ValueError(f"the extractor {name} has its weights: leave out --extractor-weights {path}")
        return None
    if path is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / HUB_FILES.get(name, f"{name}.pt")
        if not path.exists():
            raise FileNotFoundError(
                f"the weights of {name} are not here ({path}), and are not downloaded: name a file by "
                "--extractor-weights FILE, or choose --extractor digits-features for 16x16 digits"
            )
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of weights {str(path)!r}; --extractor-weights names one")
    tensors = _tensors(path)
    if tensors is not None:
        buffer = io.BytesIO()
        torch.save(tensors, buffer)  # unpickled again by torch-fidelity, but now of our own writing
        buffer.seek(0)
        return buffer
    if not trust_pickle:
        raise ValueError(
            f"{path} holds more than tensors, and reading it can run any code of whoever wrote it: give "
            "--trust-pickle if you trust its source, or weights as .safetensors"
        )
    return os.fspath(path)


def _tensors(path: Path) -> Any:
    """The state dict in ``path`` where it can be read without running code, else None."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file, or is truncated or damaged") from error
    except (UnpicklingError, RuntimeError, EOFError):
        return None
