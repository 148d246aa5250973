# SPDX-License-Identifier: Apache-2.0
"""The targets on a GPU by name: what each figure is, the least that is acceptable, and the goal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A figure that a visit to a GPU measures.

    Attributes:
        what: how it is measured.
        floor, goal: its least acceptable and its wanted value; of costs, the most and the wanted one.
    """

    what: str
    floor: float
    goal: float


TARGETS = {
    "norm bandwidth": Target("GroupNorm + SiLU in bf16, the worst shape: share of the copy bandwidth", 0.85, 0.93),
    "norm against inductor": Target("the same against torch.compile", 1.2, 1.5),
    "step bandwidth": Target("a solver's step on 256 MB of state: share of the copy bandwidth", 0.85, 0.93),
    "step against eager": Target("the same against eager PyTorch", 3, 4.5),
    "step against tl.randn": Target("the same against a Triton kernel with tl.randn", 1.8, 2.5),
    "Langevin bytes": Target("bytes that the Langevin corrector moves, over the least", 1.5, 1.05),
    "outside the network": Target("share of a sampling run that is not the network", 0.02, 0.005),
    "matmul share": Target("the network's operations a second: share of the fastest matrix product", 0.55, 0.7),
    "against eager TF32": Target("images a second against eager PyTorch in TF32, each at its best batch", 4, 5.5),
    "against eager float32": Target("the same against strict float32", 9, 14),
    "against max-autotune": Target("images a second against torch.compile(max-autotune) in bf16", 1.3, 1.8),
    "latency against eager TF32": Target("images a second at small batches against eager TF32", 8, 12),
    "latency against reduce-overhead": Target("the same against torch.compile(reduce-overhead) in bf16", 1.3, 1.7),
    "wall over replays": Target("wall-clock time of a run over that of its CUDA graphs", 1.03, 1.005),
    "attention against eager": Target("the attention block against four projections and SDPA", 1.3, 2),
    "RK45 against SciPy": Target("the probability flow by rk45 against SciPy's loop, the same flags", 6, 12),
    "divergence": Target("an evaluation with its divergence over one without", 2.6, 2.1),
}
