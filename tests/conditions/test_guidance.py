# SPDX-License-Identifier: Apache-2.0
"""Guidance by gradients: effect on samples, capture, independence of the batch, and errors."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.conditions.operators import LinearOperator
from scoresde_fast.data import load_dataset
from scoresde_fast.loop.capture import CapturedLoop
from scoresde_fast.loop.capture_safety import require_capturable
from scoresde_fast.loop.condition import Condition, RunContext, bind_all, evaluate_guided
from scoresde_fast.loop.evaluator import PlainNetwork
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.loop.run_monitor import NonFiniteError
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import VPSDE
from scoresde_fast.solvers import SolverOptions, build_table
from tests.support.conditioned_models import MEANS, SDE_OF, SHAPE, STD, TOP, Bayes, model_of, points_of
from tests.support.recorded_graphs import RecordedGraphs


@pytest.mark.parametrize("sde", SDE_OF)
def test_dps_approaches_the_measurement(sde: str) -> None:
    """DPS moves measured pixels towards the measurement, more so at a larger scale; the others do not change."""
    solver = "sscs" if sde == "cld" else "euler_maruyama"
    options: dict[str, Any] = {"seeds": range(16), "solver": solver, "steps": 100}
    measured = TOP.expand(1, *SHAPE) * 0.9
    free = sf.sample(points_of(sde), **options)
    errors = [float((free - 0.9)[:, :, :2].square().mean().sqrt())]
    for scale in (0.1, 0.3):
        samples = sf.sample(points_of(sde), condition=sf.DPS(sf.Mask(TOP), measured, scale=scale), **options)
        errors.append(float((samples - 0.9)[:, :, :2].square().mean().sqrt()))
        torch.testing.assert_close(samples[:, :, 2:], free[:, :, 2:], rtol=0, atol=1e-5)
    assert errors[0] > 1.2 * errors[1] and errors[1] > 1.5 * errors[2]


def conditions_of(kind: str) -> tuple[Condition, ...]:
    """Return conditions on three seeds, each with its own data."""
    seeds, images = [0, 1, 2], torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(3))
    classes = sf.ClassGuidance([0, 1, 1], Bayes(), scale=1.0, seeds=seeds)
    pigdm = sf.PiGDM(sf.SuperResolution(2), nn.functional.avg_pool2d(images, 2), noise=0.1, seeds=seeds)
    dps = sf.DPS(sf.Gray(), images.mean(1, keepdim=True), scale=0.1, seeds=seeds)
    projection = sf.Projection(images, TOP, seeds=seeds)
    conditions: dict[str, tuple[Condition, ...]] = {
        "classes": (classes,),
        "pigdm": (pigdm,),
        "dps": (dps,),
        "all": (classes, projection, dps, pigdm),
    }
    return conditions[kind]


KINDS = ("classes", "pigdm", "dps", "all")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sde", SDE_OF)
def test_captured(sde: str, kind: str) -> None:
    """A guided evaluation can be captured, and a replayed run equals the eager one bit for bit."""
    model = sf.GaussianMixture(SDE_OF[sde], [1.0], torch.full((1, *SHAPE), 0.5), [0.3])
    options = SolverOptions("sscs" if sde == "cld" else "pc", 24)
    table = build_table(model.sde, options)
    program = Program.of_model(model, table, "cpu")
    bound = bind_all(conditions_of(kind), RunContext(model, table, options, torch.device("cpu")))
    loop = Loop(program, AffineScore(model, table.times), StepBackends.choose("cpu"), conditions=bound)
    with torch.no_grad():
        registers = loop.registers((3, *model.state_shape))
        data = registers.data[len(bound.on_state) :]
        guide = partial(evaluate_guided, loop.evaluate, bound, registers.state, data, registers.counter)
        require_capturable(guide, "cpu")
        captured = CapturedLoop(loop, (3, *model.state_shape), RecordedGraphs())
        for ids in ([0, 1, 2], [2, 2, 1]):
            noise = Noise(0, torch.tensor(ids))
            x = model.prior(noise.normal(0, model.state_shape))
            assert torch.equal(captured.run(x, noise), loop.run(x, noise))


class AffineScore:
    """The score of Gaussian data at a row, from a table, without reading tensor values on the host."""

    def __init__(self, model: sf.GaussianMixture, times: Any) -> None:
        t = torch.from_numpy(times).clone()
        parts = model.sde.parts
        probes = torch.cat([torch.zeros(1, parts), torch.eye(parts)]).double()
        values = [
            model.score(probe.view(1, parts, 1, 1, 1).expand(1, parts, *SHAPE).reshape(1, -1, *SHAPE[1:]), time[None])
            for time in t
            for probe in probes
        ]
        table = torch.stack([value.flatten()[0] for value in values]).view(len(t), -1).float()
        self.table = torch.cat([table[:, :1], table[:, 1:] - table[:, :1]], dim=1)

    def __call__(self, x: Tensor, row: Tensor) -> Tensor:
        constant, *factors = self.table.index_select(0, row)[0].unbind()
        parts = x.chunk(len(factors), dim=1)
        return torch.stack([factor * part for factor, part in zip(factors, parts, strict=True)]).sum(0) + constant


@pytest.mark.parametrize("kind", KINDS)
def test_each_seed_has_its_own_data(kind: str) -> None:
    """Samples do not depend on batch size, order, strictness or the caller's inference mode."""
    model, conditions = model_of("vp"), conditions_of(kind)
    options: dict[str, Any] = {"solver": "euler_maruyama", "steps": 12, "condition": conditions}
    together = sf.sample(model, [0, 1, 2], **options)
    separate = sf.sample(model, [2, 1, 0], batch_size=1, **options)
    torch.testing.assert_close(separate.flip(0), together, rtol=0, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-2)
    with torch.inference_mode():
        assert torch.equal(sf.sample(model, [0, 1, 2], **options), together)
    strict = sf.Sampler(model, strict=True, **options)
    assert torch.equal(strict.sample([0, 1, 2])[[1]], strict.sample([1]))


