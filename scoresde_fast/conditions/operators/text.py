# SPDX-License-Identifier: Apache-2.0
"""Measurements as a user writes them: ``blur:1.5``, ``sr:2``, ``box:4,4,8,8``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scoresde_fast.conditions.operators.blur import Blur
from scoresde_fast.conditions.operators.gray import Gray
from scoresde_fast.conditions.operators.mask import Mask
from scoresde_fast.conditions.operators.super_resolution import SuperResolution
from scoresde_fast.data.images import read_mask
from scoresde_fast.errors import unknown

Operator = Blur | Gray | Mask | SuperResolution


@dataclass(frozen=True)
class Form:
    """How an operator is written.

    Attributes:
        written: as an error says it.
        kinds: of the values behind the colon.
        build: makes it of the shape of an image, and the values.
        needed: how many of the values must be there.
    """

    written: str
    kinds: tuple[type[int] | type[float] | type[Path], ...]
    build: Callable[..., Operator]
    needed: int

    def parse(self, values: str) -> list[Any]:
        """The values between the commas; raises ValueError where they are not as `kinds` has them."""
        parts = values.split(",", max(0, len(self.kinds) - 1)) if values else []
        if not self.needed <= len(parts) <= len(self.kinds):
            raise ValueError(f"{len(parts)} values")
        return [kind(part) for kind, part in zip(self.kinds, parts, strict=False)]


def _random(image_shape: Sequence[int], share: float, seed: int = 0) -> Mask:
    return Mask.random(image_shape, share, seed)


def _mask(image_shape: Sequence[int], path: Path) -> Mask:
    return Mask(read_mask(path, image_shape[1:]))


FORMS = {
    "gray": Form("gray", (), lambda image_shape: Gray(image_shape[0]), 0),
    "blur": Form("blur:STD", (float,), lambda _, std: Blur(std), 1),
    "sr": Form("sr:FACTOR", (int,), lambda _, factor: SuperResolution(factor), 1),
    "mask": Form("mask:FILE.png", (Path,), _mask, 1),
    "box": Form("box:TOP,LEFT,HEIGHT,WIDTH", (int, int, int, int), Mask.box, 4),
    "random": Form("random:SHARE[,SEED]", (float, int), _random, 1),
}


def parse_operator(text: str, image_shape: Sequence[int]) -> Operator:
    """The operator that ``text`` names, of images (C, H, W).

    Raises:
        ValueError: the text cannot be read, or a value is none that the operator takes.
        FileNotFoundError: the mask is not there.
    """
    name, _, values = text.partition(":")
    if name not in FORMS:
        written = ", ".join(form.written for form in FORMS.values())
        raise ValueError(f"{unknown('operator', name, FORMS)}; they are written {written}")
    form = FORMS[name]
    try:
        parsed = form.parse(values)
    except ValueError:
        raise ValueError(f"operator {text!r} cannot be read; it is written {form.written}") from None
    return form.build(image_shape, *parsed)
