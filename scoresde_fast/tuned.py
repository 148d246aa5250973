# SPDX-License-Identifier: Apache-2.0
"""What `scoresde_fast.tune` found for a model: the solver for each number of evaluations, and its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from scoresde_fast.errors import shown
from scoresde_fast.model import ScoreFunction
from scoresde_fast.model_files import named_file, read_model_file, write_model_file
from scoresde_fast.solvers import SolverOptions

TUNED = "tuned"
"""The name of the solver that stands for that of the file."""
FILE_NAME = "tuned.json"
"""The name of the file in a model's folder."""
COMMAND = "scoresde-fast tune"


def is_tuned(solver: str) -> bool:
    """Return whether a name means the solver of a file: "tuned" or "tuned:FILE"."""
    return solver.partition(":")[0] == TUNED


@dataclass(frozen=True)
class TunedSolver:
    """The best solver for a number of evaluations.

    Attributes:
        options: its options.
        error: its error: of the flow the root mean square distance to the converged flow, in the units of the model's
            data; of the data the distance to the data; on seeds that were not used for the choice.
        default_error: the same of the default solver for few steps.
        curve: the lowest error after each trial, on the seeds of the choice.
    """

    options: SolverOptions
    error: float
    default_error: float
    curve: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the values for a JSON file; only options other than the defaults."""
        options = {
            f.name: value for f in fields(SolverOptions) if (value := getattr(self.options, f.name)) != f.default
        }
        return {"options": options, "error": self.error, "default_error": self.default_error, "curve": self.curve}

    @classmethod
    def of_dict(cls, values: Mapping[str, Any]) -> TunedSolver:
        """Return the solver of a dictionary of `to_dict`."""
        options = SolverOptions(**values["options"])
        return cls(options, float(values["error"]), float(values["default_error"]), tuple(values["curve"]))


@dataclass(frozen=True)
class Tuned:
    """The best solvers for a model by their number of evaluations.

    Attributes:
        flow: those nearest to the converged probability flow.
        data: those nearest to the data; empty if there was no reference.
    """

    flow: Mapping[int, TunedSolver]
    data: Mapping[int, TunedSolver]

    def options(self, steps: int, *, probability_flow: bool = False) -> SolverOptions:
        """Return the options of the solver with ``steps`` evaluations; with ``probability_flow`` one without noise.

        Raises:
            ValueError: the model was not tuned for this number of evaluations.
        """
        if steps not in self.flow:
            tuned = ", ".join(map(str, sorted(self.flow)))
            raise ValueError(
                f"steps is {shown(steps)}, but the model is tuned for {tuned}: choose one of them, or run "
                f"{COMMAND} with --nfe {steps}"
            )
        solvers = self.flow if probability_flow else {**self.flow, **self.data}
        return solvers[steps].options

    @classmethod
    def named(cls, solver: str, model: ScoreFunction) -> Tuned:
        """Read the file that the name of a solver means: "tuned" that in the model's folder, or "tuned:FILE".

        Raises:
            ValueError: the model was not loaded from a folder; or as `load`.
        """
        return cls.load(named_file(solver, model, FILE_NAME, COMMAND), model)

    def save(self, path: Path | str, model: ScoreFunction) -> None:
        """Write a JSON file for `load`; as ``tuned.json`` in the model's folder it is found by solver="tuned"."""
        content = {
            name: {str(steps): solver.to_dict() for steps, solver in sorted(solvers.items())}
            for name, solvers in (("flow", self.flow), ("data", self.data))
        }
        write_model_file(Path(path), model, content)

    @classmethod
    def load(cls, path: Path | str, model: ScoreFunction) -> Tuned:
        """Read the file of a model.

        Raises:
            ValueError: it does not exist, is no such file, or is that of another model or version.
        """
        content = read_model_file(Path(path), model, COMMAND)
        try:
            solvers = [
                {int(steps): TunedSolver.of_dict(values) for steps, values in content[name].items()}
                for name in ("flow", "data")
            ]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: run {COMMAND} again") from error
        return cls(*solvers)
