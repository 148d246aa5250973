# SPDX-License-Identifier: Apache-2.0
"""``python -m scoresde_fast.cli``: the command ``scoresde-fast``, for example under torchrun."""

import sys

from scoresde_fast.cli import main

sys.exit(main())
