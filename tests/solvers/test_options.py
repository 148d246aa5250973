# SPDX-License-Identifier: Apache-2.0
"""Option dataclasses define the keywords of `Sampler`, the command line and `describe`."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, fields
from inspect import getdoc, signature
from typing import Any

import pytest
import tyro

import scoresde_fast as sf
from scoresde_fast.cli import PARSING
from scoresde_fast.cli.options import OF_FILES, RunGroup, SolverGroup, ToleranceGroup, given, optional
from scoresde_fast.cli.sample import Sample
from scoresde_fast.flow.options import ADAPTIVE, AdaptiveOptions
from scoresde_fast.run_options import RunOptions
from scoresde_fast.sdes import CLDSDE, VPSDE
from scoresde_fast.solver_choice import described_options
from scoresde_fast.solvers import GRIDS, SOLVERS, SolverOptions
from scoresde_fast.solvers.correctors import CORRECTORS
from scoresde_fast.solvers.registry import solver

pytestmark = pytest.mark.same_everywhere

OPTIONS = (SolverOptions, AdaptiveOptions, RunOptions)


@pytest.fixture(scope="module")
def model() -> sf.GaussianMixture:
    return sf.GaussianMixture.gaussian(VPSDE(), 0.2, 0.5, (1, 2, 2))


def names(options: type) -> list[str]:
    return [field.name for field in fields(options)]


class TestSampler:
    @pytest.mark.parametrize(
        "options",
        [SolverOptions("sa", 6, order=1, eta=0.5, restart=((0.1, 0.3, 1, 2),)), AdaptiveOptions("rk45", 1e-2, 1e-2)],
        ids=["fixed steps", "steps by tolerances"],
    )
    def test_one_object_or_keywords(self, model: sf.GaussianMixture, options: Any) -> None:
        """An options object and keywords give the same sampler, and `describe` records every option."""
        whole, named = sf.Sampler(model, options), sf.Sampler(model, **asdict(options))
        assert whole.describe() == named.describe()
        described = described_options(whole.describe())
        assert asdict(whole.options).items() <= described.items()
        assert sf.Sampler(model, **described).describe() == whole.describe()

    @pytest.mark.parametrize(
        ("arguments", "options", "error", "sentence"),
        [
            ((SolverOptions("ddim", 9), 10), {}, ValueError, "steps is passed in addition to SolverOptions"),
            ((SolverOptions("ddim", 9),), {"eta": 0.5}, ValueError, "eta is passed in addition to SolverOptions"),
            ((SolverOptions("rk45"),), {}, ValueError, "solver 'rk45' takes AdaptiveOptions, not SolverOptions"),
            ((AdaptiveOptions("ddim"),), {}, ValueError, "solver 'ddim' takes SolverOptions, not AdaptiveOptions"),
            (("ddim",), {"flow": True}, TypeError, "option 'flow' is now called 'probability_flow'"),
            (("sscs",), {"parity": True}, TypeError, "option 'parity' is now called 'original'"),
            (("ddim",), {"stesp": 4}, TypeError, "unknown option 'stesp' - did you mean 'steps'"),
            (("ddim", 9), {"eps": 2.0}, ValueError, "eps is 2.0"),
            (("pc", 9), {"langevin_norm": "all"}, ValueError, "unknown langevin_norm 'all'"),
        ],
    )
    def test_refusals(
        self, model: sf.GaussianMixture, arguments: tuple[Any, ...], options: Any, error: Any, sentence: str
    ) -> None:
        """The message has the name, the value and the fix."""
        with pytest.raises(error, match=sentence):
            sf.Sampler(model, *arguments, **options)

    def test_older_descriptions_are_read(self, model: sf.GaussianMixture) -> None:
        """Descriptions keep the keys from before options were renamed, so that older sets can be resumed."""
        described = sf.Sampler(model, "em", 5, probability_flow=True).describe()
        assert (described["flow"], described["parity"]) == (True, False)
        assert not {"probability_flow", "original"} & described.keys()
        assert sf.Sampler(model, **described_options(described)).describe() == described

    def test_completion_shows_every_option(self) -> None:
        """The signature shown by ``help`` and editors has all options as keywords."""
        shown = signature(sf.Sampler).parameters
        own = {"model", "condition", "inputs", "guidance"}
        assert set(shown) == {*own, *(name for options in OPTIONS for name in names(options))}
        assert shown["batch_size"].default == 64 and shown["snr"].default is None


class TestSolvers:
    def test_options_are_fields(self) -> None:
        """Every option of a solver's function is a field of `SolverOptions`."""
        for entry in SOLVERS.values():
            assert set(entry.options) <= set(names(SolverOptions)), entry.name

    def test_keywords_of_a_solver_are_its_options(self, model: sf.GaussianMixture) -> None:
        """A keyword with a default is an option of the solver; other solvers refuse it."""
        seen: list[float] = []

        @solver("option_taker", sdes=(VPSDE,), probability_flow=True, source="this test")
        def option_taker(sde: Any, grid: Any, *, probability_flow: bool, churn: float = 0.25) -> Any:
            seen.append(churn)
            return SOLVERS["ddim"].fill(sde, grid, probability_flow=probability_flow, eta=0.0)

        try:
            sf.Sampler(model, "option_taker", 5)
            sf.Sampler(model, "option_taker", 5, churn=0.75)
            assert seen == [0.25, 0.75]
            with pytest.raises(ValueError, match=r"solver 'option_taker' has no such option: .* choose .*ddim"):
                sf.Sampler(model, "option_taker", 5, eta=0.5)
        finally:
            SOLVERS.pop("option_taker")

    def test_an_option_needs_a_default(self) -> None:
        """A solver is refused if an option has no default or a former name."""
        with pytest.raises(TypeError, match="solver 'none' has the option 'eta' without a default; add one"):

            @solver("none", sdes=(CLDSDE,), probability_flow=False, source="this test")
            def fill(sde: Any, grid: Any, *, probability_flow: bool, eta: float) -> Any: ...

        with pytest.raises(TypeError, match="solver 'none': 'flow' is now called 'probability_flow'"):

            @solver("none", sdes=(CLDSDE,), probability_flow=False, source="this test")
            def former(sde: Any, grid: Any, *, flow: bool) -> Any: ...

        assert "none" not in SOLVERS


