# SPDX-License-Identifier: Apache-2.0
"""The sampler's options for speed: what each changes, what it must not change, and what is said where it cannot be."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import scoresde_fast as sf
from scoresde_fast.files import cache_folder
from scoresde_fast.loop import capture as capturing
from scoresde_fast.loop import table_runner
from scoresde_fast.loop.batch_fit import BatchTooLargeError, largest_batch, remembered_batch
from scoresde_fast.loop.batches import Batches
from scoresde_fast.loop.evaluate import PlainNetwork
from scoresde_fast.loop.strict import PIXELS, chunk_size, chunks
from scoresde_fast.mixture import ExactScore
from scoresde_fast.model import ScoreFunction
from scoresde_fast.precision import choose_precision
from scoresde_fast.sdes import VPSDE
from tests.support.recorded_graphs import RecordedGraphs

NOT_COMPILED = ".*cannot be compiled"
TINY = {
    "data": {"image_size": 8, "centered": False},
    "model": {"name": "ncsnpp", "nf": 8, "ch_mult": [1, 2], "num_res_blocks": 1, "attn_resolutions": [4],
              "scale_by_sigma": True, "init_scale": 1.0, "sigma_max": 10.0},
    "training": {"sde": "vesde"},
    "sampling": {"predictor": "reverse_diffusion", "corrector": "langevin"},
}  # fmt: skip


@pytest.fixture(scope="module")
def tiny() -> sf.ScoreModel:
    torch.manual_seed(0)
    return sf.create(TINY).eval()


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    yield torch.set_num_threads
    torch.set_num_threads(1)


def function(forward: Callable[[Tensor, Tensor], Tensor]) -> ScoreFunction:
    """A user's own model on 2x2 images."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor, labels: Tensor) -> Tensor:
            return self.weight * forward(x, labels)

    return ScoreFunction(Own(), ExactScore(VPSDE()), (1, 2, 2), centered=True)


@pytest.fixture
def replayed(monkeypatch: pytest.MonkeyPatch) -> Callable[[sf.Sampler], RecordedGraphs]:
    """Makes a sampler capture its loop, on a CPU, by recordings in place of CUDA graphs."""

    def capture(sampler: sf.Sampler) -> RecordedGraphs:
        graphs = RecordedGraphs()
        monkeypatch.setattr(capturing, "CudaGraphs", lambda device: graphs)
        # It tells a CPU's tensors not.
        monkeypatch.setattr(table_runner, "require_capturable_loop", lambda loop, shape: None)
        sampler.runner._graphs.wanted = True
        return graphs

    return capture


@pytest.mark.parametrize("solver", ["pc", "ancestral"])
def test_captured_images_are_the_images(
    tiny: sf.ScoreModel, solver: str, replayed: Callable[..., RecordedGraphs]
) -> None:
    """Padded batches, replayed, give each seed its image; a batch size is captured once, and a near one serves too."""
    plain, sampler = (sf.Sampler(tiny, solver, 5) for _ in range(2))
    graphs = replayed(sampler)
    for seeds, captured in (([5, 3, 8, 1], 1), ([2, 9], 1), ([7], 1), (range(6), 2), (range(9), 2)):
        images = sampler.sample(seeds)
        # Sums differ with the batch size in their last bits: ten evaluations round states of up to 50, five deviations,
        # by 6e-5 together. Images of two seeds differ by more than 0.1.
        torch.testing.assert_close(images, plain.sample(seeds), rtol=0, atol=1e-4)
        assert len(sampler.runner._loops) == captured
    assert graphs.captured > 0 and graphs.replayed >= 5 * 5


def test_a_changed_weight_is_seen(tiny: sf.ScoreModel, replayed: Callable[..., RecordedGraphs]) -> None:
    """In place, replaced, or a whole new network: the next run has it, captured or not."""
    for capture in (False, True):
        model = function(lambda x, labels: -x)
        sampler = sf.Sampler(model, "em", 4, denoise=False)
        if capture:
            replayed(sampler)

        def differs(before: Tensor, sampler: sf.Sampler = sampler) -> Tensor:
            after = sampler.sample([0, 1])
            assert not torch.equal(before, after)
            return after

        images = sampler.sample([0, 1])
        with torch.no_grad():
            model.network.weight.add_(0.25)
        images = differs(images)
        model.network.load_state_dict({"weight": torch.tensor(0.2)}, assign=True)
        images = differs(images)
        model.network = function(lambda x, labels: -0.1 * x).network
        differs(images)


