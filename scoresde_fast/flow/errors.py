# SPDX-License-Identifier: Apache-2.0
"""What ends an integration early, with everything that it had reached."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class IntegrationError(ArithmeticError):
    """A sample cannot be integrated to the end; says which, where it stopped and why.

    Attributes:
        index: of the first such sample in its batch.
        why: what happened to it.
        y: (B, ...) float64, the last accepted state of every sample.
        t: (B,) float64, the time of each.
    """

    def __init__(self, index: int, why: str, y: Tensor, t: Tensor, *, name: str | None = None) -> None:
        super().__init__(f"{name or f'sample {index} of the batch'} {why}")
        self.index, self.why, self.y, self.t = index, why, y, t

    def named(self, ids: Sequence[int]) -> IntegrationError:
        """The same of samples whose seeds are known."""
        return IntegrationError(self.index, self.why, self.y, self.t, name=f"the sample of seed {ids[self.index]}")


def stopped(y: Tensor, t: Tensor, done: Tensor, lost: Tensor, broken: Tensor, most: int) -> IntegrationError:
    """Why the first sample that has not arrived has not, after ``most`` steps or less."""
    index = int((~done).nonzero()[0])
    where = f"stopped at t = {float(t[index]):.6g}"
    if bool(broken[index]):
        why = f"{where}: the slope is NaN or infinite there; check the weights, and the range of the data"
    elif bool(lost[index]):
        why = f"{where}: its tolerances cannot be met even by the shortest step; raise rtol and atol"
    else:
        why = f"{where} after {most} steps; raise rtol and atol"
    return IntegrationError(index, why, y.clone(), t.clone())
