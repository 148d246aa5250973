# SPDX-License-Identifier: Apache-2.0
"""``samples.json``: what a set is, and the guard against mixing two configurations in one set."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from scoresde_fast import __version__
from scoresde_fast.files import replacing
from scoresde_fast.generate.seeds import format_seeds, parse_seeds

Json = dict[str, Any]
_ABSENT = object()


@dataclass(frozen=True)
class Manifest:
    """A set of images: no times and no progress, so that an interrupted and an uninterrupted set have the same one.

    Attributes:
        configuration: everything that decides the bytes; equal in all runs of a set.
        seeds: what was asked for; one text for each run that asked for more. A run's seeds are split into batches on
            their own, so that an image keeps its batch when the set grows.
        environments: what the images were made with and on, without repetition.
    """

    configuration: Json
    seeds: list[str] = field(default_factory=list)
    environments: list[Json] = field(default_factory=list)

    @classmethod
    def begin(cls, path: Path, configuration: Json) -> Manifest:
        """The manifest at ``path``, or a new one without seeds where there is no file.

        Raises:
            ValueError: the file has another configuration, or is no manifest; each value that differs is named.
        """
        configuration = json.loads(json.dumps(configuration))  # tuples to lists, as they will be read back
        if not path.exists():
            return cls(configuration)
        manifest = cls._read(path)
        if differences := list(_differences(manifest.configuration, configuration)):
            raise ValueError(
                f"{path.parent if path.name == 'samples.json' else path} describes images of another configuration "
                f"({'; '.join(differences)}); choose another --out, or ask with the options that the set was begun with"
            )
        return manifest

    @classmethod
    def _read(cls, path: Path) -> Manifest:
        try:
            manifest = cls(**json.loads(path.read_text(encoding="utf-8")))
            manifest.all_seeds()
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is no description of samples ({error}); move it or choose another --out"
            ) from error
        return manifest

    def extended(self, seeds: list[int], environment: Json) -> Manifest:
        """This manifest with those of ``seeds`` that it lacks, made in ``environment``."""
        known = set(self.all_seeds())
        more = [seed for seed in seeds if seed not in known]
        return replace(
            self,
            seeds=[*self.seeds, format_seeds(more)] if more else self.seeds,
            environments=self.environments if environment in self.environments else [*self.environments, environment],
        )

    def write(self, path: Path) -> None:
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        with replacing(path) as file:
            file.write(text.encode())

    def all_seeds(self) -> list[int]:
        """Every seed of the set, in the order of the runs that asked for them."""
        return [seed for run in self.seeds for seed in parse_seeds(run)]

    def batches(self, batch_size: int) -> Iterator[list[int]]:
        """The fixed batches of the set: each run's seeds in consecutive pieces."""
        for run in map(parse_seeds, self.seeds):
            for start in range(0, len(run), batch_size):
                yield run[start : start + batch_size]


def environment(device: torch.device | str, batch_size: int) -> Json:
    """What images are made with, as far as it may show in their last bit."""
    device = torch.device(device)
    return {
        "scoresde_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "batch_size": batch_size,
    }


def _differences(old: object, new: object, key: str = "") -> Iterator[str]:
    """``key.path: old there, new asked`` for every leaf that differs."""
    if isinstance(old, dict) and isinstance(new, dict):
        for name in [*old, *(name for name in new if name not in old)]:
            path = f"{key}.{name}" if key else name
            yield from _differences(old.get(name, _ABSENT), new.get(name, _ABSENT), path)
    elif old != new:
        there, asked = ("nothing" if value is _ABSENT else json.dumps(value) for value in (old, new))
        yield f"{key}: {there} there, {asked} asked"