def test_scale_and_temperature() -> None:
    """The gradient is that of scale log p^(1 / temperature), normalised, and a larger scale gives more of the class.

    The closed form holds to the rounding of coefficients to float32.  Every image of the class at the smaller scale
    is also of the class at the larger scale.
    """
    classifier, model = Bayes(is_image=False), model_of("vp", is_image=False)
    options = SolverOptions("euler_maruyama", 50)
    table = build_table(model.sde, options)
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    for row in (0, 25):
        factor, noise = map(float, VPSDE().marginal(table.times[row]))
        variance = (noise / factor) ** 2 + STD**2
        slope = (MEANS[1] - MEANS[0]) / variance / factor  # of the log odds of "bright", in every element
        log_odds = slope * (x.detach() - factor * sum(MEANS) / 2).sum((1, 2, 3), keepdim=True)
        for scale, temperature in ((0.2, 1.0), (0.1, 0.5), (3.0, 2.0)):
            condition = sf.ClassGuidance("bright", classifier, scale=scale, temperature=temperature)
            bound = condition.bind(RunContext(model, table, options, torch.device("cpu")))
            log_p = bound.log_likelihood(x, x, bound.data(torch.arange(4)), torch.tensor([row]))
            (gradient,) = torch.autograd.grad(log_p.sum(), x)
            exact = scale / temperature * slope * torch.sigmoid(-log_odds / temperature)
            torch.testing.assert_close(gradient, exact.expand_as(x), rtol=1e-6, atol=0)
    conditions = (sf.ClassGuidance("bright", classifier, scale=scale) for scale in (0.02, 0.2))
    samples = [sf.sample(model, range(64), condition=each, solver="em", steps=50) for each in conditions]
    bright_small, bright_large = (images.mean((1, 2, 3)) > 0.5 for images in samples)
    assert bright_large.sum() > bright_small.sum() and not (bright_small & ~bright_large).any()


DIGITS = {"solver": "sa", "grid": "logsnr", "steps": 20}


