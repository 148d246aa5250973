# SPDX-License-Identifier: Apache-2.0
"""What the commands that draw samples have in common: how a model is loaded, and how its sampler is made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

if TYPE_CHECKING:
    from scoresde_fast.model import ScoreModel
    from scoresde_fast.sampler import Sampler
    from scoresde_fast.solvers import Interval

FLAG = arg(help_behavior_hint="")
FROM_METHOD = arg(help_behavior_hint="(default: the method's)")
FROM_MODEL = arg(help_behavior_hint="(default: the model's)")


@dataclass(frozen=True, kw_only=True)
class SamplerOptions:
    """How samples are drawn."""

    solver: Annotated[str | None, FROM_MODEL] = None
    """The method: pc (reverse diffusion and Langevin), euler_maruyama, reverse_diffusion or ancestral; for few steps
    ddim, deis, ipndm, dpmpp_2m, dpmpp_3m, dpmpp_2m_sde, dpmpp_2s, dpmpp_3s, unipc, sa or heun; on CLD sscs,
    euler_maruyama or gddim. With steps as long as tolerances allow: rk45 (the probability flow) or ggf (the reverse
    SDE; not on CLD)."""
    steps: Annotated[int | None, FROM_MODEL] = None
    """Time steps."""
    corrector: Annotated[str | None, FROM_MODEL] = None
    """What corrects before each predictor step: langevin, ald (annealed) or none."""
    corrector_steps: Annotated[int | None, FROM_MODEL] = None
    """Corrector steps before each predictor step."""
    snr: Annotated[float | None, FROM_MODEL] = None
    """Signal-to-noise ratio of the corrector."""
    grid: Annotated[str | None, FROM_MODEL] = None
    """How the times are spaced: uniform (as published), quadratic, sqrt, karras or logsnr."""
    order: Annotated[int | None, FROM_MODEL] = None
    """Order of the method, where it has several: unipc and sa 1 to 3, deis and ipndm 2 to 4, gddim 1 to 4."""
    flow: Annotated[bool, FLAG] = False
    """Follow the probability flow: no noise after the prior."""
    no_denoise: Annotated[bool, FLAG] = False
    """Keep the noise of the last step; with a method for few steps, and on CLD, stop a step short of the data."""
    eps: Annotated[float | None, FROM_MODEL] = None
    """The time to stop at."""
    parity: Annotated[bool, FLAG] = False
    """Do what the original program does where that departs from the paper: sscs with a changing beta."""
    eta: Annotated[float | None, FROM_METHOD] = None
    """Noise of ddim, sa, dpmpp_2m_sde and gddim: 0 none, 1 that of the reverse SDE."""
    churn: Annotated[float | None, FROM_METHOD] = None
    """heun: how much noise it adds over the steps together, and takes away again."""
    restart: Annotated[str | None, arg(help_behavior_hint="(default: none)")] = None
    """Go from t_min back to t_max with noise and return in so many steps, so many times: T_MIN:T_MAX:TIMES:STEPS, as
    0.1:0.3:2:5, several with commas between."""
    rtol: Annotated[float | None, FROM_METHOD] = None
    """rk45 and ggf: relative error allowed in a step."""
    atol: Annotated[float | None, FROM_METHOD] = None
    """rk45 and ggf: absolute error allowed in a step."""
    error_norm: Annotated[Literal["sample", "batch"] | None, FROM_METHOD] = None
    """rk45: steps by each image's own error, or by that of its whole batch, as the original does."""
    langevin_norm: Literal["sample", "batch"] = "sample"
    """Langevin's step size from each image, or from the mean over its batch, as published."""
    run_seed: int = 0
    """Another run seed gives other images for the same seeds."""

    batch_size: int | Literal["auto"] = 64
    """Images computed together; auto: as many as fit on the GPU."""
    device: str = "cpu"
    """cpu, cuda or cuda:1; with torchrun cuda is a GPU for each process."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """What the network computes in; auto: bf16 on a GPU that has it, fp32 elsewhere."""
    strict: Annotated[bool, FLAG] = False
    """Images that are the same to the last bit whatever the batch size and the threads."""
    compile: Annotated[bool, FLAG] = False
    """Compile the network, which is the default on a GPU."""
    no_compile: Annotated[bool, FLAG] = False
    """Do not compile the network."""
    no_capture: Annotated[bool, FLAG] = False
    """Do not capture the loop as CUDA graphs, which is the default on a GPU."""
    threads: Annotated[int | None, arg(help_behavior_hint="(default: torch's)")] = None
    """CPU threads."""

    config: Annotated[str | None, FLAG] = None
    """For a .pth: the preset it belongs to (ve/cifar10_ncsnpp_continuous), or a JSON file."""
    raw: Annotated[bool, FLAG] = False
    """For a .pth: the raw weights instead of their moving average."""

    def load(self, name: str) -> ScoreModel:
        """The model of that name, with the process made ready to compute.

        Raises:
            ValueError: the options exclude each other, or are no model's.
        """
        if self.compile and self.no_compile:
            raise ValueError("--compile and --no-compile exclude each other; choose one, or neither")
        import scoresde_fast as sf
        from scoresde_fast.cli.threads import use_threads
        from scoresde_fast.memory import keep_freed_memory

        keep_freed_memory()
        use_threads(self.threads)
        return sf.load(name, config=self.config, ema=not self.raw)

    def sampler(self, model: ScoreModel) -> Sampler:
        """The sampler that the options say; the errors are those of `Sampler`."""
        import scoresde_fast as sf

        return sf.Sampler(model, **self.chosen())

    def chosen(self) -> dict[str, Any]:
        """What the user chose, as `Sampler` takes it; the sampler and the model know the rest."""
        names = (
            "solver",
            "steps",
            "corrector",
            "corrector_steps",
            "snr",
            "grid",
            "order",
            "eps",
            "eta",
            "churn",
            "rtol",
            "atol",
            "error_norm",
            "langevin_norm",
            "run_seed",
            "precision",
        )
        chosen = {name: getattr(self, name) for name in names} | {"device": process_device(self.device)}
        chosen |= {"flow": self.flow or None, "denoise": False if self.no_denoise else None}
        chosen |= {"parity": self.parity or None}
        chosen |= {"restart": None if self.restart is None else parse_restart(self.restart)}
        chosen |= {
            "batch_size": self.batch_size,
            "strict": self.strict or None,
            "compile": True if self.compile else False if self.no_compile else None,
            "capture": False if self.no_capture else None,
        }
        return {name: value for name, value in chosen.items() if value is not None}


def process_device(device: str) -> str:
    """``device``; of processes that torchrun started on a machine, with "cuda" each has a GPU of its own."""
    local_rank = os.environ.get("LOCAL_RANK")
    return device if device != "cuda" or local_rank is None else f"cuda:{local_rank}"


def parse_restart(text: str) -> tuple[Interval, ...]:
    """``T_MIN:T_MAX:TIMES:STEPS``, or several of them with commas between, as `Sampler` takes them.

    Raises:
        ValueError: the text is not that.
    """
    intervals = []
    for part in text.split(","):
        try:
            low, high, times, steps = part.split(":")
            intervals.append((float(low), float(high), int(times), int(steps)))
        except ValueError:
            raise ValueError(
                f"--restart {part!r} cannot be read; it is T_MIN:T_MAX:TIMES:STEPS, as in 0.1:0.3:2:5"
            ) from None
    return tuple(intervals)
