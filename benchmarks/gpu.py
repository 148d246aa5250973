# SPDX-License-Identifier: Apache-2.0
"""The command of the visit to a GPU, `benchmarks.visit.run`: python benchmarks/gpu.py [--list] [--only ITEM ...]"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # works without an installed package

from benchmarks.visit.run import main

if __name__ == "__main__":
    sys.exit(main())
