# SPDX-License-Identifier: Apache-2.0
"""Score-based SDE models: fast sampling, evaluation and training.

``__init__.pyi`` lists the public names.  Each name is imported on first use, so importing the package is fast.
"""

from pathlib import Path as _Path

import lazy_loader as _lazy

__version__ = "0.1.0"

# Triton kernels are in ../kernels in a source checkout, and in scoresde_fast/kernels in a wheel (see setup.py).
_root = _Path(__file__).resolve().parent.parent
if (_root / "setup.py").is_file() and (_root / "kernels" / "__init__.py").is_file():
    __path__.append(str(_root))

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__all__ += ["__version__"]
