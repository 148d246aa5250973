# SPDX-License-Identifier: Apache-2.0
"""Tests of the solvers of other libraries: equal to ours where they are the same method, fair, and marked as theirs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import scoresde_fast as sf
from scoresde_fast.bench import measures
from scoresde_fast.bench.candidates import Case, ComparisonOptions, prepare_fixed_step
from scoresde_fast.bench.measures import mixture
from scoresde_fast.bench.peers import cases, diffusers
from scoresde_fast.bench.peers.cases import PEER_GRIDS, PeerCase, all_peers, missing, peer_cases, peers, prepare
from scoresde_fast.bench.peers.diffusers import EULER, LOWER
from scoresde_fast.bench.peers.method import Peer, Trace
from scoresde_fast.bench.peers.predictions import ModelPredictions
from scoresde_fast.bench.ranking import MeasuredCase, rank
from scoresde_fast.bench.results import Comparison
from scoresde_fast.cli import main
from scoresde_fast.mixture import GaussianMixture
from scoresde_fast.model import ScoreFunction
from scoresde_fast.noise import Noise
from scoresde_fast.sdes import EDM, VESDE, VPSDE, Betas, RectifiedFlow, ScalarSDE, SubVPSDE
from scoresde_fast.solvers import GRIDS
from tests.bench.test_comparison import PEERS
from tests.support.candidates import SMALL

needs_diffusers = pytest.mark.skipif(bool(missing("diffusers")), reason="diffusers is not installed")
needs_k_diffusion = pytest.mark.skipif(bool(missing("k-diffusion")), reason="k-diffusion is not installed")
pytestmark = needs_diffusers

EQUAL: list[tuple[str, str, dict[str, Any]]] = [
    ("diffusers DDIM", "ddim", {}),
    ("diffusers Euler", "ddim", {}),
    ("diffusers FlowMatchHeun", "heun", {"sde": RectifiedFlow()}),
    ("diffusers Heun", "heun", {}),
    ("diffusers DPMSolverMultistep, dpmsolver++ (order 2)", "dpmpp_2m", {}),
    ("diffusers EDMDPMSolverMultistep, dpmsolver++ (order 2)", "dpmpp_2m", {}),
    ("diffusers DPMSolverMultistep, dpmsolver (order 2)", "dpm_2m", {}),
    ("diffusers UniPC, bh2 (order 3)", "unipc", {"order": 3}),
    ("diffusers UniPC, bh1, noise (order 2)", "unipc", {"order": 2, "variant": "bh1", "prediction": "noise"}),
    ("diffusers DEIS (order 3)", "deis", {"order": 3, "variable": "log_rho"}),
    ("diffusers PNDM", "pndm", {}),
    ("k-diffusion euler", "ddim", {}),
    ("k-diffusion heun", "heun", {}),
    ("k-diffusion dpmpp_2m", "dpmpp_2m", {}),
    ("k-diffusion dpmpp_2s_ancestral, eta 0", "dpmpp_2s", {}),
]
"""Their solver, and ours with its options that is the same method, on one SDE, or on VE, VP and sub-VP."""


def by_name() -> dict[str, Peer]:
    """Return the installed peers by their names with order and end."""
    return {str(peer): peer for peer in all_peers()}


def peer_named(name: str) -> Peer:
    """Return a peer, or skip the test if its library is not installed."""
    if name not in by_name():
        pytest.skip(f"{name} is not installed")
    return by_name()[name]


def gaussian(sde: ScalarSDE) -> GaussianMixture:
    """Return two broad Gaussians with an exact score."""
    means = torch.tensor([-0.4, 0.5], dtype=torch.float64).view(-1, 1, 1, 1)
    return GaussianMixture(sde, [0.4, 0.6], means, [0.35, 0.4], is_image=False)


def test_names_are_unique() -> None:
    """No two peers have the same name, and each solver has one default form."""
    found = all_peers()
    assert len(by_name()) == len(found) > 150
    defaults = [peer.full_solver for peer in found if peer.default]
    assert len(set(defaults)) == len(defaults)
    assert {peer.full_solver for peer in found} - set(defaults) <= {"diffusers FlowMatchEuler"}


@pytest.mark.parametrize(("name", "solver", "options"), EQUAL, ids=[name for name, *_ in EQUAL])
def test_same_as_ours(name: str, solver: str, options: dict[str, Any]) -> None:
    """A peer and our solver of the same method have the same solution and the same samples to 1e-4."""
    peer, budget = peer_named(name), ComparisonOptions(budgets=(24,), batch_size=20)
    options = dict(options)
    sdes: list[ScalarSDE] = [options.pop("sde")] if "sde" in options else [VESDE(), VPSDE(), SubVPSDE()]
    for model in map(gaussian, sdes):
        theirs = prepare(model, budget, peer, "quadratic", 24)
        case = Case(
            solver, solver, True, order=options.get("order"), grid="quadratic", budget=24,
            options={key: value for key, value in options.items() if key != "order"},
        )  # fmt: skip
        ours = prepare_fixed_step(model, budget, case)
        assert (theirs.nfe, theirs.steps) == (ours.nfe, ours.steps)
        seeds = range(50)
        assert theirs.flow_end is not None and ours.flow_end is not None
        for got, expected in (
            (theirs.flow_end(seeds), ours.flow_end(seeds)),
            (theirs.draw(seeds).samples, ours.draw(seeds).samples),
        ):
            assert (got - expected).abs().max() < 1e-4, model.sde


def test_same_as_ours_with_a_network() -> None:
    """The folded network gives the same images to 1e-4, also if the batches are others."""
    model, options = sf.load("digits-vp"), ComparisonOptions(budgets=(6,), batch_size=3)
    theirs = prepare(model, options, peer_named("diffusers DPMSolverMultistep, dpmsolver++ (order 2)"), "logsnr", 6)
    ours = prepare_fixed_step(model, options, Case("dpmpp_2m", "dpmpp_2m", True, grid="logsnr", budget=6))
    got, expected = theirs.draw(range(4)), ours.draw(range(4))
    assert got.nfe == expected.nfe == 6
    assert (got.samples - expected.samples).abs().max() < 1e-4 and expected.samples.std() > 0.1


def start(model: ScoreFunction, count: int) -> Tensor:
    """Return priors of the first seeds in float64."""
    return model.prior(Noise(0, torch.arange(count)).normal(0, model.state_shape)).double()


def test_deterministic_peers_converge() -> None:
    """With 50 evaluations, every deterministic peer is close to the flow, and closer if its order is above 1."""
    sde, model = VPSDE(), gaussian(VPSDE())
    predictions, x = ModelPredictions(model), start(model, 16)
    truth = measures.solve(model, x, measures.CLASSICAL_4, 128)
    errors: dict[str, float] = {}
    for case in peer_cases(sde, 50, grids=("logsnr",)):
        predictions.know(case.schedule)
        assert 50 - 3 < case.evaluations <= 50
        errors[str(case.peer)] = float((case.end(predictions, x) - truth).square().mean().sqrt())
    first_order = {name for name in errors if name.endswith(("(order 1)", "Euler", "euler", "DDIM"))}
    assert len(errors) > 100 and max(errors.values()) < 0.03
    assert not {name: error for name, error in errors.items() if error > 0.011 and name not in first_order}


def test_stochastic_peers_sample_the_data() -> None:
    """The samples of every stochastic peer have the mean and the standard deviation of the data."""
    model = gaussian(VESDE())
    predictions, x = ModelPredictions(model), start(model, 4000).float()
    mean, std = 0.14, (0.4 * 0.35**2 + 0.6 * 0.4**2 + 0.24 * 0.9**2) ** 0.5
    found = [peer for peer in all_peers() if peer.default and not peer.deterministic]
    for case in peer_cases(VESDE(), 60, peers=found, grids=("karras",)):
        predictions.know(case.schedule)
        end = case.end(predictions, x, seed=1)
        assert abs(float(end.mean()) - mean) < 0.04 and abs(float(end.std()) - std) < 0.04, case
    found = [peer for peer in all_peers() if not peer.deterministic]
    for case in peer_cases(VESDE(), 8, peers=found, grids=("karras",)):
        one, same, other = (case.end(predictions, x[:2], seed=seed) for seed in (1, 1, 2))
        assert torch.equal(one, same) and not torch.equal(one, other), f"{case} does not draw the noise of its seed"


@pytest.mark.parametrize("sde", [EDM(), Betas.linear(), RectifiedFlow()], ids=lambda sde: sde.name)
def test_other_schedules(sde: ScalarSDE) -> None:
    """The default forms run on every scalar SDE, and on each of the grids."""
    model = gaussian(sde)
    predictions, x = ModelPredictions(model), start(model, 8)
    chosen = [peer for peer in all_peers() if peer.default]
    for grid in PEER_GRIDS:
        for case in peer_cases(sde, 14, peers=chosen, grids=(grid,)):
            assert case.end(predictions, x).isfinite().all(), case


def test_no_side_effects() -> None:
    """Runs leave the global generator alone."""
    model, state = gaussian(VPSDE()), torch.get_rng_state()
    for case in peer_cases(VPSDE(), 8, peers=all_peers(), grids=("karras",)):
        case.end(ModelPredictions(model), start(model, 2))
    assert torch.equal(state, torch.get_rng_state())


def test_equal_forms_have_equal_digests() -> None:
    """Ends of the same effect share a measurement: from 15 steps on diffusers ignores lower_order_final."""
    name = "diffusers DPMSolverMultistep, dpmsolver++ (order 2{})"
    forms = [peer_named(name.format(end)) for end in ("", f", {LOWER}", f", {EULER}")]
    for steps, different in ((10, 2), (20, 2)):
        schedule = next(peer_cases(VPSDE(), steps, peers=forms)).schedule
        digests = [Trace.of(peer, schedule).digest for peer in forms]
        assert len(set(digests)) == different
        assert digests[1] == digests[2 if steps < 15 else 0]


def test_candidates_use_up_their_budgets() -> None:
    """Each candidate takes as many steps as its budget allows, and one that cannot run gives the reason."""
    model, options = mixture("mixture-vp"), ComparisonOptions(budgets=(4, 14), grids=("karras",), peers=True)
    ready = set()
    for candidate in peers(model, options):
        case = candidate.case
        assert case.budget is not None and case.library in ("diffusers", "k-diffusion")
        assert str(case).startswith(case.library)
        try:
            prepared = candidate.prepare()
        except ValueError as error:
            assert "the budget is too small" in str(error) or "budget 4" in str(error)
            continue
        ready.add(case.solver)
        assert prepared.steps is not None and case.budget - 3 <= prepared.nfe <= case.budget
        assert (prepared.flow_end is not None) == case.probability_flow
    assert ready == {peer.full_solver for peer in all_peers()}


def test_selection() -> None:
    """Without variants each solver has its default form on the suited grid; without ``peers`` there are none."""
    model, options = mixture("mixture-vp"), ComparisonOptions(budgets=(10,), variants=False)
    assert list(peers(model, options)) == []
    some = list(peers(model, replace(options, peers=True)))
    assert len({candidate.case.solver for candidate in some}) == len(some) > 15
    assert {candidate.case.grid for candidate in some} <= {"quadratic", "logsnr"}
    every = list(peers(model, replace(options, peers=True, variants=True)))
    assert {candidate.case.grid for candidate in every} > {"karras", "beta", *PEER_GRIDS}
    assert {candidate.case.grid for candidate in every} <= {*GRIDS, *PEER_GRIDS}


def test_guidance_and_inputs() -> None:
    """A guided evaluation counts as two, as for our solvers, and the classes are those of the seeds."""

    class Network(torch.nn.Module):
        def forward(self, x: Tensor, index: Tensor, y: Tensor) -> Tensor:
            return 0.1 * x + 0.01 * y.view(-1, 1, 1, 1)

    model = sf.wrap(Network(), Betas.linear(), prediction="epsilon", shape=(1, 2, 2))
    guidance = sf.ClassifierFreeGuidance(scale=1.5, null={"y": 10}, interval=(0.1, 1.0))
    options = ComparisonOptions(budgets=(12,), batch_size=4, inputs={"y": torch.arange(10)}, guidance=guidance)
    theirs = prepare(model, options, peer_named("diffusers DDIM"), "quadratic", 12)
    ours = prepare_fixed_step(model, options, Case("ddim", "ddim", True, grid="quadratic", budget=12))
    assert theirs.steps is not None and theirs.steps + 1 < theirs.nfe <= 12
    assert (theirs.nfe, theirs.steps) == (ours.nfe, ours.steps)
    assert (theirs.draw(range(6)).samples - ours.draw(range(6)).samples).abs().max() < 1e-4


def test_comparison_with_peers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command measures them, names their versions, marks them on the page, and measures none twice."""
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(measures, "STEPS", 16)
    out, html = tmp_path / "x.json", tmp_path / "x.html"
    command = ["bench", "solvers", "mixture-vp", "--peers", "--no-variants", "--nfe", "6", "--samples", "100"]
    command += ["--solvers", "ddim", "dpmpp_2m", "--no-timing", "--out", str(out), "--html", str(html)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Smallest distance of other libraries' solvers" in printed
    assert "Smallest error to the converged flow of other libraries' solvers" in printed
    result = json.loads(out.read_text())
    assert result["device"]["versions"]["diffusers"] == cases.library_versions()["diffusers"]
    lines = {line["name"]: line for line in result["lines"]}
    assert {"ddim", "dpmpp_2m", "diffusers DDIM", "diffusers UniPC, bh2"} <= lines.keys()
    assert lines["diffusers UniPC, bh2"]["options"] == {"end": LOWER}
    assert lines["diffusers DDIM"]["quality"] == pytest.approx(lines["ddim"]["quality"], rel=1e-3)
    assert lines["diffusers DDIM"]["flow_error"] == pytest.approx(lines["ddim"]["flow_error"], rel=1e-3)
    assert lines["diffusers EulerAncestral"]["flow_error"] is None
    page = html.read_text()
    assert '<tr class="peer"><td>diffusers DDIM</td>' in page and "those of\nother libraries dotted" in page
    assert f"lower_order_final, {lines['diffusers UniPC, bh2']['nfe']:.4g} NFE" in page
    assert any("Their noise comes from PyTorch's generators" in note for note in result["notes"])
    assert main(command) == 0
    assert " NFE, " not in capsys.readouterr().out, "a second call must not measure again"


def found_without(absent: tuple[str, ...], name: str) -> object | None:
    """Return a stand-in for ``find_spec`` of a machine without the packages ``absent``."""
    return None if name in absent else name


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that makes packages appear as not installed."""

    def hide(*absent: str) -> None:
        for module in (cases, diffusers):
            monkeypatch.setattr(module, "find_spec", partial(found_without, absent))

    yield hide


def test_without_the_libraries(without: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Without both libraries, one sentence names the command that installs them, before anything is measured."""
    without("diffusers", "k_diffusion", "torchsde")
    assert main(["bench", "solvers", "mixture-vp", "--peers"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert "pip install 'scoresde-fast[peers]', then pip install --no-deps k-diffusion" in printed.err


def test_one_missing_library_is_named(without: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """If a part is missing, the others take part, and the output and the notes say why it does not."""
    from scoresde_fast.bench.comparison import compare

    without("k_diffusion")
    assert cases.absence_notes() == [
        "k-diffusion does not take part, because k_diffusion is missing: pip install --no-deps k-diffusion."
    ]
    without("k_diffusion", "torchsde", "torchdiffeq")
    options = replace(SMALL, peers=True, variants=False, samples=50, timing_seconds=0, budgets=(5,))
    result: Comparison = compare("mixture-ve", options)
    names = {line.name for line in result.lines}
    assert "diffusers DDIM" in names and not any("k-diffusion" in name or "DPMSolverSDE" in name for name in names)
    printed = capsys.readouterr().out
    for text in (
        "k-diffusion does not take part, because k_diffusion, torchsde, torchdiffeq are missing: pip install "
        "'scoresde-fast[peers]'.",
        "DPMSolverSDE and CosineDPMSolverMultistep of diffusers do not take part, because torchsde is missing: ",
    ):
        assert text in printed and any(text in note for note in result.notes)


def test_mixtures_of_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    """No peer runs on CLD."""
    assert main(["bench", "solvers", "mixture-cld", "--peers"]) == 2
    assert "no solver of another library runs on the SDE 'cld'; leave out --peers" in capsys.readouterr().err


@needs_k_diffusion
def test_k_diffusion_is_loaded_alone() -> None:
    """The samplers are loaded without the package around them, whose imports are many."""
    import sys

    from scoresde_fast.bench.peers.k_diffusion import PACKAGE, sampling

    assert sampling().sample_dpmpp_2m.__module__ != f"{PACKAGE}.sampling" and PACKAGE not in sys.modules


def test_ranking_compares_with_peers() -> None:
    """Sentences give the best of other libraries as a multiple of ours, for the distance and for the flow's error."""

    def case(solver: str, nfe: int, quality: float, flow_error: float | None) -> MeasuredCase:
        return MeasuredCase(
            solver, solver, True, budget=nfe, digest="", nfe=nfe, quality=quality, standard_error=0.01,
            half_differences=[0.02, -0.02], flow_error=flow_error,
        )  # fmt: skip

    ours, theirs = case("ddim", 10, 0.5, 0.2), case("diffusers DDIM", 10, 1.0, 0.1)
    sentences = rank([ours, theirs], (5, 10)).sentences
    text = "of other libraries' solvers, as a multiple of the smallest of this package's:"
    assert sentences[-2:] == [
        f"Smallest distance {text} 2 (at most 10 NFE: diffusers DDIM).",
        f"Smallest error to the converged flow {text} 0.5 (at most 10 NFE: diffusers DDIM).",
    ]
    assert not any("other libraries" in sentence for sentence in rank([ours], (5, 10)).sentences)


def test_the_example_of_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    """The block of the page finds the solvers that are closest to the flow."""
    exec(compile(PEERS, "page", "exec"), {"__name__": "page"})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all("karras, 10 steps" in line for line in lines)


def test_description() -> None:
    """A case names solver, form, order, end, grid and number of steps."""
    case = next(peer_cases(VPSDE(), 9, peers=[peer_named("diffusers UniPC, bh2 (order 3, lower_order_final)")]))
    assert isinstance(case, PeerCase) and str(case).endswith("(order 3, lower_order_final), uniform, 9 steps")
