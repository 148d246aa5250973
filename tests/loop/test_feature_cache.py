# SPDX-License-Identifier: Apache-2.0
"""Reuse of deep features between steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.loop.capture import require_capturable_loop
from scoresde_fast.loop.evaluator import PlainNetwork, evaluator
from scoresde_fast.loop.feature_cache import FeatureCaching, caching_evaluators
from scoresde_fast.loop.loop import Loop, StepBackends
from scoresde_fast.loop.program import Program
from scoresde_fast.networks import NCSNpp
from scoresde_fast.networks.adapter import Adapter
from scoresde_fast.networks.folding import FoldedNetwork
from scoresde_fast.solvers import SolverOptions, build_table
from tests.support.diffusers_models import diffusers, unet

OPTIONS: dict[str, Any] = {"solver": "ddim", "steps": 6, "compile": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "ve": {"progressive_input": "residual", "fir": True},
    "skips": {"progressive": "output_skip", "progressive_input": "input_skip"},
    "residual": {"progressive": "residual", "progressive_input": "input_skip", "progressive_combine": "cat"},
    "ddpm": {"progressive_input": "none", "resblock_type": "ddpm", "fir": False},
}


def network(variant: str, **more: Any) -> NCSNpp:
    """Return a small network with fresh weights."""
    torch.manual_seed(0)
    return NCSNpp(
        image_size=16, nf=8, ch_mult=(1, 2, 2), num_res_blocks=2, attn_resolutions=(8,), init_scale=1.0, dropout=0.0,
        **VARIANTS[variant], **more,
    ).eval()  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_shallow_part_completes_the_deep_one(variant: str) -> None:
    """From the features of any cut, and its skip connections computed alone, the output is that of the whole."""
    net = network(variant)
    x, temb = torch.randn(2, 3, 16, 16), net.embed(torch.tensor([0.3, 0.7]))
    whole = net.body(x, temb)
    assert net.branches == 9
    for keep in range(net.branches):
        features, skips = net.deep(x, temb, keep)
        alone = net.descend(x, temb, keep) if keep else []
        assert len(skips) == keep
        assert all(torch.equal(one, other) for one, other in zip(skips, alone, strict=True))
        assert torch.equal(net.shallow(features, alone, temb), whole)


@pytest.fixture(scope="module")
def model() -> sf.ScoreModel:
    """A small model with fresh weights."""
    torch.manual_seed(0)
    config = {
        "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "init_scale": 1.0, "dropout": 0.0},
        "data": {"image_size": 16, "num_channels": 3, "centered": True},
        "training": {"sde": "vpsde"},
    }
    return sf.create(config).eval()


def test_whole_and_shallow_evaluations(model: sf.ScoreModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third evaluation is whole and equals that without reuse; the deep part runs in no other."""
    calls: list[None] = []
    deep = NCSNpp.deep

    def counted(self: NCSNpp, *values: Any) -> Any:
        calls.append(None)
        return deep(self, *values)

    sampler = sf.Sampler(model, cache_interval=3, **OPTIONS)
    sampler.sample(2)
    monkeypatch.setattr(NCSNpp, "deep", counted)
    states: list[Tensor] = []
    sampler.sample(2, callback=lambda step: states.append(step.x.clone()))
    assert len(calls) == 2 + 1  # the first gives the shapes of the features
    assert sampler.nfe == 6
    plain: list[Tensor] = []
    sf.Sampler(model, **OPTIONS).sample(2, callback=lambda step: plain.append(step.x.clone()))
    assert torch.equal(states[0], plain[0])
    assert not torch.equal(states[1], plain[1])


def test_reused_features_of_the_same_state_give_the_same_output(model: sf.ScoreModel) -> None:
    """A shallow evaluation of the state and the time of the whole one before has its output."""
    assert isinstance(model.network, NCSNpp)
    whole, shallow = caching_evaluators(FoldedNetwork(model.network, torch.tensor([5.0])), FeatureCaching(2, 2))
    x, row = torch.randn(2, 3, 16, 16), torch.tensor([0])
    features = whole.empty_features(x, row)
    with torch.no_grad():
        assert torch.equal(whole(x, row, *features), shallow(x, row, *features))
        assert not torch.equal(whole(x, row, *features), shallow(x + 1, row, *features))


@pytest.mark.parametrize(("solver", "steps"), [("unipc", 4), ("pc", 24), ("heun", 4)])
def test_images_do_not_depend_on_the_batch(model: sf.ScoreModel, solver: str, steps: int) -> None:
    """Each batch and each worker has features of its own: with strict the images are the same bits."""
    options: dict[str, Any] = {"steps": steps, "cache_interval": 2, "compile": False, "strict": True}
    together = sf.Sampler(model, solver, **options).sample(20)
    apart = torch.cat([images for _, images in sf.Sampler(model, solver, **options).stream(20, batch_size=3)])
    assert torch.equal(together, apart)


def test_compiled(model: sf.ScoreModel) -> None:
    """The compiled network reuses the same features, up to rounding."""
    options = {**OPTIONS, "compile": True, "cache_interval": 2}
    compiled = sf.Sampler(model, **options)
    plain = sf.Sampler(model, **{**options, "compile": False}).sample(2)
    assert torch.allclose(compiled.sample(2), plain, atol=1e-4)
    assert "compiled" in compiled.implementation


