# SPDX-License-Identifier: Apache-2.0
"""Workloads of the sampling benchmark: a model, a batch and a solver's steps, and the operations of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from scoresde_fast.bench.baselines import original
from scoresde_fast.bench.results import Share
from scoresde_fast.checkpoints.loading import embedded_names
from scoresde_fast.checkpoints.python_models import is_python_name, load_model
from scoresde_fast.configs import ConfigLike, load_config, preset_names
from scoresde_fast.errors import unknown_message
from scoresde_fast.model import ScoreFunction, ScoreModel, create
from scoresde_fast.sampler import Sampler
from scoresde_fast.solvers import SolverOptions, StepTable

SEED = 0
Amounts = dict[str, tuple[int, int]]
"""By device type: batch size, and network evaluations per image."""
AMOUNTS: dict[str, Amounts] = {
    "ve/cifar10_ncsnpp_continuous": {"cpu": (8, 2), "cuda": (256, 20)},
    "ve/cifar10_ncsnpp_deep_continuous": {"cpu": (2, 2), "cuda": (256, 10)},
    "vp/cifar10_ddpmpp_continuous": {"cpu": (2, 2), "cuda": (256, 20)},
    "ve/ffhq_256_ncsnpp_continuous": {"cpu": (1, 2), "cuda": (16, 6)},
    "digits-ve": {"cpu": (16, 40), "cuda": (256, 300)},
    "digits-vp": {"cpu": (16, 50), "cuda": (256, 150)},
    "digits-subvp": {"cpu": (16, 50), "cuda": (256, 150)},
}
"""The networks that `scoresde-fast bench` measures by default: few images on a CPU, large batches on a GPU."""
OTHER_AMOUNTS: Amounts = {"cpu": (1, 2), "cuda": (16, 10)}
SERIES = {"cpu": ("digits-ve",), "cuda": ("digits-ve", "ve/cifar10_ncsnpp_continuous")}
"""By device type, the networks that are also measured at several batch sizes, and compiled, which takes minutes."""


@dataclass(frozen=True)
class Workload:
    """A sampling run that all variants of the benchmark carry out.

    Attributes:
        model: the score model, on ``device`` and in evaluation mode; variants must not modify it.
        options: options of the solver.
        table: steps of the solver.
        seeds: seeds of the images, which form one batch.
        device: device of the run.
    """

    model: ScoreFunction
    options: SolverOptions
    table: StepTable
    seeds: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, model: ScoreFunction, batch: int, nfe: int, device: torch.device | str) -> Workload:
        """Return a run of the model's own sampler, whose steps take about ``nfe`` evaluations per image.

        Raises:
            ValueError: ``batch`` or ``nfe`` is below 1, the solver needs more steps, or there is no such device.
        """
        for name, value in (("batch size", batch), ("nfe", nfe)):
            if value < 1:
                raise ValueError(f"the {name} is {value}; it must be at least 1")
        default = Sampler(model, device=device)
        assert isinstance(default.options, SolverOptions)  # no configuration names an adaptive solver
        steps = max(1, round(nfe * default.options.steps / default.table.nfe))
        sampler = Sampler(model, replace(default.options, steps=steps), device=device)
        assert isinstance(sampler.options, SolverOptions)
        return cls(sampler.model, sampler.options, sampler.table, tuple(range(batch)), sampler.device)

    @property
    def batch(self) -> int:
        """The number of images."""
        return len(self.seeds)

    @property
    def nfe(self) -> int:
        """Network evaluations per image."""
        return self.table.nfe

    @cached_property
    def operations(self) -> list[Share]:
        """The operations of one evaluation of the batch by the plain network, the largest share first.

        They are counted on the meta device, without computing anything. A multiply-add counts as two operations. Bytes
        assume that every operation reads its inputs and writes its output once, as unfused kernels do, in bfloat16 on a
        GPU and float32 elsewhere.
        """
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        plain = original(self.model.network).to("meta", dtype)
        x = torch.empty(self.batch, *self.model.state_shape, dtype=dtype, device="meta")
        with torch.no_grad(), _Counter() as counter:
            plain(x, torch.ones(self.batch, dtype=dtype, device="meta"))
        return sorted(counter.shares.values(), key=lambda share: (-share.gflop, -share.gbyte))

    @property
    def gflop(self) -> float:
        """10^9 operations of one evaluation of the batch."""
        return sum(share.gflop for share in self.operations)

    def sampler_options(self) -> dict[str, Any]:
        """Return keyword arguments of a `Sampler` for this run, except the model, precision and compilation."""
        return {**asdict(self.options), "device": self.device, "batch_size": self.batch}


def require_names(names: Sequence[str]) -> None:
    """Raise ValueError unless every name is an embedded model, a preset or a name of a model in Python."""
    networks = [*embedded_names(), *preset_names()]
    for name in names:
        if name not in networks and not is_python_name(name):
            raise ValueError(unknown_message("network", name, networks))


def measured_model(name: str) -> ScoreFunction:
    """Return an embedded model or one in Python, with its weights, or a preset with random weights."""
    if not (name in embedded_names() or is_python_name(name)):
        return random_model(name)
    model = load_model(name)
    if next(model.network.parameters(), None) is None:
        raise ValueError(f"the network of {name!r} has no parameters; bench measures networks that are nn.Modules")
    return model


def random_model(config: ConfigLike) -> ScoreModel:
    """Return a model with random weights, the same at every call, whose images reveal numerical errors.

    In a freshly initialised model the last convolutions are zero, and after few steps the images are mostly noise. Here
    every parameter is random, outputs are of order one as in a trained network, and noise levels end at one.
    """
    options = load_config(config).to_dict()
    options["model"] |= {"init_scale": 1.0, "sigma_max": 1.0, "beta_max": 1.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = create(options)
        _perturb(model.network)
    return model.eval()


@torch.no_grad()
def _perturb(network: nn.Module) -> None:
    """Add noise to vectors, which start as zeros or ones, and randomise matrices that start as zeros."""
    for parameter in network.parameters():
        if parameter.ndim == 1 and parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        elif parameter.ndim > 1 and parameter.abs().max() < 1e-4:
            parameter.normal_(std=parameter[0].numel() ** -0.5)


class _Counter(TorchDispatchMode):
    """Counts operations and bytes by kind and resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.shares: dict[tuple[str, int], Share] = {}

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view and isinstance(first := tree_leaves(out)[0], Tensor):
            key = _kind(func.overloadpacket, args), first.shape[-1] if first.ndim == 4 else 0
            share = self.shares.setdefault(key, Share(*key))
            count = flop_registry.get(func.overloadpacket)
            share.gflop += count(*args, **(kwargs or {}), out_val=out) / 1e9 if count else 0.0
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            share.gbyte += sum(tensor.nbytes for tensor in tensors) / 1e9
        return out


def _kind(packet: Any, args: tuple[Any, ...]) -> str:
    aten = torch.ops.aten
    if packet is aten.convolution:
        return "resampling" if args[8] > 1 else "convolution"  # FIR filters are grouped, with args[8] groups
    if packet in (aten.mm, aten.bmm, aten.addmm, aten.baddbmm):
        return "matrix product"
    return "norm" if packet is aten.native_group_norm else "pointwise"
