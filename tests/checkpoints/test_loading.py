# SPDX-License-Identifier: Apache-2.0
"""Names and paths that are neither a file nor a folder."""

from __future__ import annotations

import pytest

from scoresde_fast.checkpoints import load

pytestmark = pytest.mark.same_everywhere


class TestNames:
    """Arguments that are neither a file nor a folder."""

    def test_unknown_name(self) -> None:
        """An unknown name is refused."""
        with pytest.raises(ValueError, match="unknown model 'digits-vex'"):
            load("digits-vex")

    def test_missing_path(self) -> None:
        """A missing path is distinguished from a misspelt name."""
        with pytest.raises(FileNotFoundError, match="checkpoint file or folder 'runs/best' does not exist"):
            load("runs/best")

    def test_preset(self) -> None:
        """A preset is not a trained model; the message says what to do with it."""
        with pytest.raises(ValueError, match="is a preset, which has no weights; create"):
            load("ve/cifar10_ncsnpp_continuous")
