# SPDX-License-Identifier: Apache-2.0
"""Reverse-process drift and its divergence, with a separate time for each sample.

    L(t) u + b(t) network(u, label(t))        on CLD, u is a pair of position and velocity, and b is for the velocity

L and b combine the coefficients of the SDE (Song et al. 2021, equations 6 and 13) with the conversion of the network's
output to a score.  The SDE computes L and b in float64 on the host.  An adaptive solver chooses its times on the
device, where `TimeCurves` interpolates L and b.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from importlib import import_module

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from scoresde_fast.devices import Precision
from scoresde_fast.flow.options import Probes
from scoresde_fast.loop.condition import Data
from scoresde_fast.loop.evaluator import Evaluator, TimedGuidedNetwork, timed_evaluator
from scoresde_fast.loop.inputs import NO_INPUTS, NetworkInputs
from scoresde_fast.loop.network_guidance import Autoguidance
from scoresde_fast.model import ScoreFunction
from scoresde_fast.ops import hutchinson_dot
from scoresde_fast.parametrisation import OfficialParametrisation, Parametrisation
from scoresde_fast.sdes import CLDSDE, Array, ScalarSDE

INTERVALS, NODES = 128, 14
"""Intervals of a curve, and Chebyshev nodes per interval: relative errors of about 1e-13 for every SDE here."""
EXACT_TRACE_BATCH = 256
"""Maximum number of samples times directions in one evaluation of an exact trace."""


class TimeCurves:
    """Smooth functions of time, tabulated on the host and evaluated on a device.

    Chebyshev polynomials in log t interpolate the functions on intervals of equal length.

    Args:
        functions: ``functions(times)``, for (n,) float64 -> (K, n).
        low, high: the range of times, 0 < low < high.
        device: the device of the table.
    """

    def __init__(
        self, functions: Callable[[Array], Array], low: float, high: float, device: torch.device | str
    ) -> None:
        angles = np.pi * (np.arange(NODES) + 0.5) / NODES
        edges = np.linspace(np.log(low), np.log(high), INTERVALS + 1)
        self._start, self._width = float(edges[0]), float(edges[1] - edges[0])
        middles = (edges[:-1] + edges[1:]) / 2
        nodes = np.clip(np.exp(middles[:, None] + self._width / 2 * np.cos(angles)), low, high)
        values = functions(nodes.ravel()).reshape(-1, INTERVALS, NODES)
        polynomials = np.cos(np.outer(np.arange(NODES), angles)) * np.where(np.arange(NODES) == 0, 1, 2)[:, None]
        table = np.einsum("kpn,cn->pkc", values, polynomials / NODES)
        self._table = torch.from_numpy(np.ascontiguousarray(table)).to(device)
        self._degrees = torch.arange(NODES, dtype=torch.float64, device=device)

    def __call__(self, t: Tensor) -> Tensor:
        """Map (B,) float64 times to (K, B) float64."""
        # A NaN cannot be an index: it is replaced here, and `0 * t` restores it.
        position = ((t.log() - self._start) / self._width).nan_to_num()
        interval = position.floor().clamp(0, INTERVALS - 1)
        in_interval = (2 * (position - interval) - 1).clamp(-1, 1)
        basis = torch.cos(in_interval.acos()[:, None] * self._degrees)
        return (self._table[interval.long()] * basis[:, None, :]).sum(-1).T + 0 * t


def drift_coefficients(parametrisation: Parametrisation, t: Array, *, probability_flow: bool = True) -> Array:
    """Return (2 + parts^2, n): the network's label, b, and the rows of L, at times (n,).

    L and b are those of the probability flow, or without ``probability_flow`` of the reverse SDE.

    Raises:
        ValueError: the model was trained at discrete times only.
    """
    p, sde = parametrisation, parametrisation.sde
    if isinstance(p, OfficialParametrisation) and not p.continuous:
        raise ValueError(
            f"an adaptive solver needs a model of continuous time, but this one was trained at {p.num_scales} discrete "
            "times: choose a solver with a fixed number of steps"
        )
    output, state = p.output_scale(t), p.state_scale(t)
    if isinstance(sde, CLDSDE):
        drift, noise = sde.drift(t), -(0.5 if probability_flow else 1.0) * sde.diffusion(t) ** 2
        linear = [drift[:, 0, 0], drift[:, 0, 1], drift[:, 1, 0], drift[:, 1, 1] + noise * state]
        return np.stack([p.labels(t), noise * output, *linear])
    assert isinstance(sde, ScalarSDE)
    drift_x, drift_score, _ = sde.reverse(t, probability_flow=probability_flow)
    return np.stack([p.labels(t), drift_score * output, drift_x + drift_score * state])


class Drift:
    """The drift of a model's probability flow, or of its reverse SDE, and the trace of its Jacobian.

    Args:
        model: a model on its device, in evaluation mode.
        low: the smallest time; the largest is the SDE's T.
        precision: the precision of the network.
        probability_flow: use the drift of the probability flow rather than of the reverse SDE.
        device: the device of the states.
        inputs: inputs of the network, and its guidance; their data is the argument ``data`` of the methods.
        backend: the backend of `hutchinson_dot`, as in ``Operation.choose`` of `scoresde_fast.ops`.

    Raises:
        ValueError: as in `drift_coefficients`.
    """

    def __init__(
        self,
        model: ScoreFunction,
        low: float,
        precision: Precision = "fp32",
        *,
        probability_flow: bool = True,
        device: torch.device | str = "cpu",
        inputs: NetworkInputs = NO_INPUTS,
        backend: str | None = None,
    ) -> None:
        self.model, self._inputs = model, inputs
        # A network without parameters is a closed-form score: float64 preserves its accuracy.
        self._dtype = torch.float64 if next(model.network.parameters(), None) is None else torch.float32
        coefficients = partial(drift_coefficients, model.parametrisation, probability_flow=probability_flow)
        self._curves = TimeCurves(coefficients, low, model.sde.T, device)
        operation = hutchinson_dot.operation
        self._dot = operation.reference if self._dtype == torch.float64 else operation.choose(device, backend)
        self._parts, self._forward_mode = model.sde.parts, True
        self._unit = torch.tensor([[0.0, 1.0]], dtype=torch.float32, device=device)
        self._source_network = model.network
        network = timed_evaluator(model.network, precision, inputs.names)
        self._network: Evaluator | TimedGuidedNetwork = network
        if (guidance := inputs.guidance) is not None:
            weak = guidance.model.network if isinstance(guidance, Autoguidance) else None
            weak_evaluator = None if weak is None else timed_evaluator(weak, precision, inputs.names)
            self._network = TimedGuidedNetwork(network, weak_evaluator, inputs.null)

    def _evaluate(self, x: Tensor, t: Tensor, label: Tensor, data: Data) -> Tensor:
        """Return the network's output at ``x`` and times ``t`` (B,), guided."""
        guidance = self._inputs.guidance
        if guidance is None:
            return self._network(x, label, *data)
        low, high = guidance.interval or (-math.inf, math.inf)
        scale = torch.where((t >= low) & (t <= high), guidance.scale, 1.0)
        return self._network(x, label, scale, *data)

    def slope(self, u: Tensor, t: Tensor, data: Data = ()) -> Tensor:
        """Return the drift (B, *state_shape) at states ``u`` (B, *state_shape) and times ``t`` (B,), all float64."""
        label, factor, linear = self._at(t)
        output = self._evaluate(u.to(self._dtype), t, label.to(self._dtype), data)
        return self._assemble(u, output, factor, linear)

    def stale(self) -> bool:
        """Return whether the network was replaced, or has changes that this drift does not include."""
        return self.model.network is not self._source_network or self._network.stale()

    def slope_and_trace(
        self,
        u: Tensor,
        t: Tensor,
        fields: Tensor,
        sample_ids: Tensor,
        probes: Probes,
        run_seed: int,
        data: Data = (),
    ) -> tuple[Tensor, Tensor]:
        """Return `slope` and Hutchinson's estimates (B, P) of its divergence; call it inside a dual level.

        Args:
            u, t: as in `slope`.
            fields: (P, B, *image_shape), the probes; on CLD they are probes of the velocity only.
            sample_ids, probes, run_seed: seeds and kind of the probes, from which a kernel recomputes the probes.
            data: inputs of the network, (B, ...) each.
        """
        label, factor, linear = self._at(t)
        x, label = u.to(self._dtype), label.to(self._dtype)
        dots = u.new_zeros(len(fields), len(u))
        assert probes.kind != "exact"
        for index, field in enumerate(fields):
            output, tangent = self._directional(x, t, label, field, data)
            hutchinson_dot.hutchinson_dot(
                dots[index], tangent.contiguous(), sample_ids, self._unit, draw=probes.draw + index, probe=probes.kind,
                run_seed=run_seed, implementation=self._dot,
            )  # fmt: skip
        return self._assemble(u, output, factor, linear), self._trace(factor, linear, dots).T

    def slope_and_exact_trace(self, u: Tensor, t: Tensor, data: Data = ()) -> tuple[Tensor, Tensor]:
        """Return `slope` and its exact divergence (B, 1), with one tangent per element; call it inside a dual level."""
        label, factor, linear = self._at(t)
        x, label = u.to(self._dtype), label.to(self._dtype)
        elements = math.prod(self.model.image_shape)
        total = u.new_zeros(len(u))
        identity = torch.eye(elements, dtype=x.dtype, device=x.device).view(elements, *self.model.image_shape)
        for directions in identity.split(max(1, EXACT_TRACE_BATCH // len(u))):
            count = len(directions)
            field = directions.repeat_interleave(len(u), 0)  # every direction at every sample
            states, times, labels, *inputs = (
                value.repeat(count, *[1] * (value.ndim - 1)) for value in (x, t, label, *data)
            )
            output, tangent = self._directional(states, times, labels, field, tuple(inputs))
            total += (tangent * field).flatten(1).sum(1).view(count, len(u)).sum(0)
        slope = self._assemble(u, output[: len(u)], factor, linear)
        return slope, self._trace(factor, linear, total)[:, None]

    def _at(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the label (B,), b (B,) and L by rows (parts^2, B) at times (B,)."""
        curves = self._curves(t)
        return curves[0], curves[1], curves[2:]

    def _directional(self, x: Tensor, t: Tensor, label: Tensor, field: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Return the network's output, and a tensor whose product with ``field`` is that of J field with it.

        ``field`` is a direction of the last part of the state, and J the Jacobian of the network there.  The tensor is
        J field by forward mode, or J^T field by reverse mode if the network has an operation without forward mode.
        """
        if self._forward_mode:
            try:
                return self._tangent(x, t, label, field, data)
            except NotImplementedError:
                self._forward_mode = False
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            output = self._evaluate(x, t, label, data)
            (gradient,) = torch.autograd.grad(output, x, field.to(output.dtype))
        return output.detach(), gradient.chunk(self._parts, dim=1)[-1]

    def _tangent(self, x: Tensor, t: Tensor, label: Tensor, field: Tensor, data: Data) -> tuple[Tensor, Tensor]:
        """Return the network's output and its derivative along ``field``."""
        _load_decompositions()
        direction = field.to(x.dtype)
        if self._parts == 2:
            direction = torch.cat([torch.zeros_like(direction), direction], dim=1)
        output, tangent = forward_ad.unpack_dual(self._evaluate(forward_ad.make_dual(x, direction), t, label, data))
        return output, torch.zeros_like(output) if tangent is None else tangent

    def _assemble(self, u: Tensor, output: Tensor, factor: Tensor, linear: Tensor) -> Tensor:
        """Return L u + b output, where ``factor`` (B,) is b, and ``linear`` (parts^2, B) is L."""
        per_sample = (-1, *[1] * (u.ndim - 1))
        network_term = factor.view(per_sample) * output
        entries = [entry.view(per_sample) for entry in linear]
        if self._parts == 1:
            return network_term.addcmul_(u, entries[0])
        x, v = u.chunk(2, dim=1)
        return torch.cat([entries[0] * x + entries[1] * v, network_term + entries[2] * x + entries[3] * v], 1)

    def _trace(self, factor: Tensor, linear: Tensor, network_trace: Tensor) -> Tensor:
        """Return the trace (..., B) of the slope's Jacobian, given the trace of the network's Jacobian."""
        elements = math.prod(self.model.image_shape)
        diagonal = linear[0] if self._parts == 1 else linear[0] + linear[3]
        return elements * diagonal + factor * network_trace


@cache
def _load_decompositions() -> None:
    """Import, without its warning about ``torch.jit``, a module that PyTorch imports at the first dual tensor."""
    with warnings.catch_warnings(), suppress(ImportError):
        warnings.filterwarnings("ignore", "`torch.jit.script", Warning)
        import_module("torch._decomp.decompositions_for_jvp")