@pytest.mark.parametrize("name", ["digits-vp", "digits-cld"])
def test_trained_network(name: str) -> None:
    """Twenty steps restore digits from noisy means over 2x2 pixels, with errors below the noise."""
    model, images = sf.load(name), load_dataset("digits", "test")[0][:8].float() / 255
    options: dict[str, Any] = DIGITS if name == "digits-vp" else {"solver": "sscs", "grid": "quadratic", "steps": 25}
    operator = sf.SuperResolution(2)
    exact = operator.apply(images)
    measured = exact + 0.05 * torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    restored = sf.restore(model, operator, measured, noise=0.05, samples=2, **options)
    error = (restored - images.repeat_interleave(2, 0)).square().mean().sqrt()
    assert error < 0.05 < (nn.functional.interpolate(measured, scale_factor=2) - images).square().mean().sqrt()


def test_guidance_is_limited() -> None:
    """However large the residual, guidance moves x0_hat by at most two standard deviations of the data."""
    model, operator = model_of("vp", is_image=False), sf.Mask(torch.ones(4, 4))
    options = SolverOptions("euler_maruyama", 10)
    table = build_table(model.sde, options)
    condition = sf.PiGDM(operator, torch.full((1, *SHAPE), 1e3), data_std=0.5)
    run = RunContext(model, table, options, torch.device("cpu"))
    bound = bind_all((condition,), run)
    x, counter = torch.randn(2, *SHAPE), torch.zeros(1, dtype=torch.int64)
    data = condition.bind(run).data(torch.arange(2))
    evaluate = PlainNetwork(model.network, torch.from_numpy(table.times).float())
    with torch.no_grad():
        free = evaluate(x, counter)
        guided = evaluate_guided(evaluate, bound, x, [data], counter).output
    moved = model.sde.denoised(table.times[:1]).score[0] * (guided - free)
    torch.testing.assert_close(moved.square().mean((1, 2, 3)).sqrt(), torch.full((2,), 1.0), rtol=1e-3, atol=0)


def test_network_gradient_is_not_compiled() -> None:
    """Inductor overwrites buffers that the gradient needs, so the run falls back to eager mode with a warning."""
    options: dict[str, Any] = {**DIGITS, "steps": 2}
    model, operator = sf.load("digits-vp"), sf.Gray()
    condition = sf.PiGDM(operator, torch.full((1, 1, 16, 16), 0.3), noise=0.1)
    plain = sf.sample(model, [1], condition=condition, compile=False, **options)
    with pytest.warns(RuntimeWarning, match="is not compiled"):
        compiled = sf.sample(model, [1], condition=condition, compile=True, **options)
    assert torch.equal(plain, compiled)


class Broken(nn.Module):
    """A classifier with NaN gradients near the end of a run."""

    classes, image_shape, low, high = ("dark", "bright"), SHAPE, 1e-3, 1e3

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        root = torch.sqrt(torch.where(noise[:, None, None, None] < 0.5, 0 * x, x * x + 1))
        return root.flatten(1)[:, :2].log_softmax(1)


def test_nan_gradients() -> None:
    """The message says that the gradients, not the network's outputs, are not finite, and names the step."""
    with pytest.raises(NonFiniteError, match=r"the guidance gradients are not finite after step \d+"):
        sf.sample(model_of("vp"), classes=[0], classifier=cast(Any, Broken()), solver="euler_maruyama", steps=50)


class Wrong(LinearOperator):
    """An operator with a wrong adjoint."""

    def apply(self, images: Tensor) -> Tensor:
        return images.cumsum(-1)

    def adjoint(self, measured: Tensor) -> Tensor:
        return measured.cumsum(-1)

    def pseudo_inverse(self, measured: Tensor) -> Tensor:
        return measured.diff(dim=-1, prepend=torch.zeros_like(measured[..., :1]))


