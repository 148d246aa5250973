# SPDX-License-Identifier: Apache-2.0
"""The inputs of a conditional network, and its guidance, as text on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from tyro.conf import UseAppendAction, arg

if TYPE_CHECKING:
    from scoresde_fast.loop.network_guidance import ClassifierFreeGuidance

Values: TypeAlias = npt.NDArray[Any]
InputTexts = UseAppendAction[Annotated[tuple[str, ...], arg(help_behavior_hint="(repeatable)")]]


@dataclass(frozen=True)
class NetworkInputOptions:
    """Inputs of a conditional network, and classifier-free guidance.

    Attributes:
        inputs: NAME=V1,V2,... (numbers, such as y=0,1,2) or NAME=FILE.npy (a row each). Of N rows, seed s gets row s
            mod N.
        guidance_scale: Factor of classifier-free guidance; 1 does not guide.
        guidance_null: NAME=V or NAME=FILE.npy: for guidance, the value of an input that stands for none.
        guidance_interval: LOW,HIGH: guide only at the times between them.
    """

    inputs: InputTexts = ()
    guidance_scale: Annotated[float | None, arg(help_behavior_hint="")] = None
    guidance_null: InputTexts = ()
    guidance_interval: Annotated[str | None, arg(help_behavior_hint="")] = None

    def options(self) -> dict[str, Any]:
        """Return the given ones of the arguments ``inputs`` and ``guidance`` of `Sampler`.

        Raises:
            ValueError: a text is invalid, or an option needs another one.
            FileNotFoundError: a file does not exist.
        """
        from scoresde_fast.loop.inputs import Inputs

        inputs = parse_inputs(self.inputs)
        guidance = self._guidance(inputs)
        given = {} if guidance is None else {"guidance": guidance}
        return {"inputs": Inputs(inputs), **given} if inputs else given

    def _guidance(self, inputs: Mapping[str, Values]) -> ClassifierFreeGuidance | None:
        from scoresde_fast.loop.network_guidance import ClassifierFreeGuidance

        if self.guidance_scale is None:
            if self.guidance_null or self.guidance_interval is not None:
                raise ValueError("--guidance-null and --guidance-interval need --guidance-scale, such as 1.5")
            return None
        if not (inputs and self.guidance_null):
            raise ValueError(
                "--guidance-scale needs --inputs, such as y=0,1,2, and --guidance-null, the value that stands for "
                "none, such as y=10"
            )
        null = _parse_all("--guidance-null", self.guidance_null)
        return ClassifierFreeGuidance(
            scale=self.guidance_scale,
            interval=None if self.guidance_interval is None else _parse_interval(self.guidance_interval),
            null={name: _as_row(value, inputs.get(name)) for name, value in null.items()},
        )


def parse_inputs(texts: Sequence[str]) -> dict[str, Values]:
    """Return the values (N, ...) by name of texts such as ``y=0,1,2`` or ``y=labels.npy``; integers are int64.

    Raises:
        ValueError: a text has another form, a file has no numbers, or a name is repeated.
        FileNotFoundError: a file does not exist.
    """
    return _parse_all("--inputs", texts)


def _parse_all(option: str, texts: Sequence[str]) -> dict[str, Values]:
    values: dict[str, Values] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name in values:
            raise ValueError(f"{option} gives {name!r} twice; give all its values at once")
        try:
            if not name.isidentifier():
                raise ValueError
            values[name] = _read(value) if value.endswith(".npy") else _numbers(value)
        except FileNotFoundError:
            raise
        except Exception:  # NumPy raises exceptions of many kinds for a corrupt file
            raise ValueError(
                f"{option} is {text!r}; it must be NAME=V1,V2,... with numbers, such as y=0,1,2, or NAME=FILE.npy with "
                "an array of numbers"
            ) from None
    return values


def _numbers(text: str) -> Values:
    parts = text.split(",")
    integers = all(re.fullmatch(r"[+-]?\d+", part.strip()) for part in parts)
    return np.array([int(part) for part in parts], np.int64) if integers else np.array([float(part) for part in parts])


def _read(path: str) -> Values:
    values: Values = np.load(path, allow_pickle=False)
    if values.dtype.kind not in "biuf":
        raise ValueError
    return values.astype({"b": np.bool_, "f": np.float32}.get(values.dtype.kind, np.int64))


def _as_row(value: Values, values: Values | None) -> Values:
    """Return a null value in the shape of a row of ``values``, which a single number fills."""
    return np.full(values.shape[1:], value[0]) if value.shape == (1,) and values is not None else value


def _parse_interval(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"--guidance-interval is {text!r}; it must be LOW,HIGH, such as 0.2,0.8") from None
    return low, high
