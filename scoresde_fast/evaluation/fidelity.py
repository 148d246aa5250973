# SPDX-License-Identifier: Apache-2.0
"""The library torch-fidelity, imported where it is needed and nowhere else, with this package's extractor in it."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.errors import require_packages
from scoresde_fast.evaluation.features import feature_net, require_digits_shape

DIGITS_FEATURES = "digits-features"
DETECTION_OPERATORS = ("nms", "qnms")


@cache
def torch_fidelity() -> ModuleType:
    """The library, with ``digits-features`` among its extractors.

    Raises:
        MissingPackageError: it is not installed, or torchvision is not.
    """
    require_packages("this metric", "torch-fidelity", "torchvision")
    library = _import_library()
    library.register_feature_extractor(DIGITS_FEATURES, _digits_extractor(library.FeatureExtractorBase))
    return library


def _import_library() -> ModuleType:
    """torch-fidelity always imports torchvision, which beside a torch of another build lacks operators of its own.

    They are for the detection of objects, which nothing here does: where they are missing, their schemas are declared.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in DETECTION_OPERATORS:
            _schemas().define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # what the failed import left
    return import_module("torch_fidelity")


@cache
def _schemas() -> torch.library.Library:
    """Kept for good: schemas live as long as the object that declared them."""
    return torch.library.Library("torchvision", "DEF")


def _digits_extractor(base: type[Any]) -> type[Any]:
    class DigitsExtractor(base):
        """``digits-features``: layers "64" (features) and "logits", of (B, 3, 16, 16) uint8 images."""

        def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
            super().__init__(name, features_list)
            self.network = feature_net()

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
            return torch.zeros(1, 3, 16, 16, dtype=torch.uint8)

    return DigitsExtractor
