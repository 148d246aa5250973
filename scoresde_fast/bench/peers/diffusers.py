# SPDX-License-Identifier: Apache-2.0
"""The schedulers of diffusers as peers.

A scheduler is constructed with its default noise schedule, whose tables are then replaced by values at the edges of a
time grid.  Its states are y = x / (scale N(s)): N = sqrt(1 + s^2) for a variance-preserving process, 1 for the
schedulers that follow Karras et al. (2022), and 1 + s for flow matching, where y = (1 - u) x(0) + u z with
u = s / (1 + s).

Left out: schedulers of distilled networks (LCM, TCD, SCM, CMStochasticIterative, FlowMatchLCM, FlowMapEuler, HeliosDMD,
Piflow), of discrete data (VQDiffusion, Amused, DiscreteDDIM, EntropyBound, BlockRefinement), of other tasks (RePaint,
the inverse ones), with a schedule of their own (DDPMWuerstchen, Helios, RFD4Proteina), deprecated ones, and those that
compute the same as another (DDIMParallel, CogVideoXDDIM, MiniMaxH3 and FlowMatchEuler as DDIM, DDPMParallel and UnCLIP
as DDPM).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scoresde_fast.bench.peers.method import Peer, Predictions
from scoresde_fast.sdes import Array
from scoresde_fast.solvers.noise_schedule import NoiseSchedule

LIBRARY = "diffusers"
LOWER, EULER, ZERO = "lower_order_final", "euler_at_final", "final_sigmas_type zero"
"""Ends of multistep schedulers: lower orders at the last two steps, order 1 at the last step (to eps), or the denoising
step counts as the last of them."""


class States(NamedTuple):
    """The normalisation N(s) of the states of a scheduler, and the network output that it takes."""

    norm: Callable[[Array], Array]
    output: Callable[[Predictions, Tensor, float], Tensor]


def _noise(predictions: Predictions, x: Tensor, s: float) -> Tensor:
    return predictions.noise(x, s)


def _velocity(predictions: Predictions, x: Tensor, s: float) -> Tensor:
    """Return e - x0."""
    return (1 + s) * predictions.noise(x, s) - x


VARIANCE_PRESERVING = States(lambda s: np.sqrt(1 + s**2), _noise)
KARRAS = States(np.ones_like, _noise)
FLOW = States(lambda s: 1 + s, _velocity)


def _scheduler(name: str, **config: Any) -> Any:
    import diffusers

    return getattr(diffusers, f"{name}Scheduler")(**config)


def _follow(
    scheduler: Any,
    states: States,
    predictions: Predictions,
    x: Tensor,
    schedule: NoiseSchedule,
    evaluated: Array,
    timesteps: Any,
    **options: Any,
) -> Tensor:
    """Run a scheduler that is evaluated at the ratios ``evaluated``, and return the states at the last edge."""
    norms = states.norm(evaluated)
    y = x / norms[0]
    for s, norm, timestep in zip(evaluated.tolist(), norms.tolist(), timesteps, strict=True):
        output = states.output(predictions, y * norm, s)
        y = scheduler.step(output, timestep, y, return_dict=False, **options)[0]
    return y.to(x.dtype) * float(states.norm(schedule.noise_to_signal[-1:])[0])


def _generator(x: Tensor, seed: int) -> dict[str, torch.Generator]:
    return {"generator": torch.Generator(x.device).manual_seed(seed)}


def _start(scheduler: Any, sigmas: Array, timesteps: Array) -> None:
    """Set the tables of a scheduler that counts its steps."""
    scheduler.set_timesteps(len(timesteps))
    scheduler.sigmas, scheduler.timesteps = torch.from_numpy(sigmas), torch.from_numpy(timesteps)
    scheduler.num_inference_steps = len(timesteps)
    scheduler._step_index, scheduler._begin_index = None, 0
    scheduler.is_scale_input_called = True


def _labels(schedule: NoiseSchedule) -> Array:
    """Return the times of the steps, from 0 to 1000."""
    return 1000 * schedule.times[:-1] / schedule.sde.T


def _counted(
    name: str,
    config: Mapping[str, Any],
    states: States,
    noisy: bool,
    predictions: Predictions,
    x: Tensor,
    schedule: NoiseSchedule,
    seed: int,
    *,
    zero: bool = False,
    **step: Any,
) -> Tensor:
    """Run a scheduler with one evaluation at the start of each step; with ``zero`` it expects another one, to s = 0."""
    s, labels = schedule.noise_to_signal, _labels(schedule)
    scheduler = _scheduler(name, **config)
    sigmas = s / (1 + s) if states is FLOW else s
    if zero:
        _start(scheduler, np.append(sigmas, 0.0), np.append(labels, 0.0))
    else:
        _start(scheduler, sigmas, labels)
    options = {**step, **(_generator(x, seed) if noisy else {})}
    return _follow(scheduler, states, predictions, x, schedule, s[:-1], labels, **options)


def _multistep(
    name: str,
    states: States,
    config: Mapping[str, Any],
    form: str,
    end: str,
    *,
    default: bool,
    noisy: bool = False,
) -> Peer:
    """Return a multistep scheduler with the order of ``config``."""
    ends: dict[str, Any] = {"lower_order_final": end in (LOWER, ZERO)}
    if name != "DEISMultistep":
        ends["final_sigmas_type"] = "zero" if end == ZERO else "sigma_min"
    if end == EULER:
        ends["euler_at_final"] = True
    return Peer(
        LIBRARY,
        name.removesuffix("Multistep") if name in ("UniPCMultistep", "DEISMultistep") else name,
        partial(_counted, name, {**config, **ends}, states, noisy, zero=end == ZERO),
        form,
        config["solver_order"],
        end,
        deterministic=not noisy,
        default=default,
    )


def _ends(order: int, *, zero: bool = True, euler: bool = False) -> list[str]:
    """Return the ends that differ at an order."""
    if order == 1:
        return [""]
    return ["", LOWER, *([EULER] if euler else []), *([ZERO] if zero and order > 2 else [])]


def multistep() -> Iterator[Peer]:
    """Yield the multistep schedulers."""
    for kind, predict_x0, order in product(("bh2", "bh1"), (True, False), (1, 2, 3, 4)):
        config: dict[str, Any] = {"solver_type": kind, "predict_x0": predict_x0, "solver_order": order}
        for end in _ends(order):
            default = (kind, predict_x0, order, end) == ("bh2", True, 2, LOWER)
            form = kind if predict_x0 else f"{kind}, noise"
            yield _multistep("UniPCMultistep", VARIANCE_PRESERVING, config, form, end, default=default)
    for order in (1, 2, 3):
        for end in _ends(order, zero=False):
            config, default = {"solver_order": order}, (order, end) == (2, LOWER)
            yield _multistep("DEISMultistep", VARIANCE_PRESERVING, config, "", end, default=default)
    algorithms = ("dpmsolver++", "dpmsolver", "sde-dpmsolver++", "sde-dpmsolver")
    yield from _dpm_solver("DPMSolverMultistep", VARIANCE_PRESERVING, algorithms, ("sde-dpmsolver",))
    yield from _dpm_solver("EDMDPMSolverMultistep", EDM, algorithms[::2], ("sde-dpmsolver++",))
    yield from _cosine_dpm_solver()
    yield from _sa_solver()


def _dpm_solver(name: str, states: States, algorithms: Sequence[str], without_order_3: Sequence[str]) -> Iterator[Peer]:
    for algorithm, order in product(algorithms, (1, 2, 3)):
        if order == 3 and algorithm in without_order_3:
            continue  # not implemented there
        for kind in ("midpoint", "heun") if order == 2 else ("midpoint",):
            for end in _ends(order, zero="++" in algorithm, euler=True):
                yield _multistep(
                    name,
                    states,
                    {"algorithm_type": algorithm, "solver_type": kind, "solver_order": order},
                    algorithm if kind == "midpoint" else f"{algorithm}, heun",
                    end,
                    noisy=algorithm.startswith("sde"),
                    default=(algorithm, order, kind, end) == ("dpmsolver++", 2, "midpoint", LOWER),
                )


def _edm_output(sign: float, sigma_data: float, predictions: Predictions, x: Tensor, s: float) -> Tensor:
    """Return the network output F of x0 = c_skip x + c_out F (Karras et al. 2022, table 1)."""
    total = s**2 + sigma_data**2
    return (predictions.data(x, s) - sigma_data**2 / total * x) / (sign * s * sigma_data / total**0.5)


EDM = States(np.ones_like, partial(_edm_output, 1.0, 0.5))
COSINE = States(np.ones_like, partial(_edm_output, -1.0, 1.0))


def _cosine_dpm_solver() -> Iterator[Peer]:
    """Yield the solver of SDEs with EDM's states."""
    for order, kind in ((1, "midpoint"), (2, "midpoint"), (2, "heun")):
        for end in _ends(order, zero=False):
            yield Peer(
                LIBRARY,
                "CosineDPMSolverMultistep",
                partial(_cosine, {"solver_order": order, "solver_type": kind, "lower_order_final": end == LOWER}),
                "" if kind == "midpoint" else kind,
                order,
                end,
                deterministic=False,
                default=(order, kind, end) == (2, "midpoint", LOWER),
            )


