# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast sample`` and ``verify``: sets of samples on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from tyro.conf import Positional, arg

from scoresde_fast.cli.network_inputs import InputTexts, parse_inputs
from scoresde_fast.cli.options import NO_DEFAULT, BatchSize, Device, Flag, Model, SamplerOptions
from scoresde_fast.cli.process import process_device, stopping_on_sigterm

if TYPE_CHECKING:
    from scoresde_fast.classifier import Classifier
    from scoresde_fast.conditions.classes import ClassGuidance
    from scoresde_fast.model import ScoreFunction, ScoreModel
    from scoresde_fast.sampler import Sampler

BudgetHelp = arg(
    help="Instead of --steps: seconds for all images of the run, such as 0.5 or 1s, 200ms or 2min. The number of steps "
    "is the largest that fits on this device, which is measured first; with --solver tuned, of those it has.",
    help_behavior_hint="",
)
UNITS = {"ms": 1e-3, "s": 1.0, "min": 60.0}
"""Units of a time budget, in seconds."""
Trained = TypeVar("Trained", "ScoreModel", "Classifier")

NOT_SOUND = 1
"""Exit code of verify if an image is missing, damaged, duplicate or foreign."""
DIGITS_CLASSIFIER = "digits-classifier"
OutHelp = arg(
    help="A folder of PNGs, or a file whose suffix selects the format: .npz (arr_0, NHWC uint8), .zip (PNGs), .tar "
    "(webdataset shards of PNGs) or .npy (NCHW float32, not rounded)."
)


def parse_seconds(text: str) -> float:
    """Return the seconds of a text such as "0.5", "1s", "200ms" or "2min".

    Raises:
        ValueError: the text has another form.
    """
    unit = next((unit for unit in UNITS if text.endswith(unit)), "")
    try:
        return float(text.removesuffix(unit)) * UNITS.get(unit, 1.0)
    except ValueError:
        message = f"the time budget is {text!r}; it must be a number of seconds, or such as 200ms or 2min"
        raise ValueError(message) from None


