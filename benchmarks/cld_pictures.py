# SPDX-License-Identifier: Apache-2.0
"""CLD on points in the plane, as pictures: python benchmarks/cld_pictures.py [MODEL]

Draws data and samples, the paths of a dozen particles through positions and velocities, and the density of both at
several times, forwards by the exact kernels and in reverse by the model.  Writes docs/cld-toy.png,
docs/cld-trajectories.png and docs/cld-density.png.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cld import DOCS

import scoresde_fast as sf
from scoresde_fast.data import load_dataset
from scoresde_fast.evaluate import PlainNetwork
from scoresde_fast.loop import Loop, Registers, StepBackends
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.sdes.pairs import cholesky

Array = npt.NDArray[np.float64]

STEPS = 400
PATHS = 12
POINTS = 10_000
DENSITY_TIMES = (0.0, 0.05, 0.15, 0.3, 0.5, 1.0)


@dataclass(frozen=True, eq=False)
class History:
    """States on their way: ``times`` (K,), and ``x``, ``v`` (K, N), the first coordinate of both."""

    times: Array
    x: Array
    v: Array


def forwards(model: sf.ScoreModel, particles: int) -> History:
    """The diffusion from data, step by step through its exact transitions."""
    sde = model.sde
    assert isinstance(sde, CLDSDE)
    generator = np.random.default_rng(0)
    data = load_dataset(model.config.data.dataset, "test")[0].flatten(1).double().numpy()
    start = data[generator.choice(len(data), particles, replace=False), 0]
    u = np.stack([start, np.sqrt(sde.gamma * sde.mass) * generator.normal(size=particles)], axis=1)
    times = sde.T * np.linspace(0, 1, STEPS + 1) ** 2
    states = [u]
    for s, t in pairwise(times):
        kernel = sde.transition(s, t)
        u = u @ kernel.mean.T + generator.normal(size=u.shape) @ cholesky(kernel.covariance).T
        states.append(u)
    history = np.stack(states)
    return History(times, history[..., 0], history[..., 1])


@torch.inference_mode()
def reverse(model: sf.ScoreModel, particles: int) -> History:
    """SSCS's run, its table taken row by row; after the first half step a state is at the middle of a step."""
    sampler = sf.Sampler(model, solver="sscs", steps=STEPS, grid="quadratic", denoise=False)
    program, sde = sampler.program, model.sde
    loop = Loop(program, PlainNetwork(model.network, program.labels), StepBackends.choose("cpu"))
    noise = Noise(0, torch.arange(particles))
    prior = model.prior(noise.normal(0, model.state_shape))
    registers = Registers.empty(program, tuple(prior.shape)).load(prior, noise.sample_ids)
    states = [registers.state.clone()]
    for kind in program.kinds:
        loop.row(kind, registers)
        states.append(registers.state.clone())
    begins = np.append(sampler.table.times[1:], sde.sampling_eps)
    times = np.concatenate([[sde.T], (begins[:-1] + begins[1:]) / 2, [sde.sampling_eps]])
    history = torch.stack(states).flatten(2).double().numpy()
    return History(times, history[..., 0], history[..., history.shape[-1] // 2])


def draw_samples(model: sf.ScoreModel, path: Path) -> None:
    """Held-out data, and as many samples by SSCS and by gDDIM."""
    plt = _pyplot()
    data = load_dataset(model.config.data.dataset, "test")[0][:POINTS].flatten(1).numpy()
    panels = {"data": data}
    solvers: dict[str, dict[str, Any]] = {
        "SSCS, 150 evaluations": {"solver": "sscs", "grid": "quadratic", "steps": 150},
        "gDDIM of order 3, 30 evaluations": {"solver": "gddim", "order": 3, "grid": "sqrt", "steps": 30},
    }
    for title, options in solvers.items():
        panels[title] = sf.sample(model, range(len(data)), batch_size=len(data), **options).flatten(1).numpy()
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.2), layout="constrained", sharex=True, sharey=True)
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        axis.scatter(points[:, 0], points[:, 1], s=1, linewidths=0, alpha=0.6)
        axis.set(title=title, aspect="equal", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
    figure.savefig(path, dpi=80)
    plt.close(figure)


def draw_paths(histories: dict[str, History], path: Path) -> None:
    """A row for each direction: paths in the (x, v) plane coloured by time, then x and v against time."""
    plt = _pyplot()
    from matplotlib.collections import LineCollection

    figure, axes = plt.subplots(len(histories), 3, figsize=(13, 7.5), layout="constrained", squeeze=False)
    for row, (title, history) in zip(axes, histories.items(), strict=True):
        spread = float(history.times.max())
        for x, v in zip(history.x.T[:PATHS], history.v.T[:PATHS], strict=True):
            points = np.stack([x, v], axis=1)
            segments = np.stack([points[:-1], points[1:]], axis=1)
            lines = LineCollection(list(segments), cmap="viridis", linewidths=0.7)
            lines.set_array(history.times[:-1])
            lines.set_clim(0, spread)
            row[0].add_collection(lines)
            row[1].plot(history.times, x, linewidth=0.7)
            row[2].plot(history.times, v, linewidth=0.5)
        starts, end = history.x[0, :PATHS], history.x[-1, :PATHS]
        row[0].scatter(starts, history.v[0, :PATHS], s=14, marker="s", color="tab:red", zorder=3, label="start")
        row[0].scatter(end, history.v[-1, :PATHS], s=14, marker="o", color="black", zorder=3, label="end")
        row[0].autoscale_view()
        row[0].set(title=f"{title}: position and velocity", xlabel="x", ylabel="v")
        row[0].legend(fontsize=8)
        figure.colorbar(lines, ax=row[0], label="t")
        for axis, name in zip(row[1:], ("position x", "velocity v"), strict=True):
            axis.set(title=name, xlabel="t" if history.times[0] < history.times[-1] else "t, from 1 down to 0")
            if history.times[0] > history.times[-1]:
                axis.invert_xaxis()
    figure.savefig(path, dpi=85)
    plt.close(figure)


def draw_density(histories: dict[str, History], path: Path) -> None:
    """A row for each direction, a column for each time: how many particles are at (x, v)."""
    plt = _pyplot()
    columns = len(DENSITY_TIMES)
    figure, axes = plt.subplots(len(histories), columns, figsize=(13, 4.8), layout="constrained", sharex=True)
    for row, (title, history) in zip(axes, histories.items(), strict=True):
        for axis, t in zip(row, DENSITY_TIMES, strict=True):
            k = int(np.abs(history.times - t).argmin())
            axis.hist2d(history.x[k], history.v[k], bins=90, range=[(-3, 3), (-1.8, 1.8)], cmap="magma")
            axis.set(title=f"t = {history.times[k]:.2g}")
        row[0].set_ylabel(f"{title}\nv")
    for axis in axes[-1]:
        axis.set_xlabel("x")
    figure.savefig(path, dpi=75)
    plt.close(figure)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model", nargs="?", default="runs/cld-toy/model", help="a trained model of points on CLD")
    parser.add_argument("--out", type=Path, default=DOCS, help="folder of the pictures")
    arguments = parser.parse_args()
    model = sf.load(arguments.model)
    histories = {"forwards": forwards(model, POINTS), "in reverse": reverse(model, POINTS)}
    draw_samples(model, arguments.out / "cld-toy.png")
    draw_paths(histories, arguments.out / "cld-trajectories.png")
    draw_density(histories, arguments.out / "cld-density.png")


if __name__ == "__main__":
    main()
