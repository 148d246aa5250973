# SPDX-License-Identifier: Apache-2.0
"""Constant tensors of operators on any device, and a check of integers."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class DeviceConstants:
    """Host tensors, with a cached copy for each device and dtype.

    The first call for a device and dtype makes the copy; a captured loop makes this call before capture.  Threads that
    make it at the same time get the same copy.
    """

    def __init__(self, *tensors: Tensor) -> None:
        # Autograd cannot save inference tensors.
        with torch.inference_mode(False):
            self.tensors = tuple(tensor.detach().cpu().clone() for tensor in tensors)
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def __reduce__(self) -> tuple[type[DeviceConstants], tuple[Tensor, ...]]:
        """Pickle without the copies, which belong to this process."""
        return DeviceConstants, self.tensors

    def like(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors on the device of ``tensor``, floating-point ones in its dtype."""
        key = tensor.device, tensor.dtype
        copies = self._copies.get(key)
        if copies is None:
            with torch.inference_mode(False):
                copies = tuple(
                    host.to(tensor.device, tensor.dtype if host.is_floating_point() else None) for host in self.tensors
                )
            copies = self._copies.setdefault(key, copies)
        return copies

    def sha256(self) -> str:
        """Return a hash of the tensors, their shapes and dtypes."""
        digest = hashlib.sha256()
        for tensor in self.tensors:
            digest.update(repr((str(tensor.dtype), tuple(tensor.shape))).encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def require_integer(name: str, value: object, least: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be an integer of at least {least}")
