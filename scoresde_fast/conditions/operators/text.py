# SPDX-License-Identifier: Apache-2.0
"""Parsing of operators from text: ``blur:1.5``, ``sr:2``, ``box:4,4,8,8``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scoresde_fast.conditions.operators.gray import Gray
from scoresde_fast.conditions.operators.mask import Mask
from scoresde_fast.conditions.operators.separable import Blur, SuperResolution
from scoresde_fast.data.masks import read_mask
from scoresde_fast.errors import unknown_message

ParsedOperator = Blur | Gray | Mask | SuperResolution


class Form(NamedTuple):
    """The written form of an operator.

    Attributes:
        usage: the form as error messages show it.
        types: of the values behind the colon.
        build: makes the operator from the shape of an image and the values.
        required: the number of values that must be given.
    """

    usage: str
    types: tuple[type[int] | type[float] | type[Path], ...]
    build: Callable[..., ParsedOperator]
    required: int

    def parse(self, values: str) -> list[Any]:
        """Return the values between the commas; raises ``ValueError`` for a wrong number or type."""
        parts = values.split(",", max(0, len(self.types) - 1)) if values else []
        if not self.required <= len(parts) <= len(self.types):
            raise ValueError(f"{len(parts)} values")
        return [kind(part) for kind, part in zip(self.types, parts, strict=False)]


FORMS = {
    "gray": Form("gray", (), lambda shape: Gray(shape[0]), 0),
    "blur": Form("blur:STD", (float,), lambda _, std: Blur(std), 1),
    "sr": Form("sr:FACTOR", (int,), lambda _, factor: SuperResolution(factor), 1),
    "mask": Form("mask:FILE.png", (Path,), lambda shape, path: Mask(read_mask(path, shape[1:])), 1),
    "box": Form("box:TOP,LEFT,HEIGHT,WIDTH", (int, int, int, int), Mask.box, 4),
    "random": Form(
        "random:SHARE[,SEED]", (float, int), lambda shape, share, seed=0: Mask.random(shape, share, seed), 1
    ),
}


def parse_operator(text: str, image_shape: Sequence[int]) -> ParsedOperator:
    """Return the operator that ``text`` names, for images (C, H, W).

    Raises:
        ValueError: the text cannot be read, or the operator refuses a value.
        FileNotFoundError: the mask's file does not exist.
    """
    name, _, values = text.partition(":")
    if name not in FORMS:
        usages = ", ".join(form.usage for form in FORMS.values())
        raise ValueError(f"{unknown_message('operator', name, FORMS)}; they are written {usages}")
    form = FORMS[name]
    try:
        parsed = form.parse(values)
    except ValueError:
        raise ValueError(f"operator {text!r} cannot be read; it is written {form.usage}") from None
    return form.build(image_shape, *parsed)
