# SPDX-License-Identifier: Apache-2.0
"""The library torch-fidelity, with the extractor ``digits-features`` registered."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from scoresde_fast.errors import require_packages
from scoresde_fast.evaluation.digits_features import (
    DIGITS_FEATURES,
    DIGITS_SHAPE,
    digits_network,
    require_digits_shape,
)

DETECTION_OPERATORS = ("nms", "qnms")


@cache
def load_torch_fidelity() -> ModuleType:
    """Import torch-fidelity, and register ``digits-features``.

    Raises:
        MissingPackageError: torch-fidelity or torchvision is not installed.
    """
    require_packages("this metric", "torch-fidelity", "torchvision")
    library = _import_library()
    library.register_feature_extractor(DIGITS_FEATURES, _digits_extractor(library.FeatureExtractorBase))
    return library


def _import_library() -> ModuleType:
    """Import torch-fidelity, which imports torchvision.

    A torchvision built for another build of torch fails to import, because its detection operators are not registered.
    Nothing here uses them, so their schemas are declared instead.
    """
    try:
        import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        for name in DETECTION_OPERATORS:
            _schemas().define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # partly initialised by the failed import
    return import_module("torch_fidelity")


@cache
def _schemas() -> torch.library.Library:
    """Return the library that declares the schemas; the cache keeps it alive, and with it the schemas."""
    return torch.library.Library("torchvision", "DEF")


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
