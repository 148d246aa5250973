# SPDX-License-Identifier: Apache-2.0
"""``samples.json``: what a set is, what of it is done, and the guard against mixing two configurations in one set."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from scoresde_fast import __version__
from scoresde_fast.files import replacing
from scoresde_fast.generate.seed_set import EMPTY, SeedSet

Json = dict[str, Any]
_ABSENT = object()


class DamagedManifestError(ValueError):
    """A file in a manifest's place is none."""


@dataclass(frozen=True)
class Manifest:
    """A set of images: nothing in it tells when or by whom it was made, so that equal sets have equal ones.

    Attributes:
        configuration: everything that decides the bytes; equal in all runs of a set.
        seeds: what was asked for; one set for each run that asked for more. A run's seeds are split into batches on
            their own, so that an image keeps its batch when the set grows.
        environments: what the images were made with and on, without repetition.
        done: the seeds whose images are on the disk, for certain; None of a description that does not count.
    """

    configuration: Json
    seeds: tuple[SeedSet, ...] = ()
    environments: tuple[Json, ...] = ()
    done: SeedSet | None = None

    @classmethod
    def new(cls, configuration: Json) -> Manifest:
        """One without seeds."""
        return cls(json.loads(json.dumps(configuration)))  # tuples to lists, as they will be read back

    @classmethod
    def begin(cls, path: Path, configuration: Json) -> Manifest:
        """The manifest at ``path``, or a new one without seeds where there is no file.

        Raises:
            ValueError: the file has another configuration; each value that differs is named.
            DamagedManifestError: the file is no manifest.
        """
        new = cls.new(configuration)
        if not path.exists():
            return new
        manifest, configuration = cls.read(path), new.configuration
        if differences := list(_differences(manifest.configuration, configuration)):
            raise ValueError(
                f"{path.parent if path.name == 'samples.json' else path} describes images of another configuration "
                f"({'; '.join(differences)}); choose another --out, or ask with the options that the set was begun with"
            )
        return manifest

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The manifest at ``path``.

        Raises:
            DamagedManifestError: the file is no manifest.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            return cls(
                dict(found["configuration"]),
                tuple(map(SeedSet.parse, found["seeds"])),
                tuple(map(dict, found["environments"])),
                SeedSet.parse(found["done"]) if "done" in found else None,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamagedManifestError(
                f"{path} is no description of samples ({error}); move it or choose another --out"
            ) from error

    def extended(self, seeds: SeedSet, environment: Json) -> Manifest:
        """This manifest with those of ``seeds`` that it lacks, made in ``environment``."""
        more = seeds - self.all_seeds()
        environments = {json.dumps(known): known for known in (*self.environments, environment)}
        return replace(
            self,
            seeds=(*self.seeds, more) if len(more) else self.seeds,
            # In an order of their own: whichever process comes first, the file is the same.
            environments=tuple(environments[text] for text in sorted(environments)),
        )

    def write(self, path: Path) -> None:
        """Put it at ``path``, whole or not at all."""
        found: Json = {
            "configuration": self.configuration,
            "seeds": [str(run) for run in self.seeds],
            "environments": self.environments,
        }
        if self.done is not None:
            found["done"] = str(self.done)
        with replacing(path) as file:
            file.write((json.dumps(found, indent=2, ensure_ascii=False) + "\n").encode())

    def all_seeds(self) -> SeedSet:
        """Every seed of the set."""
        return SeedSet.union(self.seeds)

    def missing(self) -> SeedSet:
        """What was asked for and is not done."""
        return self.all_seeds() - (self.done or EMPTY)

    def batches(self, batch_size: int) -> Iterator[list[int]]:
        """The fixed batches of the set: each run's seeds in consecutive pieces."""
        for run in self.seeds:
            yield from run.batches(batch_size)


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
