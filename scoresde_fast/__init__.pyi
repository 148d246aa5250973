# SPDX-License-Identifier: Apache-2.0
from .checkpoints import load as load
from .checkpoints import load_classifier as load_classifier
from .conditions.classes import ClassGuidance as ClassGuidance
from .conditions.guidance import DPS as DPS
from .conditions.guidance import PiGDM as PiGDM
from .conditions.operators import Blur as Blur
from .conditions.operators import Gray as Gray
from .conditions.operators import Mask as Mask
from .conditions.operators import Separable as Separable
from .conditions.operators import SuperResolution as SuperResolution
from .conditions.projection import Projection as Projection
from .flow.codes import decode as decode
from .flow.codes import encode as encode
from .flow.codes import interpolate as interpolate
from .flow.likelihood import likelihood as likelihood
from .flow.options import AdaptiveOptions as AdaptiveOptions
from .loop.inputs import Inputs as Inputs
from .loop.network_guidance import Autoguidance as Autoguidance
from .loop.network_guidance import ClassifierFreeGuidance as ClassifierFreeGuidance
from .mixture import GaussianMixture as GaussianMixture
from .model import ScoreModel as ScoreModel
from .model import create as create
from .model import wrap as wrap
from .sampler import Sampler as Sampler
from .sdes import EDM as EDM
from .sdes import Betas as Betas
from .sdes import RectifiedFlow as RectifiedFlow
from .sdes import Schedule as Schedule
from .solvers import SolverOptions as SolverOptions
from .solvers import solver as solver
from .tasks import colorize as colorize
from .tasks import inpaint as inpaint
from .tasks import restore as restore
from .tasks import sample as sample

__version__: str
