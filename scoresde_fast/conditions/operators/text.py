# SPDX-License-Identifier: Apache-2.0
"""Operators from strings such as ``blur:1.5``, ``sr:2`` and ``box:4,4,8,8``."""

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


class Syntax(NamedTuple):
    """The string syntax of an operator.

    Attributes:
        usage: the syntax as error messages show it.
        types: types of the values after the colon.
        required: the number of values that are not optional.
        build: ``build(image_shape, *values)`` returns the operator.
    """

    usage: str
    types: tuple[type[int] | type[float] | type[Path], ...]
    required: int
    build: Callable[..., ParsedOperator]

    def parse(self, values: str) -> list[Any]:
        """Return the comma-separated values; raise ``ValueError`` for a wrong count or type."""
        parts = values.split(",", max(0, len(self.types) - 1)) if values else []
        if not self.required <= len(parts) <= len(self.types):
            raise ValueError(f"{len(parts)} values")
        return [kind(part) for kind, part in zip(self.types, parts, strict=False)]


SYNTAXES = {
    "gray": Syntax("gray", (), 0, lambda shape: Gray(shape[0])),
    "blur": Syntax("blur:STD", (float,), 1, lambda _, std: Blur(std)),
    "sr": Syntax("sr:FACTOR", (int,), 1, lambda _, factor: SuperResolution(factor)),
    "mask": Syntax("mask:FILE.png", (Path,), 1, lambda shape, path: Mask(read_mask(path, shape[1:]))),
    "box": Syntax("box:TOP,LEFT,HEIGHT,WIDTH", (int, int, int, int), 4, Mask.box),
    "random": Syntax(
        "random:FRACTION[,SEED]", (float, int), 1, lambda shape, known, seed=0: Mask.random(shape, known, seed)
    ),
}


def parse_operator(text: str, image_shape: Sequence[int]) -> ParsedOperator:
    """Return the operator of ``text`` for images (C, H, W).

    Raises:
        ValueError: the operator is unknown, or a value is missing, of the wrong type or out of range.
        FileNotFoundError: the mask's file does not exist.
    """
    name, _, values = text.partition(":")
    if name not in SYNTAXES:
        usages = ", ".join(syntax.usage for syntax in SYNTAXES.values())
        raise ValueError(f"{unknown_message('operator', name, SYNTAXES)}; the syntax is {usages}")
    syntax = SYNTAXES[name]
    try:
        parsed = syntax.parse(values)
    except ValueError:
        raise ValueError(f"operator {text!r} cannot be parsed; its syntax is {syntax.usage}") from None
    return syntax.build(image_shape, *parsed)