def _cosine(
    config: Mapping[str, Any], predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int
) -> Tensor:
    s = schedule.noise_to_signal
    limits = {"sigma_min": float(s[-1]), "sigma_max": float(s[0]), "final_sigmas_type": "sigma_min"}
    return _counted("CosineDPMSolverMultistep", {**config, **limits}, COSINE, True, predictions, x, schedule, seed)


def _constant(value: float) -> Callable[[float], float]:
    return lambda t: value


def _sa_solver() -> Iterator[Peer]:
    """Yield SA-Solver: with noise in the middle of the times (the default), without noise, and with it at all times.

    With noise, the form in noise prediction diverges; it is left out.
    """
    for tau, order in product((None, 0.0, 1.0), (1, 2, 3, 4)):
        algorithms = ("data_prediction", "noise_prediction") if tau == 0 else ("data_prediction",)
        correctors = (order, order + 1) if order < 4 else (order,)
        for algorithm, corrector, end in product(algorithms, correctors, _ends(order, zero=False)):
            form = [] if tau is None else [f"tau {tau:g}"]
            form += ["noise"] if algorithm == "noise_prediction" else []
            form += [f"corrector {corrector}"] if corrector != order else []
            config = {"algorithm_type": algorithm, "predictor_order": order, "corrector_order": corrector}
            config |= {"lower_order_final": end == LOWER}
            if tau is not None:
                config["tau_func"] = _constant(tau)
            yield Peer(
                LIBRARY,
                "SASolver",
                partial(_counted, "SASolver", config, VARIANCE_PRESERVING, True),
                ", ".join(form),
                order,
                end,
                deterministic=tau == 0,
                default=(tau, order, corrector, end) == (None, 2, 2, LOWER),
            )


