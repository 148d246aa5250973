# SPDX-License-Identifier: Apache-2.0
"""The constants of an operator, on whatever device and in whatever dtype its images are."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class OnDevices:
    """Tensors of the host, with a copy for each device and dtype that has asked for them.

    The copies live as long as this object.  They are made at the first call, which a captured loop makes before it is
    captured.  Two threads that ask at the same time get the same ones.
    """

    def __init__(self, *tensors: Tensor) -> None:
        # Inference tensors could not be saved for a gradient.
        with torch.inference_mode(False):
            self.tensors = tuple(tensor.detach().cpu().clone() for tensor in tensors)
        self._copies: dict[tuple[torch.device, torch.dtype], tuple[Tensor, ...]] = {}

    def __reduce__(self) -> tuple[type[OnDevices], tuple[Tensor, ...]]:
        """Another process makes copies of its own."""
        return OnDevices, self.tensors

    def like(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """The tensors where ``tensor`` is; those of floating-point numbers in its dtype."""
        key = tensor.device, tensor.dtype
        found = self._copies.get(key)
        if found is None:
            with torch.inference_mode(False):
                made = tuple(
                    host.to(tensor.device, tensor.dtype if host.is_floating_point() else None) for host in self.tensors
                )
            found = self._copies.setdefault(key, made)
        return found

    def sha256(self) -> str:
        """The digest of the tensors, with their shapes and dtypes."""
        digest = hashlib.sha256()
        for tensor in self.tensors:
            digest.update(repr((str(tensor.dtype), tuple(tensor.shape))).encode())
            digest.update(tensor.numpy().tobytes())
        return digest.hexdigest()
