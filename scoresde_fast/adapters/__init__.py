# SPDX-License-Identifier: Apache-2.0
"""Score models from the networks of other libraries."""

from scoresde_fast.adapters.denoisers import from_edm as from_edm
from scoresde_fast.adapters.denoisers import from_k_diffusion as from_k_diffusion
from scoresde_fast.adapters.diffusers_models import from_diffusers as from_diffusers
