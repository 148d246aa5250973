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
from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, Registers, StepBackends
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import CLDSDE
from scoresde_fast.sdes.linalg import cholesky

Array = npt.NDArray[np.float64]

STEPS = 250
PATHS = 12
DPI = 85
POINTS = 10_000
SHOWN_TIMES = (0, 0.01, 0.1, 0.3, 0.6, 1)
DENSITY_TIMES = (0.0, 0.05, 0.1, 0.2, 0.35, 1.0)


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
    program, sde = sampler.runner.program, model.sde
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
    data = load_dataset(model.config.data.dataset, "test")[0][:POINTS].flatten(1).numpy()
    panels = {"data": data}
    solvers: dict[str, dict[str, Any]] = {
        "SSCS, 150 evaluations": {"solver": "sscs", "grid": "quadratic", "steps": 150},
        "gDDIM of order 3, 30 evaluations": {"solver": "gddim", "order": 3, "grid": "sqrt", "steps": 30},
    }
    for title, options in solvers.items():
        panels[title] = sf.sample(model, range(len(data)), batch_size=len(data), **options).flatten(1).numpy()
    figure, axes = _pyplot().subplots(1, 3, figsize=(12, 4.5), layout="constrained", sharex=True, sharey=True)
    for axis, (title, points) in zip(axes, panels.items(), strict=True):
        axis.scatter(points[:, 0], points[:, 1], s=1, linewidths=0, alpha=0.6)
        axis.set(title=title, aspect="equal", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
    _save(figure, path)


def draw_paths(histories: dict[str, History], path: Path) -> None:
    """A column for each direction: paths in the (x, v) plane coloured by time, then x and v against time."""
    from matplotlib.collections import LineCollection

    figure, axes = _pyplot().subplot_mosaic(
        [["forwards", "in reverse"], ["forwards x", "in reverse x"], ["forwards v", "in reverse v"]],
        figsize=(12, 10),
        height_ratios=(2.4, 1, 1),
        layout="constrained",
    )
    for title, history in histories.items():
        plane, position, velocity = (axes[title + part] for part in ("", " x", " v"))
        xs, vs = history.x[:, :PATHS], history.v[:, :PATHS]
        for x, v in zip(xs.T, vs.T, strict=True):
            points = np.stack([x, v], axis=1)
            lines = LineCollection(list(np.stack([points[:-1], points[1:]], axis=1)), cmap="plasma", linewidths=0.6)
            lines.set_array(np.sqrt(history.times[:-1]))
            lines.set_clim(0, 1)
            plane.add_collection(lines)
        plane.scatter(xs[0], vs[0], s=24, marker="s", color="tab:cyan", edgecolors="black", zorder=3, label="start")
        plane.scatter(xs[-1], vs[-1], s=24, marker="o", color="white", edgecolors="black", zorder=3, label="end")
        plane.set(title=f"{title}: position and velocity", xlabel="x", ylabel="v", xlim=(-3, 3), ylim=(-2, 2))
        plane.legend(fontsize=8, loc="upper right")
        for axis, values, name in ((position, xs, "position x"), (velocity, vs, "velocity v")):
            axis.plot(history.times, values, linewidth=0.6)
            axis.set(xlabel="t", ylabel=name, xlim=np.round(history.times[[0, -1]]))
    bar = figure.colorbar(lines, ax=[axes[title] for title in histories], label="t")
    bar.set_ticks(np.sqrt(SHOWN_TIMES).tolist(), labels=[f"{t:g}" for t in SHOWN_TIMES])
    _save(figure, path)


def draw_density(histories: dict[str, History], path: Path) -> None:
    """A row for each direction, a column for each time: how many particles are at (x, v)."""
    columns = len(DENSITY_TIMES)
    figure, axes = _pyplot().subplots(
        len(histories), columns, figsize=(13, 4.6), layout="constrained", sharex=True, sharey=True
    )
    for row, (title, history) in zip(axes, histories.items(), strict=True):
        for axis, t in zip(row, DENSITY_TIMES, strict=True):
            k = int(np.abs(history.times - t).argmin())
            axis.hist2d(history.x[k], history.v[k], bins=75, range=[(-3, 3), (-1.8, 1.8)], cmap="magma")
            axis.set(title=f"t = {history.times[k]:.2g}")
        row[0].set_ylabel(f"{title}\nv")
    for axis in axes[-1]:
        axis.set_xlabel("x")
    _save(figure, path)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    """As a PNG of 128 colours, a third as large."""
    from PIL import Image

    figure.set_dpi(DPI)
    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()).quantize(128).save(path, optimize=True)
    _pyplot().close(figure)


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