def test_a_stale_evaluator_is_made_again(tiny: sf.ScoreModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluator that says its network has changed is replaced before the next batch, and nothing of it stays."""
    made: list[PlainNetwork] = []

    def make(network: nn.Module, labels: Tensor, precision: str) -> PlainNetwork:
        made.append(PlainNetwork(network, labels))
        assert precision == "fp32" and not torch.is_inference_mode_enabled()
        return made[-1]

    monkeypatch.setattr(table_runner, "evaluator", make)
    sampler = sf.Sampler(tiny, "em", 2)
    for batches in (1, 2):
        sampler.sample(range(4))
        sampler.sample(range(9))
        assert len(made) == batches
        monkeypatch.setattr(made[-1], "stale", lambda: True)
    assert all(loop.evaluate is made[-1] for loop in sampler.runner._loops.values())


def test_what_cannot_be_captured_runs_plain_with_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """The warning names the operation, the line that asked for it and the way to silence it."""

    def forward(x: Tensor, labels: Tensor) -> Tensor:
        return -x if labels[0].item() > 0.5 else -2 * x

    expected = sf.sample(function(forward), seeds=range(3), solver="em", steps=4)
    sampler = sf.Sampler(function(forward), "em", 4)
    sampler.runner._graphs.wanted = True
    said = r"Own cannot be captured.*_local_scalar_dense.*test_table_runner\.py"
    with pytest.warns(RuntimeWarning, match=said) as caught:
        for _ in range(2):
            assert torch.equal(sampler.sample(range(3)), expected)
    assert len(caught) == 1 and "capture=False" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_memory_that_runs_short_is_no_reason_to_go_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """A capture that runs out of memory raises, without a warning, and the next one is tried again."""

    def full(device: torch.device) -> RecordedGraphs:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(capturing, "CudaGraphs", full)
    graphs = capturing.GraphCapture(function(lambda x, labels: -x), torch.device("cpu"), wanted=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(torch.OutOfMemoryError):
            graphs.step(lambda: None)
    monkeypatch.setattr(capturing, "CudaGraphs", lambda device: RecordedGraphs())
    step = lambda: None  # noqa: E731
    assert graphs.wanted and graphs.step(step) is not step


def test_what_cannot_be_compiled_runs_plain_with_one_warning() -> None:
    """A network that the compiler cannot take in one piece."""

    def forward(x: Tensor, labels: Tensor) -> Tensor:
        return -x if labels[0].item() > 0.5 else -2 * x

    expected = sf.sample(function(forward), seeds=range(3), solver="em", steps=4)
    sampler = sf.Sampler(function(forward), "em", 4, compile=True)
    with pytest.warns(RuntimeWarning, match="Own cannot be compiled") as caught:
        for _ in range(2):
            assert torch.equal(sampler.sample(range(3)), expected)
    assert len([w for w in caught if w.category is RuntimeWarning]) == 1


def test_many_batch_sizes_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of a dozen sizes gets a graph of its own, beyond the eight after which PyTorch gives up on a function."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, options, **others: real(f, backend=backend, **others))
    model = function(lambda x, labels: -x)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", NOT_COMPILED, RuntimeWarning)  # PyTorch's compiler has warnings of its own
        for size in range(1, 13):
            sf.Sampler(model, "em", 2, compile=True, batch_size=size).sample(range(size))
    assert len(graphs) == 12


def test_a_precision_that_a_network_cannot_have_is_said_once() -> None:
    """A user's own network runs in float32, says so where something else was asked, and is described as such."""
    model = function(lambda x, labels: -x)
    with pytest.warns(RuntimeWarning, match="Own cannot be folded, and so not run in bf16; it runs in float32"):
        sampler = sf.Sampler(model, "em", 2, precision="bf16")
        assert sampler.describe()["precision"] == "fp32"
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        sampler.sample([0])
        sf.Sampler(model, "em", 2).sample([0])


@pytest.mark.parametrize("seeds", [range(1), range(3), range(8), [11, 4, 300, 4, 19]], ids=["1", "3", "8", "mixed"])
def test_strict_images_are_the_same_bits(
    tiny: sf.ScoreModel, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, seeds: list[int]
) -> None:
    """Whatever the batch size, the seeds beside it, the order and the number of lanes."""
    monkeypatch.setitem(PIXELS, "cpu", 6 * 64)
    sampler = sf.Sampler(tiny, "pc", 4, strict=True)
    alone = {seed: sampler.sample([seed]) for seed in seeds}
    for lanes in (1, 2):
        threads(lanes)
        for batch_size in (1, 3, 8):
            images = torch.cat([images for _, images in sampler.stream(seeds, batch_size=batch_size)])
            assert torch.equal(images, torch.cat([alone[seed] for seed in seeds]))
    # The last bits are others than without it, of eight evaluations; images of two seeds differ by more than 0.1.
    torch.testing.assert_close(images, sf.sample(tiny, seeds, solver="pc", steps=4), rtol=0, atol=1e-4)


def test_chunks() -> None:
    """Each seed has its own place, consecutive seeds fill chunks, and no seed is lost."""
    assert chunks(range(6, 14), 8) == [[2, 3, 4, 5, 6, 7, 0, 1]]
    assert chunks([5, 13, 13, 0], 4) == [[3, 0, 0, 0], [0, 1, 0, 0]]
    assert [chunk_size((3, n, n), torch.device(d)) for d in ("cpu", "cuda") for n in (8, 32, 1024)] == [
        128, 8, 1, 128, 128, 1,
    ]  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("seeds", [[5], [37, 5, 1], [0, 5], [4, 4, 68], list(range(70))], ids=str)
def test_every_result_comes_from_its_seed_s_place(
    monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None], seeds: list[int], strict: bool
) -> None:
    """Where strict, seed s is at place s mod the size of a chunk, whatever fills the others; else in its order."""
    monkeypatch.setitem(PIXELS, "cpu", 32 * 4)
    runner = SimpleNamespace(
        device=torch.device("cpu"), refresh=lambda: None, prepare=lambda size: None, size_for=lambda batch, full: 48,
        batch_dependent=False,
    )  # fmt: skip

    def work(items: Sequence[int], on_step: object) -> Tensor:
        return torch.stack([torch.tensor(items), torch.arange(len(items))], dim=1)

    for lanes in (1, 2):
        threads(lanes)
        found = Batches(runner, work, (1, 2, 2), strict=strict).run(seeds, seeds, len(seeds), None)
        assert found[:, 0].tolist() == seeds
        if strict:
            assert found[:, 1].tolist() == [seed % 32 for seed in seeds]


