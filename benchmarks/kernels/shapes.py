# SPDX-License-Identifier: Apache-2.0
"""Shapes of a network's hot operations, recorded in one evaluation on meta tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from scoresde_fast.configs import load_config
from scoresde_fast.model import build_network
from scoresde_fast.networks.blocks import AttentionBlock

CIFAR10 = {"NCSN++": "ve/cifar10_ncsnpp_continuous", "DDPM++": "vp/cifar10_ddpmpp_continuous"}
NETWORKS = {**CIFAR10, "FFHQ-256": "ve/ffhq_256_ncsnpp_continuous"}
BATCHES = {"NCSN++": (1, 16, 256), "DDPM++": (1, 16, 256), "FFHQ-256": (1, 8)}


class _Calls(TorchDispatchMode):
    """Counts our operations by name, (C, H, W) of the first argument, and form."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[tuple[str, tuple[int, ...], Any]] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function.name() == "aten::conv2d":
            outputs, channels, side, _ = args[1].shape
            stride = args[3] if len(args) > 3 else [1, 1]
            if stride == [1, 1] and channels == args[0].shape[1]:
                self.seen["convolution", tuple(args[0].shape[1:]), (outputs, side)] += 1
        if function.namespace.startswith("scoresde_fast"):
            name = function.name().partition("::")[2]
            shift = "" if name == "fir_resample" or args[5] is None else "shift"
            form = args[2] if name == "fir_resample" else shift  # args[2]: the direction
            self.seen[name, tuple(args[0].shape[1:]), form] += 1
        return function(*args, **(kwargs or {}))


def hot_calls(network: str) -> Counter[tuple[str, tuple[int, ...], Any]]:
    """Return the calls by (operation, shape, form) in one evaluation of a network of `NETWORKS`.

    Attention blocks with their norm are counted as "group_norm_attention", and same-size convolutions as "convolution"
    with the form (output channels, kernel size).
    """
    config = load_config(NETWORKS[network])
    size = config.data.image_size
    with torch.device("meta"):
        built = build_network(config)
        x, labels = torch.empty(1, 3, size, size), torch.empty(1)
    attention: Counter[tuple[str, tuple[int, ...], Any]] = Counter()

    def count(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        attention["group_norm_attention", tuple(inputs[0].shape[1:]), ""] += 1

    for module in built.modules():
        if isinstance(module, AttentionBlock):
            module.register_forward_pre_hook(count)
    with torch.inference_mode(), _Calls() as calls:
        built(x, labels)
    return calls.seen + attention


def shapes(operation: str, select: Callable[[str], bool] = lambda network: True) -> dict[str, list[tuple[Any, ...]]]:
    """Return the distinct ((C, H, W), form) of an operation for each selected network, largest first."""
    return {
        network: sorted({(shape, form) for name, shape, form in hot_calls(network) if name == operation}, reverse=True)
        for network in NETWORKS
        if select(network)
    }


def heaviest_convolutions(network: str, count: int) -> list[tuple[Any, tuple[int, int]]]:
    """Return the (shape, form) of the ``count`` convolutions with the most work per evaluation, heaviest first."""
    work = {
        (shape, form): calls * math.prod(shape) * form[0] * form[1] ** 2
        for (name, shape, form), calls in hot_calls(network).items()
        if name == "convolution"
    }
    return sorted(work, key=lambda case: work[case], reverse=True)[:count]