def _singlestep(
    config: Mapping[str, Any], noisy: bool, predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int
) -> Tensor:
    s, labels = schedule.noise_to_signal, _labels(schedule)
    scheduler = _scheduler("DPMSolverSinglestep", final_sigmas_type="sigma_min", **config)
    _start(scheduler, s, labels)
    scheduler.order_list = scheduler.get_order_list(len(labels))
    options = _generator(x, seed) if noisy else {}
    return _follow(scheduler, VARIANCE_PRESERVING, predictions, x, schedule, s[:-1], labels, **options)


def singlestep() -> Iterator[Peer]:
    """Yield the singlestep schedulers; DPMSolverSinglestep has its stages at edges of the grid."""
    for algorithm, order in product(("dpmsolver++", "dpmsolver", "sde-dpmsolver++"), (1, 2, 3)):
        noisy = algorithm.startswith("sde")
        if noisy and order == 3:
            continue  # not implemented there
        for kind, lower in product(("midpoint", "heun") if order > 1 else ("midpoint",), (False, True)):
            if order == 1 and lower:
                continue  # the same
            yield Peer(
                LIBRARY,
                "DPMSolverSinglestep",
                partial(
                    _singlestep,
                    {
                        "algorithm_type": algorithm,
                        "solver_order": order,
                        "solver_type": kind,
                        "lower_order_final": lower,
                    },
                    noisy,
                ),
                algorithm if kind == "midpoint" else f"{algorithm}, heun",
                order,
                LOWER if lower else "",
                deterministic=not noisy,
                multiple=1 if lower else order,
                default=(algorithm, order, kind, lower) == ("dpmsolver++", 2, "midpoint", True),
            )
    twice: dict[str, Any] = {"evaluations": lambda steps: 2 * steps}
    yield Peer(LIBRARY, "Euler", partial(_counted, "EulerDiscrete", {}, KARRAS, False), default=True)
    yield Peer(LIBRARY, "EDMEuler", partial(_counted, "EDMEuler", {}, EDM, False), default=True)
    yield Peer(LIBRARY, "Heun", partial(_heun, "HeunDiscrete", KARRAS), default=True, **twice)
    yield Peer(LIBRARY, "FlowMatchHeun", partial(_heun, "FlowMatchHeunDiscrete", FLOW), default=True, **twice)
    yield Peer(LIBRARY, "KDPM2", _kdpm2, default=True, **twice)
    for order in (1, 2, 3, 4):
        run = partial(_counted, "LMSDiscrete", {}, KARRAS, False, order=order)
        yield Peer(LIBRARY, "LMS", run, order=order, default=order == 4)


