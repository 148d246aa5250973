# SPDX-License-Identifier: Apache-2.0
"""The build backend: setuptools', but a build that compiles asks for torch and for the tools that the machine lacks.

It lies in a folder of its own: from the root, the folder `kernels` would hide an installed package of that name.
"""

from __future__ import annotations

from typing import Any

from setuptools.build_meta import *  # noqa: F403
from toolchain import build_requirements


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """What to install before a wheel is built; an sdist needs nothing."""
    return build_requirements()


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """What to install before an editable install."""
    return build_requirements()
