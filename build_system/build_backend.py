# SPDX-License-Identifier: Apache-2.0
"""The build backend: setuptools, plus torch and missing tools as requirements of builds that compile the extension.

It is in a separate folder, because in the root the folder `kernels` would hide an installed package of that name.
"""

from __future__ import annotations

from typing import Any

from setuptools.build_meta import *  # noqa: F403
from toolchain import build_requirements


def get_requires_for_build_wheel(config_settings: Any = None) -> list[str]:
    """Return the requirements of a wheel build."""
    return build_requirements()


def get_requires_for_build_editable(config_settings: Any = None) -> list[str]:
    """Return the requirements of an editable install."""
    return build_requirements()
