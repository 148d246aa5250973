# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast bench``: sampling speed against plain and tuned PyTorch; ``bench solvers``: comparison of solvers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from scoresde_fast.cli.evaluate import ExtractorOptions, ReferenceHelp
from scoresde_fast.cli.network_inputs import NetworkInputOptions
from scoresde_fast.cli.options import NO_DEFAULT, OWN_MODEL, Device, Flag, LoadingOptions, Threads
from scoresde_fast.cli.process import prepare_measurement, process_device, report

NamesHelp = arg(
    help="Embedded models and presets, such as digits-ve ve/cifar10_ncsnpp_continuous, by default seven of them; or "
    f"{OWN_MODEL}."
)
ComparedHelp = arg(
    help="A model of images (digits-vp, a folder, a .pth), mixture-ve, -vp, -subvp, -cld, -edm, -betas or -flow, or "
    f"{OWN_MODEL}."
)
DEFAULT_OF_NETWORK = arg(help_behavior_hint="(default: each network's own)")


@dataclass(frozen=True)
class Bench:
    """Measure speed and error of sampling with plain PyTorch, tuned PyTorch, and this package."""

    names: Positional[Annotated[tuple[str, ...], NamesHelp]] = ()
    device: Device = None
    batch_size: Annotated[int | None, DEFAULT_OF_NETWORK] = None
    """Images a batch."""
    nfe: Annotated[int | None, DEFAULT_OF_NETWORK] = None
    """Approximate number of network evaluations of a run."""
    seconds: float = 20.0
    """Time budget of each network's timed rounds, excluding preparation and first runs."""
    full: Flag = False
    """Also run variants that take minutes: compilation of every network, 16 bits on a CPU without native support."""
    threads: Threads = None
    out: Annotated[Path | None, NO_DEFAULT] = None
    """Write the result as JSON, also during the run."""
    html: Annotated[Path | None, NO_DEFAULT] = None
    """Write the result as one self-contained page."""

    def run(self) -> None:
        from scoresde_fast.bench.sampling import bench

        prepare_measurement(self.html, self.threads)
        result = bench(
            self.names,
            device=process_device(self.device),
            batch=self.batch_size,
            nfe=self.nfe,
            seconds=self.seconds,
            full=self.full,
            out=self.out,
        )
        report(result, self.out, self.html)


@dataclass(frozen=True, kw_only=True)
class BenchSolvers(ExtractorOptions):
    """Compare every solver on one model by quality, network evaluations and time, and recommend the best."""

    model: Positional[Annotated[str, ComparedHelp]]
    reference: Annotated[str | None, ReferenceHelp] = None
    training_set: Annotated[str | None, NO_DEFAULT] = None
    """The model's training images. The page shows those that are nearest to the images of the best solver."""
    nfe: tuple[int, ...] = (5, 10, 15, 20, 25, 50, 100)
    """Budgets of network evaluations; each candidate takes as many steps as its budget allows."""
    samples: Annotated[int | None, arg(help_behavior_hint="(default: 2 000 images or 20 000 scalars)")] = None
    """Samples of each candidate; all candidates draw the same seeds."""
    solvers: Annotated[tuple[str, ...], arg(help_behavior_hint="(default: all of the model's SDE)")] = ()
    """Solvers to compare."""
    grids: Annotated[tuple[str, ...], arg(help_behavior_hint="(default: all)")] = ()
    """Time grids to compare."""
    no_variants: Flag = False
    """Compare each solver in its default order and form only; without --grids, on the grid that suits the SDE."""
    peers: Flag = False
    """Also compare the solvers of diffusers and k-diffusion, as far as they are installed."""
    plugin: Annotated[Path | None, NO_DEFAULT] = None
    """A Python file that registers further solvers with the decorator @scoresde_fast.solver."""
    reference_steps: Annotated[int | None, NO_DEFAULT] = None
    """Also measure the published sampler with this number of steps (1000), as the reference."""
    seconds: Annotated[float | None, NO_DEFAULT] = None
    """Time limit. The most informative candidates are measured first; those that do not fit are listed."""
    timing_seconds: Annotated[float | None, arg(help_behavior_hint="(default: 120, or 30 for a mixture)")] = None
    """Time budget of the interleaved rounds that time the candidates, after all are measured."""
    no_timing: Flag = False
    """Do not time the candidates. The same command without this option can time them later, on an idle machine."""
    batch_size: Annotated[int | None, arg(help_behavior_hint="(default: 100 images or 20 000 scalars)")] = None
    """Samples a batch."""
    device: Device = None
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Precision of the network; auto: bf16 on a GPU that has it, fp32 elsewhere."""
    network: NetworkInputOptions = field(default_factory=NetworkInputOptions)
    loading: LoadingOptions = field(default_factory=LoadingOptions)
    out: Annotated[Path | None, NO_DEFAULT] = None
    """Write the result as JSON, also during the run. The same command continues an unfinished result."""
    html: Annotated[Path | None, NO_DEFAULT] = None
    """Write the result as one self-contained page, also during the run."""

    def run(self) -> None:
        from scoresde_fast.bench.candidates import ComparisonOptions
        from scoresde_fast.bench.comparison import compare, load_solvers

        prepare_measurement(self.html, self.loading.threads)
        options = ComparisonOptions(
            budgets=self.nfe,
            solvers=self.solvers,
            extra=load_solvers(self.plugin) if self.plugin is not None else (),
            grids=self.grids,
            variants=not self.no_variants,
            peers=self.peers,
            reference_steps=self.reference_steps,
            samples=self.samples,
            batch_size=self.batch_size,
            seconds=self.seconds,
            timing_seconds=0.0 if self.no_timing else self.timing_seconds,
            device=process_device(self.device),
            precision=self.precision,
            **self.network.options(),
        )
        model = self.model if self.model.startswith("mixture-") else self.loading.load(self.model)
        extractor = None
        if (self.extractor, self.extractor_weights) != (None, None):
            if isinstance(model, str):
                raise ValueError(f"{model} is compared with its exact distribution: leave out the extractor")
            extractor = self.load_extractor(model.image_shape, process_device(self.device))
        result = compare(
            model,
            options,
            name=self.model,
            reference=self.reference,
            extractor=extractor,
            training_set=self.training_set,
            trust_pickle=self.trust_pickle,
            out=self.out,
            html=self.html,
        )
        print(*result.ranking.sentences, sep="\n")
        for path in (self.out, self.html):
            if path is not None:
                print(path)
