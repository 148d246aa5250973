# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast tune`` and ``statistics``: solvers that are fitted to a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from scoresde_fast.cli.evaluate import ExtractorOptions, ReferenceHelp
from scoresde_fast.cli.network_inputs import NetworkInputOptions
from scoresde_fast.cli.options import NO_DEFAULT, Device, LoadingOptions, Model
from scoresde_fast.cli.process import process_device

if TYPE_CHECKING:
    from scoresde_fast.bench.measures import Measure
    from scoresde_fast.model import ScoreFunction
    from scoresde_fast.tuned import TunedSolver

BATCH = 100
"""Number of images whose features are extracted at once."""


@dataclass(frozen=True, kw_only=True)
class Tune(ExtractorOptions):
    """Find the best solvers with few evaluations for a model, and write tuned.json to its folder.

    sample MODEL --solver tuned --steps 10 samples with the result. Each solver is a linear multistep method whose grid
    and weights bring it nearest to the converged probability flow. With --reference it also searches the
    solvers whose images are nearest to data; then sample uses these, and with --probability-flow the others.
    """

    model: Model
    nfe: tuple[int, ...] = (5, 8, 10, 15, 20)
    """Numbers of network evaluations."""
    seconds: float = 300.0
    """Duration of the search."""
    reference: Annotated[str | None, ReferenceHelp] = None
    """Also search the solvers whose images are nearest to these, in half of the time."""
    out: Annotated[Path | None, NO_DEFAULT] = None
    """Write another file, for --solver tuned:FILE."""
    device: Device = None
    network: NetworkInputOptions = field(default_factory=NetworkInputOptions)
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    def run(self) -> None:
        from scoresde_fast.tuned import FILE_NAME
        from scoresde_fast.tuning import tune

        model = self.loading.load(self.model)
        out = _path(self.out, model, FILE_NAME, self.model)
        device = process_device(self.device)
        tuned = tune(
            model,
            self.nfe,
            seconds=self.seconds,
            measure=self._measure(model, device),
            on_solver=_report,
            device=device,
            **self.network.options(),
        )
        tuned.save(out, model)
        print(out)

    def _measure(self, model: ScoreFunction, device: str) -> Measure | None:
        """Return the distance to the reference, if there is one."""
        if self.reference is None:
            return None
        import torch

        from scoresde_fast.bench.targets import image_target

        return image_target(
            model.image_shape,
            BATCH,
            device=torch.device(device),
            reference=self.reference,
            extractor=self.load_extractor(model.image_shape, device),
            training_set=None,
            trust_pickle=self.trust_pickle,
            batch_size=BATCH,
        ).measure


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Measure statistics of a model's predictions for the solver dpm_v3, and write statistics.json to its folder."""

    model: Model
    out: Annotated[Path | None, NO_DEFAULT] = None
    """Write another file, for --solver dpm_v3:FILE."""
    device: Device = None
    network: NetworkInputOptions = field(default_factory=NetworkInputOptions)
    loading: LoadingOptions = field(default_factory=LoadingOptions)

    def run(self) -> None:
        from scoresde_fast.model_statistics import FILE_NAME, write_statistics
        from scoresde_fast.tuning import empirical_statistics

        model = self.loading.load(self.model)
        out = _path(self.out, model, FILE_NAME, self.model)
        network = self.network.options()
        write_statistics(out, model, empirical_statistics(model, device=process_device(self.device), **network))
        print(out)


def _path(out: Path | None, model: ScoreFunction, file_name: str, name: str) -> Path:
    """Return the file to write: ``out``, or one in the model's folder."""
    if out is not None:
        return out
    if model.folder is None:
        raise ValueError(f"{name} is no saved folder, in which {file_name} could be written: give --out FILE")
    return model.folder / file_name


def _report(kind: str, nfe: int, solver: TunedSolver) -> None:
    distances = {"flow": "error of the flow", "data": "distance to the data"}
    name = "" if kind == "flow" else f" with {solver.options.solver}"
    print(
        f"{nfe} evaluations: {distances[kind]} {solver.error:.3g}{name} (default solver {solver.default_error:.3g})",
        flush=True,
    )
