# SPDX-License-Identifier: Apache-2.0
"""Feature extractors: those of torch-fidelity, with weights from local files, and the embedded ``digits-features``."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from scoresde_fast.checkpoints.pickles import require_modest
from scoresde_fast.devices import usable_device
from scoresde_fast.errors import require_packages, unknown_message
from scoresde_fast.model import weights_sha256
from scoresde_fast.networks import FeatureNet
from scoresde_fast.torchvision_import import import_library

DIGITS_FEATURES = "digits-features"
DIGITS_SHAPE = (3, 16, 16)
WEIGHTS = Path(__file__).resolve().parent.parent / "embedded" / DIGITS_FEATURES / "features.safetensors"

INCEPTION = "inception-v3-compat"
HUB_FILES = {INCEPTION: "weights-inception-2015-12-05-6726825d.pth", "vgg16": "vgg16-397923af.pth"}
"""Names of the files that torch-fidelity would download to torch hub's folder; existing files are used."""
FROM_FILES = (*HUB_FILES, "clip-")
"""Prefixes of extractors that read their weights from a file."""
CODE_FROM_HUB = "dinov2-"
"""Prefix of extractors whose code torch hub would download."""


def default_extractor(shape: Sequence[int]) -> str:
    """Return ``digits-features`` for images (3, 16, 16), else Inception."""
    return DIGITS_FEATURES if tuple(shape) == DIGITS_SHAPE else INCEPTION


@dataclass(frozen=True)
class Extractor:
    """A network that extracts features of 8-bit images.

    Attributes:
        name: name in torch-fidelity's registry.
        network: torch-fidelity's `FeatureExtractorBase`.
        layer: layer for FID, KID, precision and recall.
        logits: layer for the Inception score.
        weights_sha256: hash of the weights, independent of the file format.
        device: device of the network.
    """

    name: str
    network: Any
    layer: str
    logits: str
    weights_sha256: str
    device: torch.device

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features (B, D) float32 of images (B, 1 or 3, H, W) uint8, by layer; gray is expanded to RGB.

        Raises:
            ValueError: the extractor does not take this number of channels or this size.
        """
        if images.shape[1] not in (1, 3):
            raise ValueError(f"images have {images.shape[1]} channels; extractors take 1 (gray) or 3 (RGB)")
        features = self.network(images.to(self.device).expand(-1, 3, -1, -1))
        return self.network.convert_features_tuple_to_dict(features)

    def dimensions(self, shape: Sequence[int]) -> int:
        """Return the number of features of an image (C, H, W); raise as a call does."""
        return self(torch.zeros(1, *shape, dtype=torch.uint8))[self.layer].shape[1]

    def describe(self) -> dict[str, Any]:
        """Return the settings that determine the features, as JSON values."""
        return {"extractor": self.name, "weights_sha256": self.weights_sha256, "layer": self.layer}


def load_extractor(
    name: str, *, weights: Path | None = None, trust_pickle: bool = False, device: torch.device | str = "cpu"
) -> Extractor:
    """Load an extractor from torch-fidelity's registry.

    Args:
        name: "digits-features", "inception-v3-compat", "vgg16", "clip-...", or one that the caller registered.
        weights: file of weights (.safetensors or .pth); None: the file in torch hub's folder. Nothing is downloaded.
        trust_pickle: allow unpickling of weights, which can execute code from the file; files with only tensors do not
            need it.
        device: device of the network.

    Raises:
        ValueError: the extractor or the device is unknown, torch-fidelity is not installed, or ``weights`` does not fit
            the extractor or needs ``trust_pickle``.
        FileNotFoundError: the weights do not exist; the message names the file and the option.
    """
    fidelity = load_torch_fidelity()
    registry = fidelity.registry.FEATURE_EXTRACTORS_REGISTRY
    if name not in registry:
        raise ValueError(unknown_message("extractor", name, registry))
    if name.startswith(CODE_FROM_HUB):
        raise ValueError(f"{name} is code that torch hub downloads and runs, which is not supported; choose another")
    device = usable_device(device)
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
    return Extractor(name, network.to(device), layer, logits, weights_sha256(network), device)


def _weights(name: str, path: Path | None, trust_pickle: bool) -> Any:
    """Return the weights as the extractor takes them: a path, a buffer of tensors, or None for its own weights."""
    if not name.startswith(FROM_FILES):
        if path is not None:
            raise ValueError(f"the extractor {name} has its own weights; leave out --extractor-weights {path}")
        return None
    if path is None:
        path = Path(torch.hub.get_dir()) / "checkpoints" / HUB_FILES.get(name, f"{name}.pt")
        if not path.exists():
            raise FileNotFoundError(
                f"the weights of {name} do not exist ({path}) and are never downloaded; give --extractor-weights FILE, "
                "or choose --extractor digits-features for 16x16 digits"
            )
    if not path.is_file():
        raise FileNotFoundError(f"the file of weights {str(path)!r} does not exist; check --extractor-weights")
    tensors = _tensors(path)
    if tensors is not None:
        buffer = io.BytesIO()
        torch.save(tensors, buffer)  # torch-fidelity unpickles this buffer instead of the file
        buffer.seek(0)
        return buffer
    if not trust_pickle:
        raise ValueError(
            f"{path} contains more than tensors, and reading it can execute code from the file; give --trust-pickle if "
            "you trust its source, or weights as .safetensors"
        )
    return os.fspath(path)


def _tensors(path: Path) -> Any:
    """Return the state dict in ``path`` if it can be read without running code, else None."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        require_modest(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file, or is truncated or corrupt") from error
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    except (UnpicklingError, RuntimeError, EOFError):
        return None


@cache
def load_torch_fidelity() -> ModuleType:
    """Import torch-fidelity, and register ``digits-features``.

    Raises:
        MissingPackageError: torch-fidelity or torchvision is not installed.
    """
    require_packages("this metric", "torch-fidelity", "torchvision")
    library = import_library("torch_fidelity")
    library.register_feature_extractor(DIGITS_FEATURES, _digits_extractor(library.FeatureExtractorBase))
    return library


def _digits_extractor(base: type[Any]) -> type[Any]:
    class DigitsExtractor(base):
        """Extractor of the layers "64" (features) and "logits" from images (B, 3, 16, 16) uint8."""

        def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
            super().__init__(name, features_list)
            self.network = digits_network()

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            require_digits_shape(images)
            features = self.network.features(images.float() / 255)
            layers = {"64": features, "logits": self.network.classifier(features)}
            return tuple(layers[name] for name in self.features_list)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return "64", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "logits" if metric == "isc" else "64"

        @staticmethod
        def can_be_compiled() -> bool:
            return True

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, *DIGITS_SHAPE, dtype=torch.uint8)

    return DigitsExtractor


@torch.inference_mode()
def extract_features(images: Tensor, batch_size: int = 256) -> Tensor:
    """Return the features (N, 64) float64 of images (N, 3, 16, 16) in [0, 1].

    Raises:
        ValueError: the images have another shape.
    """
    require_digits_shape(images)
    batches = images.cpu().float().split(batch_size)
    return torch.cat([_shared_digits_network().features(batch) for batch in batches]).double()


def digits_network() -> FeatureNet:
    """Return a new network with the embedded weights."""
    network = FeatureNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


_shared_digits_network = cache(digits_network)


def require_digits_shape(images: Tensor) -> None:
    """Raise ValueError unless ``images`` are (N, 3, 16, 16)."""
    if tuple(images.shape[1:]) != DIGITS_SHAPE:
        raise ValueError(f"images have the shape {tuple(images.shape[1:])}; digits-features takes {DIGITS_SHAPE}")
