# SPDX-License-Identifier: Apache-2.0
"""The embedded extractor ``digits-features``, and the library torch-fidelity with it registered."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from scoresde_fast.errors import require_packages
from scoresde_fast.networks import FeatureNet

DIGITS_FEATURES = "digits-features"
DIGITS_SHAPE = (3, 16, 16)
WEIGHTS = Path(__file__).resolve().parent.parent / "embedded" / DIGITS_FEATURES / "features.safetensors"
DETECTION_OPERATORS = ("nms", "qnms")


@torch.inference_mode()
def extract_features(images: Tensor, batch_size: int = 256) -> Tensor:
    """Features of ``digits-features``: (N, 3, 16, 16) in [0, 1] -> (N, 64) float64.

    Raises:
        ValueError: the images have another shape.
    """
    _require_digits_shape(images)
    batches = images.cpu().float().split(batch_size)
    return torch.cat([_shared_network().features(batch) for batch in batches]).double()


def _digits_network() -> FeatureNet:
    network = FeatureNet()
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


_shared_network = cache(_digits_network)


def _require_digits_shape(images: Tensor) -> None:
    if tuple(images.shape[1:]) != DIGITS_SHAPE:
        raise ValueError(f"images have the shape {tuple(images.shape[1:])}; digits-features takes {DIGITS_SHAPE}")


@cache
def torch_fidelity() -> ModuleType:
    """Return the library torch-fidelity, with ``digits-features`` among its extractors.

    Raises:
        MissingPackageError: torch-fidelity or torchvision is not installed.
    """
    require_packages("this metric", "torch-fidelity", "torchvision")
    library = _import_library()
    library.register_feature_extractor(DIGITS_FEATURES, _digits_extractor(library.FeatureExtractorBase))
    return library


def _import_library() -> ModuleType:
    """Import torch-fidelity, which imports torchvision; beside a torch of another build that lacks its operators.

    Nothing here uses them: they are for object detection. If they are missing, their schemas are declared instead.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in DETECTION_OPERATORS:
            _schemas().define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # left over from the failed import
    return import_module("torch_fidelity")


@cache
def _schemas() -> torch.library.Library:
    """Return the library of the schemas; the cache keeps it alive, because they are deleted with it."""
    return torch.library.Library("torchvision", "DEF")


def _digits_extractor(base: type[Any]) -> type[Any]:
    class DigitsExtractor(base):
        """``digits-features``: layers "64" (features) and "logits", of (B, 3, 16, 16) uint8 images."""

        def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
            super().__init__(name, features_list)
            self.network = _digits_network()

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            _require_digits_shape(images)
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
