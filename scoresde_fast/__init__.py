# SPDX-License-Identifier: Apache-2.0
"""Score-based SDE models: fast sampling, evaluation and training.

The public names are loaded on first use, so that importing the package costs little beside PyTorch.
"""

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scoresde_fast.checkpoints import load, load_classifier
    from scoresde_fast.conditions.classes import ClassGuidance
    from scoresde_fast.conditions.guidance import DPS, PiGDM
    from scoresde_fast.conditions.operators import Blur, Gray, Mask, Separable, SuperResolution
    from scoresde_fast.conditions.projection import Projection
    from scoresde_fast.flow.codes import decode, encode, interpolate
    from scoresde_fast.flow.likelihood import likelihood
    from scoresde_fast.flow.options import AdaptiveOptions
    from scoresde_fast.mixture import GaussianMixture
    from scoresde_fast.model import ScoreModel, create
    from scoresde_fast.sampler import Sampler
    from scoresde_fast.solvers import SolverOptions, solver
    from scoresde_fast.tasks import colorize, inpaint, restore, sample

__version__ = "0.1.0"

# A source checkout keeps the Triton kernels in ../kernels; wheels carry them as scoresde_fast/kernels (setup.py).
_root = _Path(__file__).resolve().parent.parent
if (_root / "setup.py").is_file() and (_root / "kernels" / "__init__.py").is_file():
    __path__.append(str(_root))

_HOME = {
    "AdaptiveOptions": "flow.options",
    "Blur": "conditions.operators",
    "ClassGuidance": "conditions.classes",
    "DPS": "conditions.guidance",
    "GaussianMixture": "mixture",
    "Gray": "conditions.operators",
    "Mask": "conditions.operators",
    "PiGDM": "conditions.guidance",
    "Projection": "conditions.projection",
    "Sampler": "sampler",
    "ScoreModel": "model",
    "Separable": "conditions.operators",
    "SolverOptions": "solvers",
    "SuperResolution": "conditions.operators",
    "colorize": "tasks",
    "create": "model",
    "decode": "flow.codes",
    "encode": "flow.codes",
    "inpaint": "tasks",
    "interpolate": "flow.codes",
    "likelihood": "flow.likelihood",
    "load": "checkpoints",
    "load_classifier": "checkpoints",
    "restore": "tasks",
    "sample": "tasks",
    "solver": "solvers",
}

__all__ = [
    "DPS",
    "AdaptiveOptions",
    "Blur",
    "ClassGuidance",
    "GaussianMixture",
    "Gray",
    "Mask",
    "PiGDM",
    "Projection",
    "Sampler",
    "ScoreModel",
    "Separable",
    "SolverOptions",
    "SuperResolution",
    "__version__",
    "colorize",
    "create",
    "decode",
    "encode",
    "inpaint",
    "interpolate",
    "likelihood",
    "load",
    "load_classifier",
    "restore",
    "sample",
    "solver",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(_import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
