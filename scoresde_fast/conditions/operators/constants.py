# SPDX-License-Identifier: Apache-2.0
"""Constants of operators on any device, and checks of their arguments."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class DeviceConstants:
    """Host tensors with a copy for each device and dtype that was asked for.

    A copy is made at the first call and kept as long as this object.  A captured loop makes this call before capture.
    Two threads that ask at the same time get the same copy.
    """

    def __init__(self, *tensors: Tensor) -> None:
        # Autograd cannot save inference tensors.
        with torch.inference_mode(False):
            self.tensors = tuple(tensor.detach().cpu().clone() for tensor in tensors)
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def __reduce__(self) -> tuple[type[DeviceConstants], tuple[Tensor, ...]]:
        """Leave the copies out of a pickle: another process makes its own."""
        return DeviceConstants, self.tensors

    def like(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors on the device of ``tensor``, floating-point ones in its dtype."""
        key = tensor.device, tensor.dtype
        found = self._copies.get(key)
        if found is None:
            with torch.inference_mode(False):
                copies = tuple(
                    host.to(tensor.device, tensor.dtype if host.is_floating_point() else None) for host in self.tensors
                )
            found = self._copies.setdefault(key, copies)
        return found

    def sha256(self) -> str:
        """Return the digest of the tensors, their shapes and dtypes."""
        digest = hashlib.sha256()
        for tensor in self.tensors:
            digest.update(repr((str(tensor.dtype), tuple(tensor.shape))).encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()


def require_whole(name: str, value: object, least: int) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is {value!r}; it must be a whole number of at least {least}")