class UNet(nn.Module):
    """A network with modules whose outputs can be kept; one returns a tuple."""

    class Down(nn.Module):
        calls = 0

        def __init__(self) -> None:
            super().__init__()
            self.layers, self.conv = [1], nn.Conv2d(4, 4, 3, stride=2, padding=1)

        def forward(self, h: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            self.calls += 1
            return self.conv(h), {"skip": h}

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, 3, 3, padding=1)
        self.down, self.up = self.Down(), nn.Upsample(scale_factor=2)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        h = self.stem(x)
        deep, skips = self.down(h)
        assert len(self.down.layers) == 1  # attributes of a kept module are those of the module
        return self.head(torch.cat([self.up(deep), h + 0 * skips["skip"]], dim=1)) * (
            1 + index.view(-1, 1, 1, 1) / 1000
        )


def wrapped(net: nn.Module, **more: Any) -> sf.ScoreModel:
    """Return a network of one's own as a model."""
    return sf.wrap(net, sf.Betas.linear(1000), prediction="epsilon", shape=(3, 8, 8), **more)  # type: ignore[return-value]


def test_network_of_ones_own() -> None:
    """Named modules run in whole evaluations only; the network itself is unchanged, and new weights take effect."""
    torch.manual_seed(0)
    net = UNet()
    model = wrapped(net, deep_modules=["down", "up"])
    sampler = sf.Sampler(model, cache_interval=3, strict=True, **OPTIONS)
    plain = sf.Sampler(model, strict=True, **OPTIONS)
    images = sampler.sample(3)
    before = net.down.calls
    sampler.sample(3)
    assert net.down.calls == before  # the copy runs
    assert isinstance(net.down, UNet.Down)
    assert not torch.equal(images, plain.sample(3))
    apart = torch.cat([part for _, part in sampler.stream(3, batch_size=1)])
    assert torch.equal(images, apart)
    with torch.no_grad():
        net.head.weight.mul_(0.5)
    assert not torch.equal(images, sampler.sample(3))


def test_unet_of_diffusers() -> None:
    """All blocks but those next to the image are reused; with the same state and time the output is the same."""
    net = unet(block_out_channels=(8, 16, 16), down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3)
    model = sf.from_diffusers(net, diffusers().DDPMScheduler())
    assert isinstance(model.network, Adapter)
    assert model.network.deep_modules == (
        "down_blocks.1", "down_blocks.2", "up_blocks.0", "up_blocks.1", "mid_block",
    )  # fmt: skip
    whole, shallow = caching_evaluators(PlainNetwork(model.network, torch.tensor([5.0])), FeatureCaching(2))
    x, row = torch.randn(2, 3, 16, 16), torch.tensor([0])
    features = whole.empty_features(x, row)
    with torch.no_grad():
        assert torch.equal(whole(x, row, *features), model.network(x, torch.tensor([5.0, 5.0])))
        assert torch.equal(whole(x, row, *features), shallow(x, row, *features))
    assert sf.Sampler(model, cache_interval=2, **OPTIONS).sample(2).isfinite().all()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            lambda: sf.load("digits-vp"),
            {"cache_interval": 0},
            "cache_interval is 0; it must be an integer of at least 1",
        ),
        (lambda: sf.load("digits-vp"), {"cache_interval": 2, "cache_branches": 6}, "has 6 skip connections"),
        (lambda: wrapped(UNet()), {"cache_interval": 2}, "UNet names no deep modules"),
        (lambda: wrapped(UNet(), deep_modules=["dwn"]), {}, "unknown deep module 'dwn' - did you mean 'down'?"),
        (lambda: wrapped(UNet(), deep_modules=["down", "down.conv"]), {}, "'down.conv' is inside 'down'"),
    ],
    ids=["interval", "branches", "no-modules", "unknown-module", "nested-modules"],
)
def test_refused(make: Any, options: dict[str, Any], message: str) -> None:
    """Options that do not fit the network are refused in one sentence."""
    with pytest.raises(ValueError) as error:
        sf.Sampler(make(), **OPTIONS, **options)
    assert message in str(error.value)


def test_guidance_needs_whole_evaluations(model: sf.ScoreModel) -> None:
    """A condition that takes the gradient of the network is refused."""
    condition = sf.PiGDM(sf.Gray(), torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="guidance needs whole evaluations: leave out one of them"):
        sf.Sampler(model, condition=condition, cache_interval=2, **OPTIONS)


def test_can_be_captured() -> None:
    """Whole and shallow steps read nothing on the host, and copy features on the device only."""
    model = sf.load("digits-vp").to("meta")
    table = build_table(model.sde, SolverOptions("pc", 30))
    program = Program.of_model(model, table, "meta", cache_interval=2)
    folded = evaluator(model.network, torch.ones(len(table.rows)), "fp32")
    whole, shallow = caching_evaluators(folded, FeatureCaching(2))

    def empty_features(batch: int) -> tuple[Tensor, ...]:
        row = torch.zeros(1, dtype=torch.int64, device="meta")
        return whole.empty_features(torch.zeros(batch, *model.state_shape, device="meta"), row)

    loop = Loop(program, whole, StepBackends.choose("meta"), shallow=shallow, empty_features=empty_features)
    assert {kind.shallow for kind in program.kinds} == {True, False}
    with torch.inference_mode():
        require_capturable_loop(loop, model.state_shape)
