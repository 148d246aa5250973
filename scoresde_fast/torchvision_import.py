# SPDX-License-Identifier: Apache-2.0
"""The import of libraries that import torchvision, also with a torchvision built for another build of torch."""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import torch

DETECTION_OPERATORS = ("nms", "qnms")


def import_library(name: str) -> ModuleType:
    """Import a library that imports torchvision if it is installed.

    A torchvision built for another build of torch fails to import, because its detection operators are not registered.
    Nothing here uses them, so their schemas are declared instead.
    """
    if find_spec("torchvision") is not None:
        try:
            import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            for operator in DETECTION_OPERATORS:
                _schemas().define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            for module in [module for module in sys.modules if module.partition(".")[0] == "torchvision"]:
                del sys.modules[module]  # partly initialised by the failed import
    return import_module(name)


@cache
def _schemas() -> torch.library.Library:
    """Return the library that declares the schemas; the cache keeps the library, and thus the schemas, alive."""
    return torch.library.Library("torchvision", "DEF")
