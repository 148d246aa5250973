# SPDX-License-Identifier: Apache-2.0
"""``python -m scoresde_fast.cli``: the command line where ``scoresde-fast`` is not on the path."""

import sys

from scoresde_fast.cli import main

sys.exit(main())