class TestCommandLine:
    def test_groups_are_the_dataclasses(self) -> None:
        """Groups have the fields of the dataclasses in order; the group of tolerances has those of adaptive solvers."""
        assert names(SolverGroup) == [name for name in names(SolverOptions) if name not in OF_FILES]
        assert names(RunGroup) == names(RunOptions)
        assert names(ToleranceGroup) == ["rtol", "atol", "error_norm"]

    @pytest.mark.parametrize("options", OPTIONS)
    def test_every_option_is_documented(self, options: type, capsys: pytest.CaptureFixture[str]) -> None:
        """The help of an option is its entry in the docstring."""
        with pytest.raises(SystemExit):
            tyro.cli(optional(options), args=["--help"], config=PARSING)
        printed = "".join(capsys.readouterr().out.replace("│", " ").split())
        # Python 3.13 takes the indentation out of docstrings.
        documentation = getdoc(options)
        assert documentation is not None
        sections = documentation.split("Attributes:")[1].split("Raises:")[0]
        for name in names(options):
            assert f"--{name.replace('_', '-')}" in printed
            description = sections.split(f"\n    {name}: ")[1].splitlines()[0]
            assert description.replace(" ", "") in printed

    @pytest.mark.parametrize(
        ("option", "registered"),
        [("solver", [*SOLVERS, *ADAPTIVE]), ("grid", GRIDS), ("corrector", CORRECTORS)],
        ids=["solver", "grid", "corrector"],
    )
    def test_help_lists_every_name(self, option: str, registered: Collection[str]) -> None:
        """The help of ``--solver``, ``--grid`` and ``--corrector`` names everything that is registered."""
        entry = re.search(rf"\n    {option}: (.*?)\n    \w+: ", getdoc(SolverOptions) or "", re.DOTALL)
        assert entry is not None and set(registered) <= set(re.findall(r"\w+", entry[1]))

    def test_only_given_options_are_passed(self) -> None:
        """Options that are not on the command line are left out; a flag can be turned off."""
        words = (
            "m --no-denoise --probability-flow --eta 0 --restart 0.1:0.3:2:5 --rtol 1e-3 --no-compile --batch-size auto"
        )
        command = tyro.cli(Sample, args=words.split(), config=PARSING)
        assert given(command.solver) == {
            "probability_flow": True,
            "denoise": False,
            "eta": 0.0,
            "restart": "0.1:0.3:2:5",
        }
        assert given(command.tolerance) == {"rtol": 1e-3}
        assert given(command.computing) == {"compile": False, "batch_size": "auto"}
        assert command.options()["device"] == "cpu"