@dataclass(frozen=True, kw_only=True)
class Sample(SamplerOptions):
    """Write one image for each seed, an overview grid, and samples.json. Existing images are kept.

    If the command is interrupted, run it again to continue, with any number of processes.

    Samples of point models (cld-toy), and samples with --return-velocity, are written to one .npz.
    """

    model: Model
    seeds: str = "0-63"
    """Seeds and ranges of seeds, for example 0-63,100,200-203. A seed always gives the same image."""
    out: Annotated[Path, OutHelp] = Path("samples")
    shard: Annotated[str | None, arg(help_behavior_hint="(default: torchrun's, or all)")] = None
    """Sample one part of the set, for example 3/16; other processes or machines can sample the others at any time."""
    classes: Annotated[str | None, arg(name="class", help_behavior_hint="(default: any)")] = None
    """Class of the images, by index or name, or several, such as 3,7,one; of n classes, seed s gets class s mod n."""
    classifier: Annotated[str | None, arg(help_behavior_hint="(default: digits-classifier for models of digits)")] = (
        None
    )
    """For --class: the noise-conditional classifier, an embedded one or a folder written by train."""
    class_scale: Annotated[float | None, arg(help_behavior_hint="(default: 5)")] = None
    """For --class: guidance scale. Above 1, images are more typical of their class and less diverse."""
    time_budget: Annotated[str | None, BudgetHelp] = None
    return_velocity: Flag = False
    """CLD: write positions, velocities (float32) and seeds to --out FILE.npz instead of images."""
    rounding: Literal["floor", "round"] = "floor"
    """Conversion of [0, 1] to 8 bits: floor of 255 x, as in the official code, or round to the nearest."""

    def run(self) -> None:
        import scoresde_fast as sf
        from scoresde_fast.generate import SeedSet, Shard, generate, parse_seeds, write_states
        from scoresde_fast.noise import LARGEST_SEED

        seeds = SeedSet.parse(self.seeds)  # report mistakes before the model is loaded
        if (count := sum(last - first + 1 for first, last in seeds.ranges())) > LARGEST_SEED:
            raise ValueError(f"seeds {self.seeds!r} are {count} seeds; a set has at most {LARGEST_SEED}")
        shard = Shard.of_process() if self.shard is None else Shard.parse(self.shard)
        with stopping_on_sigterm() as stop:
            model = self.loading.load(self.model)
            condition = self._guidance()
            sampler = sf.Sampler(model, condition=condition, **self._options(model, count, condition))
            if self.return_velocity or not model.is_image:
                print(write_states(sampler, parse_seeds(self.seeds), self.out, return_velocity=self.return_velocity))
                return
            size = sampler.batch_size
            print(generate(sampler, seeds, self.out, batch_size=size, rounding=self.rounding, shard=shard, stop=stop))

    def _options(self, model: ScoreFunction, images: int, condition: ClassGuidance | None) -> dict[str, Any]:
        """Return the options of the sampler, with the number of steps that fits the time budget if there is one."""
        options = self.options()
        if self.time_budget is None:
            return options
        if "steps" in options:
            raise ValueError("--time-budget chooses the number of steps: leave out --steps")
        from scoresde_fast.tuning import steps_within

        steps = steps_within(model, parse_seconds(self.time_budget), images, condition=condition, **options)
        print(f"{steps} steps")
        return options | {"steps": steps}

    def _guidance(self) -> ClassGuidance | None:
        """Return the condition of --class, or None without a class."""
        if self.classes is None:
            if self.classifier is not None or self.class_scale is not None:
                raise ValueError("--classifier and --class-scale need --class: give the class too, as in --class 3")
            return None
        from scoresde_fast.checkpoints import embedded_names, load_classifier
        from scoresde_fast.conditions.classes import CLASS_SCALE, ClassGuidance, parse_classes

        name = self.classifier
        if name is None:
            if not (self.model.startswith("digits-") and self.model in embedded_names()):
                raise ValueError(
                    f"--class needs a classifier of the images of {self.model}; give --classifier FOLDER, written by "
                    "scoresde-fast train"
                )
            name = DIGITS_CLASSIFIER
        classifier = load_classifier(name)
        classes = parse_classes(self.classes, classifier.classes)
        scale = CLASS_SCALE if self.class_scale is None else self.class_scale
        return ClassGuidance(classes, classifier, scale=scale, round_robin=True)


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check a set written by sample for missing, damaged, duplicate and foreign images.

    The exit code is 1 if there are any. Without --repair nothing is changed; with it, only missing, damaged and
    duplicate images are sampled again.
    """

    out: Positional[Path]
    """The set, as given to --out of sample: a folder, .npz, .zip, .tar or .npy."""
    repair: Flag = False
    """Sample missing, damaged and duplicate images again."""
    model: Annotated[str | None, arg(help_behavior_hint="(default: the embedded model of the set)")] = None
    """For --repair: the model of the set, in any form that sample accepts."""
    inputs: InputTexts = ()
    """For --repair of a set with inputs: the same inputs as for sample."""
    classifier: Annotated[str | None, arg(help_behavior_hint="(default: the embedded classifier of the set)")] = None
    """For --repair of a set with classes: the classifier that guided it."""
    config: Annotated[str | None, NO_DEFAULT] = None
    """For a .pth: its preset, or a .json, .py or .txt file."""
    raw: Flag = False
    """For a .pth: load the raw weights instead of their moving average."""
    batch_size: BatchSize = 64
    device: Device = None

    def run(self) -> None:
        from tqdm import tqdm

        from scoresde_fast.generate.verify import repair, verify

        with tqdm(unit=" images", disable=None, leave=False) as bar:

            def on_image(total: int) -> None:
                bar.total = total
                bar.update()

            findings = verify(self.out, on_image)
        print(findings)
        if self.repair and (len(findings.repairable) or findings.damaged_files):
            print(repair(self._sampler(), self.out, findings, batch_size=self.batch_size))
            findings = verify(self.out)
            print(findings)
        if not findings.sound:
            raise SystemExit(NOT_SOUND)

    def _sampler(self) -> Sampler:
        """Return the sampler that the manifest of the set records."""
        import scoresde_fast as sf
        from scoresde_fast.conditions.classes import described_conditions
        from scoresde_fast.devices import keep_freed_memory
        from scoresde_fast.generate.verify import read_set
        from scoresde_fast.loop.network_guidance import described_guidance
        from scoresde_fast.solver_choice import described_options

        keep_freed_memory()
        described = read_set(self.out)[1].configuration["sampler"]
        # First: sets with conditions, guidance or inputs that cannot be rebuilt are refused before a model is loaded.
        conditions = described_conditions(described.get("condition", ()), self._classifier)
        guidance = described_guidance(described.get("guidance"))
        inputs = parse_inputs(self.inputs)
        if missing := [name for name in described.get("inputs", ()) if name not in inputs]:
            raise ValueError(
                f"the samples of {self.out} have inputs, of which its manifest has only hashes; give them with "
                f"--inputs {missing[0]}=..., as for sample"
            )
        model = self._model(described["model"])
        options = {**described_options(described), "device": process_device(self.device), "batch_size": self.batch_size}
        return sf.Sampler(model, condition=conditions, inputs=inputs or None, guidance=guidance, **options)

    def _model(self, described: Mapping[str, Any]) -> ScoreFunction:
        from scoresde_fast.checkpoints import embedded_names, load
        from scoresde_fast.checkpoints.python_models import load_model

        if self.model is not None:
            return load_model(self.model, config=self.config, ema=not self.raw)
        names = embedded_names() if "config" in described else []  # models of one's own have none
        return self._embedded("model", names, load, described["weights_sha256"])

    def _classifier(self, sha256: str) -> Classifier:
        from scoresde_fast.checkpoints import embedded_classifiers, load_classifier

        if self.classifier is not None:
            return load_classifier(self.classifier)
        return self._embedded("classifier", embedded_classifiers(), load_classifier, sha256)

    def _embedded(self, kind: str, names: Sequence[str], load: Callable[[str], Trained], sha256: str) -> Trained:
        """Return the embedded model or classifier with these weights; raise ValueError if there is none."""
        from scoresde_fast.model import weights_sha256

        for name in names:
            if weights_sha256(trained := load(name)) == sha256:
                return trained
        raise ValueError(f"the {kind} of {self.out} is not embedded; give it with --{kind}")