@pytest.mark.parametrize("options", [{"solver": "dpmpp_2m", "steps": 5}, {"solver": "rk45", "rtol": 0.3, "atol": 0.3}])
def test_strict_samplers_are_the_same_bits(threads: Callable[[int], None], options: dict[str, object]) -> None:
    """So are those of samplers made with other numbers of threads: what a network is folded to is the same."""
    model, images = sf.load("digits-vp"), []
    for count in (1, 2):
        threads(count)
        images.append(sf.Sampler(model, **options, strict=True).sample([0, 1, 130]))
    assert torch.equal(*images)


def test_strict_progress(tiny: sf.ScoreModel) -> None:
    """Progress runs once from nothing to all, over the chunks of a batch."""
    calls: list[tuple[int, int]] = []
    sf.Sampler(tiny, "em", 3, strict=True).sample([0, 128], on_step=lambda *call: calls.append(call))
    assert calls == [(n, 6) for n in range(1, 7)]


class Hungry(nn.Module):
    """Runs out of memory above a number of images."""

    most = 21

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3.00 GiB")
        return -x


def test_too_large_a_batch_says_what_fits() -> None:
    """One sentence with a batch size that works, which works."""
    model = ScoreFunction(Hungry(), ExactScore(VPSDE()), (1, 2, 2), centered=True)
    sampler = sf.Sampler(model, "em", 2)
    with pytest.raises(BatchTooLargeError, match=r"a batch of 60 does not fit.*about 2[01] images do.*batch_size=18"):
        next(iter(sampler.stream(range(60), batch_size=60)))
    assert [len(images) for _, images in sampler.stream(range(30), batch_size=18)] == [18, 12]
    model.network.most = 0
    with pytest.raises(BatchTooLargeError, match="nor does a single image"):
        sampler.sample([1])


