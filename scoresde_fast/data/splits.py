# SPDX-License-Identifier: Apache-2.0
"""Train and test splits of the built-in data sets."""

from __future__ import annotations

from torch import Tensor

from scoresde_fast.errors import unknown_message

SPLITS = ("all", "test", "train")
TEST_EVERY = 5


def split_mask(split: str, rank: Tensor) -> Tensor:
    """Return the boolean mask (N,) of a split; ``rank`` (N,) is each sample's index within its class.

    Every fifth sample of a class is in "test", the others in "train", and all in "all".

    Raises:
        ValueError: the split is unknown.
    """
    if split not in SPLITS:
        raise ValueError(unknown_message("split", split, SPLITS))
    in_test = rank % TEST_EVERY == 0
    return {"all": in_test | True, "test": in_test, "train": ~in_test}[split]