GRAY = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
REFUSED: dict[str, tuple[str, Any]] = {
    "unknown class": ("unknown class 'bight' - did you mean 'bright'", {"classes": ["bight"], "classifier": Bayes()}),
    "class number": ("unknown class '2'", {"classes": [2], "classifier": Bayes()}),
    "classes and seeds": ("3 seeds and 1 classes", {"classes": [1], "seeds": [1, 2, 3], "classifier": Bayes()}),
    "no classifier": ("classes need a classifier", {"classes": [1]}),
    "no classes": ("a classifier is given without classes", {"seeds": [1], "classifier": Bayes()}),
    "no seeds": ("there are no seeds", {}),
    "no such classifier": ("unknown classifier 'digits'", {"classes": [1], "classifier": "digits"}),
    "no measurement of a seed": ("seed 4 has no measurement", {"seeds": [4], "condition": "two"}),
    "no seeds of measurements": ("there are 2 measurements: pass the seeds", lambda: sf.PiGDM(sf.Gray(), GRAY)),
    "shape": (r"measured has shape \(1, 3, 4, 4\).*returns \(K, 1, 4, 4\)", {"seeds": [0], "condition": "colour"}),
    "not finite": ("measured contains NaN", lambda: sf.DPS(sf.Gray(), GRAY[:1] / 0)),
    "scale": ("scale is 0", lambda: sf.DPS(sf.Gray(), GRAY[:1], scale=0)),
    "noise": ("noise is -1", lambda: sf.PiGDM(sf.Gray(), GRAY[:1], noise=-1)),
    "data_std": ("data_std is 0", lambda: sf.PiGDM(sf.Gray(), GRAY[:1], data_std=0.0)),
    "temperature": ("temperature is 0", lambda: sf.ClassGuidance(0, Bayes(), temperature=0)),
    "none": ("there are no classes", lambda: sf.ClassGuidance([], Bayes())),
    "adjoint": ("adjoint", {"seeds": [0], "condition": "wrong"}),
    "method": ("unknown method 'dsp'", lambda: sf.restore(model_of("vp"), sf.Gray(), GRAY, method="dsp")),  # type: ignore[arg-type]  # the mistake under test
    "adaptive": ("takes no condition", {"classes": [1], "classifier": Bayes(), "solver": "ggf", "steps": None}),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input(case: str) -> None:
    """The error names the value and what is allowed."""
    message, call_or_options = REFUSED[case]
    conditions = {
        "two": lambda: sf.PiGDM(sf.Gray(), GRAY, seeds=[1, 2]),
        "colour": lambda: sf.PiGDM(sf.Gray(), torch.zeros(1, *SHAPE)),
        "wrong": lambda: sf.PiGDM(Wrong(), torch.zeros(1, *SHAPE)),
    }
    with pytest.raises(ValueError, match=message):
        if callable(call_or_options):
            call_or_options()
        else:
            options = {"solver": "euler_maruyama", "steps": 2, **call_or_options}
            condition = conditions[options["condition"]]() if "condition" in options else None
            sf.sample(model_of("vp"), **{**options, "condition": condition})


def test_unsuitable_classifier() -> None:
    """A classifier trained for less noise, or for another image shape, is refused."""
    low_noise = Bayes(high=2.0)
    with pytest.raises(ValueError, match=r"from 0\.001 to 2, but the noise of the model's SDE 'vesde' reaches 100"):
        sf.sample(model_of("ve"), classes=[0], classifier=low_noise, steps=5)
    with pytest.raises(ValueError, match=r"images of shape \(3, 4, 4\), but the model's have \(1, 4, 4\)"):
        sf.sample(model_of("ve", (1, 4, 4)), classes=[0], classifier=Bayes(), steps=5)


def test_describe() -> None:
    """A description changes with the class, the measurement, the operator and the scale."""
    measured = torch.full((1, 1, 4, 4), 0.5)
    conditions: list[Condition] = [
        sf.ClassGuidance(0, Bayes()),
        sf.ClassGuidance(1, Bayes()),
        sf.ClassGuidance(1, Bayes(), scale=2.0),
        sf.PiGDM(sf.Gray(), measured),
        sf.PiGDM(sf.Gray(), measured / 2),
        sf.PiGDM(sf.Gray(), measured, noise=0.1),
        sf.DPS(sf.Gray(), measured),
        sf.DPS(sf.Gray(), measured, scale=0.5),
        sf.PiGDM(sf.Mask(TOP), measured),
        sf.PiGDM(sf.Mask(1 - TOP), measured),
    ]
    descriptions = [repr(condition.describe()) for condition in conditions]
    assert len(set(descriptions)) == len(descriptions)