@pytest.mark.parametrize("most", [0, 1, 2, 7, 64, 100, 1000, 4096, 10_000])
def test_largest_batch(most: int) -> None:
    """Within an eighth of what fits, never above it, in few trials."""
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= most

    found = largest_batch(fits)
    assert min(most, 4096) * 7 / 8 - 1 <= found <= min(most, 4096)
    assert len(tried) <= 17 and len(set(tried)) == len(tried)


def test_the_largest_batch_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the user's other caches, for each key; a file that is none is no reason to stop."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    key = {"device": "GPU", "precision": "bf16"}
    assert remembered_batch(key, lambda: 96) == 96
    assert remembered_batch(key, lambda: 1) == 96
    assert remembered_batch({**key, "precision": "fp32"}, lambda: 48) == 48
    assert remembered_batch(key, lambda: 1) == 96
    assert cache_folder() == tmp_path / "scoresde-fast"
    (cache_folder() / "batch_sizes.json").write_text("[")
    assert remembered_batch(key, lambda: 2) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "bf17"}, "unknown precision 'bf17' - did you mean 'bf16'"),
        ({"precision": "tf32"}, "precision 'tf32' is a mode of GPUs.*choose from: auto, fp32, bf16, fp16"),
        ({"capture": True}, "capture=True needs a CUDA device, and this is cpu: leave it at 'auto'"),
        ({"compile": "yes"}, "compile is 'yes'; choose True, False or 'auto'"),
        ({"batch_size": "all"}, "batch_size is 'all'; choose a whole number or 'auto'"),
        ({"strict": True, "langevin_norm": "batch"}, "choose langevin_norm='sample'"),
        ({"solver": "rk45", "steps": None, "strict": True, "error_norm": "batch"}, "choose error_norm='sample'"),
    ],
)
def test_bad_options(tiny: sf.ScoreModel, options: dict[str, object], sentence: str) -> None:
    """One clear sentence with the value, before anything runs."""
    with pytest.raises(ValueError, match=sentence):
        sf.Sampler(tiny, **{"solver": "pc", "steps": 2, **options})


def test_precision_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto" is bf16 where a GPU has it; an older one is told what it lacks."""
    gpu = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert choose_precision("auto", gpu) == "bf16" and choose_precision("tf32", gpu) == "tf32"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_precision("auto", gpu) == "fp32" and choose_precision("fp16", gpu) == "fp16"
    with pytest.raises(ValueError, match=r"'bf16' needs a GPU of compute capability 8\.0, and cuda has 7\.5"):
        choose_precision("bf16", gpu)


def test_automatic_batch_on_a_cpu(tiny: sf.ScoreModel) -> None:
    """There is nothing to find: 64."""
    assert sf.Sampler(tiny, "pc", 2, batch_size="auto").batch_size == 64


def test_description_has_what_decides_the_pixels(tiny: sf.ScoreModel) -> None:
    """Precision and strictness do, the batch size does not."""
    one, other = (
        sf.Sampler(tiny, "pc", 2, strict=strict, batch_size=n).describe() for strict, n in ((False, 1), (True, 9))
    )
    assert one["precision"] == "fp32" and (one["strict"], other["strict"]) == (False, True)
    assert "batch_size" not in one


def test_compiled_images_are_the_images(threads: Callable[[int], None]) -> None:
    """A compiled network gives the same images within 1e-4, in one lane and in two, whose parts are padded alike."""
    model = function(lambda x, labels: -x.tanh() / labels.view(-1, 1, 1, 1).sqrt())
    plain, compiled = (sf.Sampler(model, "em", 8, compile=compile) for compile in (False, True))
    for lanes in (1, 2):
        threads(lanes)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", NOT_COMPILED, RuntimeWarning)
            images = compiled.sample(range(17))
        torch.testing.assert_close(images, plain.sample(range(17)), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_a_compiled_embedded_model(threads: Callable[[int], None]) -> None:
    """The same for an embedded model."""
    threads(2)
    model = sf.load("digits-vp")
    plain, compiled = (sf.Sampler(model, steps=40, compile=compile).sample(range(16)) for compile in (False, True))
    torch.testing.assert_close(compiled, plain, rtol=0, atol=1e-4)