def _interleaved(values: Array) -> Array:
    """Return v_0, v_1, v_1, v_2, v_2, ..."""
    return np.append(values[:1], np.repeat(values[1:], 2))


def _heun(name: str, states: States, predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run Heun's method, with evaluations at both edges of each step."""
    s = _interleaved(schedule.noise_to_signal)
    labels = np.arange(len(s) - 1, dtype=np.float64)
    scheduler = _scheduler(name)
    sigmas = s / (1 + s) if states is FLOW else s
    _start(scheduler, np.append(sigmas, 0.0), labels)
    scheduler.sample = None
    return _follow(scheduler, states, predictions, x, schedule, s[:-1], labels)


def _kdpm2(predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run DPM-Solver-2 with evaluations at the start and at the middle of each step in log s."""
    s = schedule.noise_to_signal
    middle = np.sqrt(s * np.roll(s, 1))
    scheduler = _scheduler("KDPM2Discrete")
    _start(scheduler, np.append(_interleaved(s), 0.0), np.arange(2.0 * len(s) - 2))
    scheduler.sigmas_interpol, scheduler.sample = torch.from_numpy(_interleaved(middle)), None
    evaluated = np.stack([s[:-1], middle[1:]], 1).ravel()
    return _follow(scheduler, KARRAS, predictions, x, schedule, evaluated, scheduler.timesteps.tolist())


def _kdpm2_ancestral(predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run DPM-Solver-2 down to less noise, and add the rest."""
    s = schedule.noise_to_signal
    ends = s[1:]
    up = np.append(ends * np.sqrt(1 - (ends / s[:-1]) ** 2), 0.0)
    down = np.append(np.sqrt(ends**2 - up[:-1] ** 2), 0.0)
    middle = np.sqrt(s * down)
    scheduler = _scheduler("KDPM2AncestralDiscrete")
    _start(scheduler, np.append(_interleaved(s), 0.0), np.arange(2.0 * len(s) - 2))
    tables = {"sigmas_interpol": middle, "sigmas_up": up, "sigmas_down": down}
    for name, values in tables.items():
        setattr(scheduler, name, torch.from_numpy(_interleaved(values)))
    scheduler.sample = None
    evaluated = np.stack([s[:-1], middle[:-1]], 1).ravel()
    labels = scheduler.timesteps.tolist()
    return _follow(scheduler, KARRAS, predictions, x, schedule, evaluated, labels, **_generator(x, seed))


def _dpm_sde(predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run DPM-Solver++ (SDE) with evaluations at the start and at the middle of each step in log s."""
    s = schedule.noise_to_signal
    scheduler = _scheduler("DPMSolverSDE", noise_sampler_seed=seed)
    _start(scheduler, np.append(_interleaved(s), 0.0), np.arange(2.0 * len(s) - 2))
    scheduler.sample, scheduler.mid_point_sigma, scheduler.noise_sampler = None, None, None
    evaluated = np.stack([s[:-1], np.sqrt(s[:-1] * s[1:])], 1).ravel()
    return _follow(scheduler, KARRAS, predictions, x, schedule, evaluated, scheduler.timesteps.tolist())


def _squared_scales(s: Array) -> Tensor:
    """Return 1 / (1 + s^2), the cumulative products of alphas, at ascending noise."""
    return torch.from_numpy(1 / (1 + s[::-1] ** 2))


def _tabulated(
    name: str,
    config: Mapping[str, Any],
    step: Mapping[str, Any],
    noisy: bool,
    predictions: Predictions,
    x: Tensor,
    schedule: NoiseSchedule,
    seed: int,
) -> Tensor:
    """Run DDIM or DDPM: the step i of n goes from the entry n - i of their table to the one before."""
    s = schedule.noise_to_signal
    n = len(s) - 1
    scheduler = _scheduler(name, num_train_timesteps=n + 1, clip_sample=False, **config)
    scheduler.alphas_cumprod, scheduler.timesteps = _squared_scales(s), torch.arange(n, -1, -1)
    scheduler.num_inference_steps = n + 1
    options = {**step, **(_generator(x, seed) if noisy else {})}
    return _follow(scheduler, VARIANCE_PRESERVING, predictions, x, schedule, s[:-1], range(n, 0, -1), **options)


def _cogvideox(predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run DPM-Solver++ (2M, SDE) of CogVideoX."""
    s = schedule.noise_to_signal
    n, norms = len(s) - 1, VARIANCE_PRESERVING.norm(s)
    scheduler = _scheduler("CogVideoXDPM", num_train_timesteps=n + 1, clip_sample=False)
    scheduler.alphas_cumprod, scheduler.num_inference_steps = _squared_scales(s), n + 1
    y, old, back = x / norms[0], None, None
    generator = _generator(x, seed)["generator"]
    for i, t in enumerate(range(n, 0, -1)):
        noise = predictions.noise(y * float(norms[i]), float(s[i]))
        y, old = scheduler.step(noise, old, t, back, y, generator=generator, return_dict=False)
        back = t
    return y * float(norms[-1])


def _ipndm(predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run IPNDM, whose network predicts (e - std y) / scale."""
    s = schedule.noise_to_signal
    n, norms = len(s) - 1, VARIANCE_PRESERVING.norm(s)
    scheduler = _scheduler("IPNDM", num_train_timesteps=n)
    scheduler.alphas, scheduler.betas = torch.from_numpy(1 / norms), torch.from_numpy(s / norms)
    scheduler.timesteps, scheduler.ets = torch.arange(n + 1), []
    scheduler._step_index, scheduler._begin_index = None, 0

    def output(predictions: Predictions, x: Tensor, s: float) -> Tensor:
        return float(np.sqrt(1 + s**2)) * predictions.noise(x, s) - s / float(np.sqrt(1 + s**2)) * x

    states = States(VARIANCE_PRESERVING.norm, output)
    return _follow(scheduler, states, predictions, x, schedule, s[:-1], range(n))


def _pndm(predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run PNDM: Runge-Kutta steps of four evaluations, with middles in t, then linear multistep of order 4."""
    times, n = schedule.times, len(schedule.times) - 1
    fine = np.insert(times.astype(float), np.arange(1, n + 1), (times[:-1] + times[1:]) / 2)
    s = NoiseSchedule.at(schedule.sde, fine).noise_to_signal
    scheduler = _scheduler("PNDM", num_train_timesteps=2 * n)
    scheduler.set_timesteps(n)
    scheduler.alphas_cumprod = _squared_scales(s)
    starts = [2 * n, 2 * n - 2, 2 * n - 4]
    scheduler.prk_timesteps = np.array([t for start in starts for t in (start, start - 1, start - 1, start - 2)])
    indices = [*scheduler.prk_timesteps.tolist(), *range(2 * n - 6, 0, -2)]
    return _follow(scheduler, VARIANCE_PRESERVING, predictions, x, schedule, s[2 * n - np.array(indices)], indices)


def _plms(predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run PNDM without Runge-Kutta steps: the first step has two evaluations."""
    s = schedule.noise_to_signal
    n = len(s) - 1
    scheduler = _scheduler("PNDM", num_train_timesteps=n, skip_prk_steps=True)
    scheduler.num_inference_steps, scheduler.alphas_cumprod = n, _squared_scales(s)
    scheduler.prk_timesteps = np.array([])
    indices = [n, n - 1, *range(n - 1, 0, -1)]
    return _follow(scheduler, VARIANCE_PRESERVING, predictions, x, schedule, s[n - np.array(indices)], indices)


def _score_sde_ve(predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run the predictor-corrector sampler of Song et al. (2021) for VE."""
    s = schedule.noise_to_signal
    n = len(s) - 1
    scheduler = _scheduler("ScoreSdeVe")
    scheduler.timesteps, scheduler.discrete_sigmas = torch.arange(n + 1), torch.from_numpy(s[::-1].copy())
    options = {"generator": torch.Generator().manual_seed(seed), "return_dict": False}  # it draws on the CPU
    for i in range(n):
        ratio = float(s[i])
        x = scheduler.step_correct(predictions.noise(x, ratio) / -ratio, x, **options)[0].to(x.dtype)
        fraction = (n - i + 0.5) / n  # of the table: the entry n - i
        x = scheduler.step_pred(predictions.noise(x, ratio) / -ratio, fraction, x, **options)[0].to(x.dtype)
    return x


def tabulated() -> Iterator[Peer]:
    """Yield the schedulers that read tables of the training schedule."""
    yield Peer(LIBRARY, "DDIM", partial(_tabulated, "DDIM", {}, {}, False), default=True)
    noisy: dict[str, Any] = {"deterministic": False}
    yield Peer(LIBRARY, "DDIM", partial(_tabulated, "DDIM", {}, {"eta": 1.0}, True), "eta 1", **noisy)
    for kind in ("fixed_small", "fixed_large"):
        run = partial(_tabulated, "DDPM", {"variance_type": kind}, {}, True)
        small = kind == "fixed_small"
        yield Peer(LIBRARY, "DDPM", run, "" if small else kind, default=small, **noisy)
    yield Peer(LIBRARY, "CogVideoXDPM", _cogvideox, default=True, **noisy)
    yield Peer(LIBRARY, "IPNDM", _ipndm, default=True)
    yield Peer(LIBRARY, "PNDM", _pndm, default=True, evaluations=lambda steps: steps + 9, least=3)
    yield Peer(LIBRARY, "PNDM", _plms, "skip_prk_steps", evaluations=lambda steps: steps + 1)


def stochastic() -> Iterator[Peer]:
    """Yield the other schedulers that draw noise."""
    noisy: dict[str, Any] = {"deterministic": False, "default": True}
    twice: dict[str, Any] = {"evaluations": lambda steps: 2 * steps, **noisy}
    yield Peer(LIBRARY, "EulerAncestral", partial(_counted, "EulerAncestralDiscrete", {}, KARRAS, True), **noisy)
    flow = partial(_counted, "FlowMatchEulerDiscrete", {"stochastic_sampling": True}, FLOW, True)
    yield Peer(LIBRARY, "FlowMatchEuler", flow, "stochastic", deterministic=False)
    yield Peer(LIBRARY, "LTXEulerAncestralRF", _ltx, **noisy)
    yield Peer(LIBRARY, "KDPM2Ancestral", _kdpm2_ancestral, **twice)
    yield Peer(LIBRARY, "DPMSolverSDE", _dpm_sde, **twice)
    yield Peer(LIBRARY, "ScoreSdeVe", _score_sde_ve, **twice)


def _ltx(predictions: Predictions, x: Tensor, schedule: NoiseSchedule, seed: int) -> Tensor:
    """Run the ancestral Euler steps of a rectified flow."""
    s, labels = schedule.noise_to_signal, _labels(schedule)
    scheduler = _scheduler("LTXEulerAncestralRF")
    scheduler.sigmas, scheduler.timesteps = torch.from_numpy(s / (1 + s)), torch.from_numpy(labels)
    scheduler._step_index = 0
    return _follow(scheduler, FLOW, predictions, x, schedule, s[:-1], labels, **_generator(x, seed))


NEED_TORCHSDE = ("DPMSolverSDE", "CosineDPMSolverMultistep")
"""Schedulers that draw Brownian motions of torchsde."""


def has_torchsde() -> bool:
    """Return whether torchsde is installed."""
    return find_spec("torchsde") is not None


def peers() -> list[Peer]:
    """Return the schedulers in all forms, without `NEED_TORCHSDE` if it is not installed."""
    found = [*multistep(), *singlestep(), *tabulated(), *stochastic()]
    return found if has_torchsde() else [peer for peer in found if peer.solver not in NEED_TORCHSDE]
