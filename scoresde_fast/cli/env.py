# SPDX-License-Identifier: Apache-2.0
"""``scoresde-fast env``: what a bug report needs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Env:
    """Print versions, devices and back ends, and why a back end is missing."""

    def run(self) -> None:
        from scoresde_fast.environment import environment

        print(environment())
