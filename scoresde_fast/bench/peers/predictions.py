# SPDX-License-Identifier: Apache-2.0
"""Predictions for peers: by a model at any time, and by the inference network of a run at times that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.devices import Precision, arithmetic, choose_precision
from scoresde_fast.loop.evaluator import evaluators
from scoresde_fast.loop.inputs import NetworkInputs
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.workers import in_worker
from scoresde_fast.model import ScoreFunction
from scoresde_fast.sdes import Array, ScalarSDE
from scoresde_fast.solvers import Row, StepTable
from scoresde_fast.solvers.noise_schedule import NoiseSchedule, time_of


def time_at(sde: ScalarSDE, ratios: Array, schedule: NoiseSchedule) -> Array:
    """Return the times of noise-to-signal ratios, exact for those at the edges of ``schedule``."""
    # Libraries compute ratios in float32 or through logarithms.
    nearest = np.abs(np.log(ratios[:, None] / schedule.noise_to_signal)).argmin(1)
    at_edge = np.isclose(ratios, schedule.noise_to_signal[nearest], rtol=1e-6, atol=0)
    inside = time_of(sde, ratios, schedule.times[-1], schedule.times[0])
    return np.where(at_edge, schedule.times[nearest], inside)


class ModelPredictions:
    """Predictions by `ScoreFunction.score` in the dtype of the states, at any noise-to-signal ratio.

    Args:
        model: a model with a scalar SDE.
    """

    def __init__(self, model: ScoreFunction) -> None:
        assert isinstance(model.sde, ScalarSDE)
        self.model, self.sde = model, model.sde
        self._marginals: dict[float, tuple[float, float, float]] = {}  # time, scale and std by ratio

    def know(self, schedule: NoiseSchedule) -> None:
        """Record the times of a schedule's edges, so that they need not be computed."""
        columns = (schedule.noise_to_signal, schedule.times, schedule.scale, schedule.std)
        for s, *values in zip(*(column.tolist() for column in columns), strict=True):
            self._marginals[s] = (values[0], values[1], values[2])

    def _marginal(self, s: float) -> tuple[float, float, float]:
        if s not in self._marginals:
            t = float(time_of(self.sde, np.array(s), min(self.sde.sampling_eps, 1e-6), self.sde.T))
            scale, std = self.sde.marginal(t)
            self._marginals[s] = (t, float(scale), float(std))
        return self._marginals[s]

    def data(self, x: Tensor, s: float) -> Tensor:
        return x - float(s) * self.noise(x, s)

    def noise(self, x: Tensor, s: float) -> Tensor:
        t, scale, std = self._marginal(float(s))
        return self.model.score(x * scale, torch.full((len(x),), t, dtype=torch.float64)) * -std


class NetworkPredictions:
    """Predictions of the inference network that solvers of this package use, in the order of the evaluations.

    Args:
        model: the model on its device, at the times of its training.
        times: time of each evaluation.
        inputs: inputs of the network, and its guidance.
        precision: precision of the network.

    Attributes:
        device: the device of the model.
    """

    def __init__(self, model: ScoreFunction, times: Array, inputs: NetworkInputs, precision: Precision) -> None:
        assert isinstance(model.sde, ScalarSDE)
        self._model, self._inputs, self._precision = model, inputs, precision
        self.device = model.own_device
        self._program = evaluation_program(model, times, self.device, inputs)
        make = partial(evaluators, model.network, self._program, inputs, choose_precision(precision, self.device))
        with torch.inference_mode(False), torch.no_grad():
            # Folding runs in one thread, as in `TableRunner`.
            self._plain, self._guided = in_worker(make) if self.device.type == "cpu" else make()
        scale, std = model.sde.marginal(times)
        output, state = (
            each(times) for each in (model.parametrisation.output_scale, model.parametrisation.state_scale)
        )
        factors = model.denoising_factors(times)
        self._scale = scale.tolist()
        self._data = np.stack([factors[:, 0] * scale, factors[:, 1]], 1).tolist()
        self._noise = np.stack([-std * state * scale, -std * output], 1).tolist()
        self._rows = torch.arange(len(times), device=self.device)
        self._data_of_inputs: tuple[Tensor, ...] = ()
        self._next = 0

    @contextmanager
    def run(self, seeds: Sequence[int]) -> Iterator[Tensor]:
        """Start a run of seeds; inside of it PyTorch's flags are those of a run.  Yields the sample ids (B,)."""
        precision = choose_precision(self._precision, self.device)
        with torch.inference_mode(), arithmetic(precision, self.device):
            ids = torch.tensor(seeds, dtype=torch.int64, device=self.device)
            self._data_of_inputs, self._next = self._inputs.data(ids), 0
            yield ids

    def data(self, x: Tensor, s: float) -> Tensor:
        return self._combined(x, self._data)

    def noise(self, x: Tensor, s: float) -> Tensor:
        return self._combined(x, self._noise)

    def denoised(self, x: Tensor) -> Tensor:
        """Return x0 by the last evaluation."""
        if self._next != len(self._rows) - 1:
            raise RuntimeError(f"the run took {self._next} evaluations, not the expected {len(self._rows) - 1}")
        return self._combined(x, self._data)

    def _combined(self, x: Tensor, factors: Sequence[Sequence[float]]) -> Tensor:
        """Evaluate the network, and return a combination of the state over the scale and the output."""
        i = self._next
        self._next += 1
        network = self._guided if self._program.kinds[i].guided else self._plain
        output = network((x * self._scale[i]).contiguous(), self._rows[i : i + 1], *self._data_of_inputs)
        return factors[i][0] * x + factors[i][1] * output


def evaluation_program(
    model: ScoreFunction, times: Array, device: torch.device | str, inputs: NetworkInputs
) -> Program:
    """Return a program that evaluates the network at each time; its ``nfe`` counts guided evaluations twice."""
    return Program.of_model(model, StepTable.of([Row(float(t), outputs=(1.0,)) for t in times]), device, inputs)
