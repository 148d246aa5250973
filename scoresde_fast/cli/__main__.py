# SPDX-License-Identifier: Apache-2.0
"""``python -m scoresde_fast.cli``, for where the command is not on the path."""

import sys

from scoresde_fast.cli import main

sys.exit(main())
