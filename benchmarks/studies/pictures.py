# SPDX-License-Identifier: Apache-2.0
"""Pictures of docs/: python -m benchmarks.studies.pictures cld-mixture | cld | conditional | latent [--model MODEL]

cld-mixture  the distances and errors of cld-mixture.json
cld          points in the plane: data and samples, the paths of twelve particles in position and velocity, and their
             density at several times, forwards by the exact kernels and in reverse by the model
conditional  digits of each class, and inpainted, coloured and restored digits: original, measurement, samples
latent       images, their codes and the decoded codes; interpolation between seeds; seeds at several temperatures
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

import scoresde_fast as sf
from benchmarks.files import DOCS, RESULTS, parser
from benchmarks.studies.cld import GRIDS
from benchmarks.study_tables import CLD_SOLVERS
from scoresde_fast.conditions.guidance import enlarged, known_pixels, simulate
from scoresde_fast.conditions.operators.text import parse_operator
from scoresde_fast.data import load_dataset
from scoresde_fast.data.built_in import DIGITS_CLASSES
from scoresde_fast.generate.pixels import checkered, compose, sheet, to_pixels, write_png
from scoresde_fast.generate.states import interpolation_grid, seed_codes
from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.table_runner import TableRunner
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
SAMPLES, NOISE = 6, 0.05
SHOWN = (0, 1, 2, 3)
"""Classes with one digit in the pictures, the first held-out one."""
RESTORED = {
    "sr:2": "means over 2x2 pixels",
    "sr:4": "means over 4x4 pixels",
    "blur:1.5": "blur",
    "box:4,4,8,8": "all but a box",
    "random:0.3": "three pixels of ten",
    "gray": "gray",
}
ROUND_TRIP_IMAGES = 8
INTERPOLATED_SEEDS = (0, 1, 2, 3)
TEMPERATURES = (0.7, 0.8, 0.9, 1.0, 1.1)
TEMPERATURE_SEEDS = (3, 7, 11, 15)
CODE_RANGE = 3.0
"""Codes are shown from -CODE_RANGE, black, to CODE_RANGE, white."""


def draw_mixture(result: dict[str, Any], path: Path) -> None:
    """Plot the distances against steps on both grids, and the errors to the ODE against evaluations."""
    figure, axes = _pyplot().subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    part = result["distance"]
    for axis, grid in zip(axes, GRIDS, strict=False):
        rows = [row for row in part["rows"] if row["grid"] == grid]
        n = [row["steps"] for row in rows]
        for solver, marker in (("em", "s"), ("sscs", "o")):
            values = [row[solver]["pooled"] for row in rows]
            axis.plot(n, values, marker=marker, markersize=4, label=CLD_SOLVERS[solver])
        axis.axhline(part["floor"]["pooled"], color="gray", linestyle=":", label="exact draws")
        axis.set(title=f"2-Wasserstein distance, {grid} grid", xscale="log", yscale="log")
        axis.set_xticks(n[::2], [str(steps) for steps in n[::2]])
    part = result["ode"]
    for solver, order in dict.fromkeys((row["solver"], row["order"]) for row in part["rows"]):
        rows = [row for row in part["rows"] if (row["solver"], row["order"]) == (solver, order)]
        n = [row["nfe"] for row in rows]
        label = "Euler" if solver == "em" else f"gDDIM, order {order}"
        axes[2].plot(n, [row["rms"] for row in rows], marker="o", markersize=4, label=label)
    axes[2].set(title="RMS error of x to the converged ODE", xscale="log", yscale="log")
    axes[2].set_xticks(n, [str(nfe) for nfe in n])
    for axis in axes:
        axis.set_xlabel("evaluations")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    _pyplot().close(figure)


@dataclass(frozen=True, eq=False)
class History:
    """Paths of N particles: ``times`` (K,), and the first coordinates ``x``, ``v`` (K, N) of position and velocity."""

    times: Array
    x: Array
    v: Array


def forwards(model: sf.ScoreModel, particles: int) -> History:
    """Return the paths of data points by the exact transitions of the SDE."""
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
    """Return the paths of a run by SSCS, a state after each row of its table.

    Each row ends in the middle of a step, because the table starts with half a step.
    """
    sampler = sf.Sampler(model, solver="sscs", steps=STEPS, grid="quadratic", denoise=False)
    assert isinstance(sampler.runner, TableRunner)
    program, sde = sampler.runner.program, model.sde
    loop = Loop(program, PlainNetwork(model.network, program.labels), StepBackends.choose("cpu"))
    noise = Noise(0, torch.arange(particles))
    prior = model.prior(noise.normal(0, model.state_shape))
    registers = loop.start(loop.registers(tuple(prior.shape)), prior, noise)
    states = [registers.state.clone()]
    for kind in program.kinds:
        loop.row(kind, registers)
        states.append(registers.state.clone())
    step_starts = np.append(sampler.table.times[1:], sde.sampling_eps)
    times = np.concatenate([[sde.T], (step_starts[:-1] + step_starts[1:]) / 2, [sde.sampling_eps]])
    history = torch.stack(states).flatten(2).double().numpy()
    return History(times, history[..., 0], history[..., history.shape[-1] // 2])


def draw_samples(model: sf.ScoreModel, path: Path) -> None:
    """Plot held-out data, and the same number of samples by SSCS and by gDDIM."""
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
    """Plot a column for each direction: paths in the (x, v) plane coloured by time, then x and v against time."""
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
    """Plot the density of particles in (x, v): a row for each direction, a column for each time."""
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


def draw_cld(model: sf.ScoreModel, out: Path) -> None:
    """Plot samples, paths and densities of points."""
    histories = {"forwards": forwards(model, POINTS), "in reverse": reverse(model, POINTS)}
    draw_samples(model, out / "cld-toy.png")
    draw_paths(histories, out / "cld-trajectories.png")
    draw_density(histories, out / "cld-density.png")


def shown_digits() -> Tensor:
    """Return the first held-out digit of each class of `SHOWN`, (N, 3, 16, 16) in [0, 1]."""
    images, labels = load_dataset("digits", "test")
    return images[[int((labels == label).nonzero()[0]) for label in SHOWN]].float() / 255


def labelled_rows(columns: dict[str, Tensor], samples: Tensor, names: list[str]) -> Any:
    """Return a sheet with a row for each name: an image of each column, then an equal share of the samples."""
    pixels = {title: list(to_pixels(images, "round")) for title, images in columns.items()}
    sample_pixels = list(to_pixels(samples, "round"))
    count = len(sample_pixels) // len(names)
    return sheet(names, pixels, [sample_pixels[count * row : count * (row + 1)] for row in range(len(names))])


def draw_conditional(model: sf.ScoreModel, out: Path) -> None:
    """Draw samples of each class, then inpainted and coloured digits, then restored ones for each measurement."""
    options: dict[str, Any] = {"solver": "sa", "grid": "logsnr", "steps": 100}
    labels = [label for label in range(DIGITS_CLASSES) for _ in range(2 * SAMPLES)]
    guided = sf.sample(model, classes=labels, classifier="digits-classifier", **options)
    write_png(out / "conditional-classes.png", compose(list(to_pixels(guided, "round")), columns=2 * SAMPLES))

    images, names = shown_digits(), [f"a {label}" for label in SHOWN]
    mask = torch.ones(16, 16)
    mask[8:] = 0
    pigdm = {"samples": SAMPLES, "method": "pigdm", **options}
    filled = sf.inpaint(model, images, mask, **pigdm)
    columns = {"original": images, "known": checkered(images, mask > 0)}
    write_png(out / "conditional-inpainting.png", labelled_rows(columns, filled, names))

    gray = images.mean(1, keepdim=True)
    coloured = sf.colorize(model, gray, **pigdm)
    write_png(out / "conditional-colours.png", labelled_rows({"original": images, "gray": gray}, coloured, names))

    parts = []
    for text, title in RESTORED.items():
        operator, original = parse_operator(text, model.image_shape), images[2:3]
        measured = simulate(operator, original, NOISE, seeds=[0], run_seed=0)
        restored = sf.restore(model, operator, measured, noise=NOISE, samples=SAMPLES, **options)
        shown = checkered(enlarged(measured, model.image_shape), known_pixels(operator, model.image_shape))
        parts.append(labelled_rows({"original": original, "measured": shown}, restored, [title]))
    write_png(out / "conditional-restored.png", np.concatenate(parts))


def round_trip(model: sf.ScoreModel) -> tuple[list[Tensor], float]:
    """Return the rows (B, C, H, W): held-out images, their codes and the decoded codes; and the largest error."""
    images, labels = load_dataset("digits", "test")
    first = [int((labels == label).nonzero()[0]) for label in range(ROUND_TRIP_IMAGES)]
    shown = images[first].double() / 255
    codes = sf.encode(model, shown)
    decoded = sf.decode(model, codes)
    return [shown, 0.5 + codes / (2 * CODE_RANGE), decoded], float((decoded - shown).abs().max())


def temperature_rows(model: sf.ScoreModel) -> list[Tensor]:
    """Return a row (B, C, H, W) for each seed, with an image for each temperature."""
    codes = seed_codes(model, TEMPERATURE_SEEDS)
    images = [sf.decode(model, codes, temperature=temperature) for temperature in TEMPERATURES]
    return list(torch.stack(images, dim=1))


def draw(path: Path, rows: list[Tensor]) -> None:
    """Write a PNG of rows of images (B, C, H, W) in [0, 1]."""
    pixels = np.concatenate([to_pixels(row, "round") for row in rows])
    write_png(path, compose(list(pixels), columns=len(rows[0])))


def draw_latent(model: sf.ScoreModel, out: Path) -> None:
    """Draw the round trip, the interpolation and the temperatures."""
    rows, error = round_trip(model)
    draw(out / "latent-round-trip.png", rows)
    print(f"largest error of a value after the round trip: {error:.2e}")
    write_png(out / "latent-interpolation.png", interpolation_grid(model, INTERPOLATED_SEEDS, 8))
    draw(out / "latent-temperature.png", temperature_rows(model))


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    """Write a PNG of 128 colours, a third of the size of a full-colour one."""
    from PIL import Image

    figure.set_dpi(DPI)
    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy()).quantize(128).save(path, optimize=True)
    _pyplot().close(figure)


PICTURES: dict[str, tuple[str, Callable[[sf.ScoreModel, Path], None]]] = {
    "cld": ("runs/cld-toy/model", draw_cld),
    "conditional": ("digits-vp", draw_conditional),
    "latent": ("digits-vp", draw_latent),
}
"""The default model of each set of pictures, and the function that draws them."""


def main() -> None:
    """Draw the chosen pictures."""
    arguments = parser(__doc__)
    arguments.add_argument("pictures", choices=["cld-mixture", *PICTURES])
    arguments.add_argument("--model", help="for cld a CLD model of points, otherwise a model of the digits")
    arguments.add_argument("--out", type=Path, default=DOCS, help="folder of the pictures (default: docs)")
    chosen = arguments.parse_args()
    if chosen.pictures == "cld-mixture":
        draw_mixture(json.loads((RESULTS / "cld-mixture.json").read_text()), chosen.out / "cld-mixture.png")
    else:
        model, draw_all = PICTURES[chosen.pictures]
        draw_all(sf.load(chosen.model or model), chosen.out)


if __name__ == "__main__":
    main()
