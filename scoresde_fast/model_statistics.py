# SPDX-License-Identifier: Apache-2.0
"""The file with the statistics of a model's predictions, which the solver `dpm_v3` uses."""

from __future__ import annotations

from pathlib import Path

from scoresde_fast.model import ScoreFunction
from scoresde_fast.model_files import named_file, read_model_file, write_model_file
from scoresde_fast.solvers.weights import Weights, rows_of_numbers

SOLVER = "dpm_v3"
"""The solver; "dpm_v3:FILE" names the file of its statistics."""
FILE_NAME = "statistics.json"
"""The name of the file in a model's folder."""
COMMAND = "scoresde-fast statistics"
KEY = "statistics"


def write_statistics(path: Path, model: ScoreFunction, statistics: Weights) -> None:
    """Write the statistics of a model."""
    write_model_file(path, model, {KEY: statistics})


def named_statistics(solver: str, model: ScoreFunction) -> Weights:
    """Read the statistics of a model for the name of a solver: "dpm_v3", or "dpm_v3:FILE".

    Raises:
        ValueError: it does not exist, is no such file, or is that of another model or version.
    """
    path = named_file(solver, model, FILE_NAME, COMMAND)
    content = read_model_file(path, model, COMMAND)
    try:
        return rows_of_numbers(KEY, content[KEY], "noise level")
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged: run {COMMAND} again") from error
