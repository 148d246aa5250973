# SPDX-License-Identifier: Apache-2.0
"""How large the measurements of the visit are: in full, and small enough for a rehearsal on a CPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from scoresde_fast.bench.workload import random_model
from scoresde_fast.configs import ConfigLike
from scoresde_fast.model import ScoreModel


@dataclass(frozen=True)
class Setting:
    """Sizes.

    Attributes:
        config: of the network that is measured.
        batch: images, where the device is to be filled.
        nfe: evaluations of a run that is compared with others.
        batches: of the sweep; ``latencies``: small ones; ``eager_batches``: eager PyTorch has the best of these.
        flow_model, flow_batch: what RK45 samples.
        check_batch: of the whole network, against float64.
        copy_gigabytes: that are copied to find the bandwidth; ``matmul_sizes``: of the square matrices for the peak.
        state_bytes: of a state or an activation that no cache holds.
        step_batch: images of a small state.
        rounds: of a measurement.
        seconds: that alternatives are raced for.
        derivatives: operation and (B, C, H, W).
    """

    config: ConfigLike = "ve/cifar10_ncsnpp_continuous"
    batch: int = 256
    nfe: int = 20
    batches: tuple[int, ...] = (64, 512)
    latencies: tuple[int, ...] = (1, 4, 16)
    eager_batches: tuple[int, ...] = (256, 64)
    flow_model: str = "digits-vp"
    flow_batch: int = 1024
    check_batch: int = 4
    copy_gigabytes: float = 2.0
    matmul_sizes: tuple[int, ...] = (4096, 8192, 12288)
    state_bytes: int = 256 * 2**20  # five times the largest L2 cache
    step_batch: int = 64
    rounds: int = 20
    seconds: float = 4.0
    derivatives: tuple[tuple[str, tuple[int, ...]], ...] = (
        ("group_norm_silu", (4, 128, 32, 32)),
        ("group_norm_silu", (4, 384, 16, 16)),
        ("fir_resample up", (4, 128, 16, 16)),
        ("fir_resample down", (4, 128, 32, 32)),
    )

    def model(self) -> ScoreModel:
        """The network with random weights, the same every time."""
        return random_model(self.config)


TINY: dict[str, Any] = {
    "data": {"image_size": 8, "centered": False},
    "model": {"name": "ncsnpp", "nf": 16, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4],
              "resblock_type": "biggan", "fir": True, "progressive": "none", "progressive_input": "residual",
              "progressive_combine": "sum", "scale_by_sigma": True, "embedding_type": "fourier"},
    "training": {"sde": "vesde", "continuous": True},
    "sampling": {"predictor": "reverse_diffusion", "corrector": "langevin"},
}  # fmt: skip
SMALL = Setting(
    config=TINY,
    batch=2,
    nfe=4,
    batches=(1,),
    latencies=(1,),
    eager_batches=(1, 2),
    flow_batch=2,
    check_batch=2,
    copy_gigabytes=0.001,
    matmul_sizes=(64,),
    state_bytes=2**12,
    step_batch=1,
    rounds=1,
    seconds=0.1,
    derivatives=(("group_norm_silu", (2, 32, 4, 4)), ("fir_resample up", (1, 8, 4, 4))),
)
now = Setting()
"""That of this process."""
