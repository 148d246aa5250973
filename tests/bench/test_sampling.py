# SPDX-License-Identifier: Apache-2.0
"""The benchmark: fair baselines, one workload for every line, complete results, and a page that stands alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import scoresde_fast as sf
from scoresde_fast.bench import machine, pages, report, result, timing
from scoresde_fast.bench.baseline import original, tuned
from scoresde_fast.bench.measured import BenchResult
from scoresde_fast.bench.networks import AMOUNTS, random_model
from scoresde_fast.bench.operations import operations, total_gflop
from scoresde_fast.bench.plain_loop import run_plain
from scoresde_fast.bench.variants import VARIANTS, Variant
from scoresde_fast.bench.waterfall import Effort, image_error
from scoresde_fast.bench.workload import Workload
from scoresde_fast.cli import main
from scoresde_fast.configs import load_config
from scoresde_fast.ops import Operation
from scoresde_fast.ops.registration import Backend

SMALL = {"nf": 32, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (8,)}
NETWORKS = {
    "NCSN++": ("ve/cifar10_ncsnpp_continuous", {}),
    "NCSN++ with odd taps": ("ve/cifar10_ncsnpp_continuous", {"fir_kernel": (1, 2, 1)}),
    "FFHQ": ("ve/ffhq_256_ncsnpp_continuous", {}),
    "DDPM++": ("vp/cifar10_ddpmpp_continuous", {}),
    "DDPM": ("vp/ddpm/cifar10_continuous", {}),
    "CLD": ("cld_cifar10", {}),
}
HERE = [line for line in VARIANTS if "cpu" in line.devices and not line.compiled]
CEILINGS = {"copy_gb_per_s": 10.0, "matmul_tflops": 0.1, "matmul_dtype": "float32"}


def small_model(name: str = "NCSN++") -> sf.ScoreModel:
    preset, changes = NETWORKS[name]
    options = load_config(preset).to_dict()
    options["model"] |= SMALL | changes
    options["data"] |= {"image_size": 16}
    return random_model(options)


def call(network: torch.nn.Module, channels: int = 3, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.rand(2, channels, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return network(x.to(dtype), torch.tensor([0.3, 0.7], dtype=dtype))


@pytest.fixture(scope="module")
def measured() -> BenchResult:
    """The result of a whole benchmark of one small network under an embedded model's name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result, "measured_model", lambda name: small_model())
        patch.setattr(result, "ceilings", lambda device: CEILINGS)
        patch.setattr(result, "BATCHES", {"cpu": (1, 2)})
        kept: list[dict[str, Any]] = []
        found = result.bench(
            ["digits-ve"], batch=2, nfe=4, effort=Effort(1e-3), command="a <command>", variants=HERE, keep=kept.append
        )
        assert kept == [found]  # after its one network
        return found


@pytest.mark.parametrize("name", NETWORKS)
def test_baselines_agree(name: str) -> None:
    """All baselines compute the plain network's function: in float64, to 1e-12 of its largest value.

    The rounding of all layers adds up to some 50 eps of it, 1e-14.
    """
    network = small_model(name).network.double()
    channels = network.input_channels
    truth = call(network, channels, torch.float64)
    assert truth.std() > 0.1
    for other in (original(network), tuned(network), tuned(network, sliced_fir=True)):
        assert (call(other, channels, torch.float64) - truth).abs().max() <= 1e-12 * truth.abs().max()


def test_half_precision_baseline() -> None:
    """The 16-bit baseline differs by 16-bit rounding, and keeps embeddings and output precise."""
    network = small_model().network
    half = tuned(network, torch.bfloat16)
    error = (call(half).float() - call(network)).std() / call(network).std()
    assert 1e-4 < error < 0.05
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32, torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_baselines_use_none_of_our_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """With our network operations broken, the plain network fails and the baselines do not."""
    networks = {name: [original(small_model(name).network), tuned(small_model(name).network)] for name in NETWORKS}

    def broken(*_: object) -> None:
        raise AssertionError("one of our operations was called")

    monkeypatch.setattr(Operation, "default", lambda operation, device: Backend(broken, ("cpu",)))
    with pytest.raises(AssertionError, match="our operations"):
        call(small_model().network)
    for name, pair in networks.items():
        for network in pair:
            call(network, 6 if name == "CLD" else 3)


def test_baselines_compile() -> None:
    """torch.compile takes a baseline as one graph and keeps its operations; the bound is that of the baselines."""
    network = small_model().network.double()
    truth = call(network, dtype=torch.float64)
    for sliced_fir in (False, True):
        torch.compiler.reset()
        compiled = tuned(network, compile={"backend": "aot_eager"}, sliced_fir=sliced_fir)
        assert (call(compiled, dtype=torch.float64) - truth).abs().max() <= 1e-12 * truth.abs().max()


def test_operations_are_counted() -> None:
    """The count is that of PyTorch's own counter, for each image, and nothing is left without a kind."""
    model = small_model()
    shares = operations(model.network, model.image_shape, batch=2)
    with FlopCounterMode(display=False) as counter:
        call(original(model.network))
    assert total_gflop(shares) == pytest.approx(counter.get_total_flops() / 1e9)
    assert {share.kind for share in shares} == {"convolution", "resampling", "matrix product", "norm", "pointwise"}
    assert all(share.gbyte > 0 for share in shares)


@pytest.mark.parametrize("name", ["NCSN++", "DDPM++", "CLD"])
def test_every_line_gives_the_same_images(name: str) -> None:
    """Each line that runs here does the workload, within the error that it states."""
    workload = Workload.of(small_model(name), batch=3, nfe=6, device="cpu")
    assert workload.nfe == 6
    truth = run_plain(workload.model.network, workload)
    assert ((truth > 0) & (truth < 1)).float().mean() > 0.2, "most of the image is cut off: errors would not show"
    ran = []
    for line in HERE:
        psnr, _ = image_error(line.build(workload)(), truth)
        assert psnr is None or psnr >= line.stated_db, line.name
        ran.append(line.name)
    assert "eager float32" in ran and "ours: fused operations" in ran


def test_result_is_complete(measured: BenchResult, tmp_path: Path) -> None:
    """Every key is there, every line is measured or says why not, and the file is JSON without infinities."""
    measured.write(tmp_path / "sub" / "result.json")
    read = json.loads((tmp_path / "sub" / "result.json").read_text(), parse_constant=pytest.fail)
    assert BenchResult.of(read).as_json() == read
    assert {"python", "torch", "scoresde-fast"} <= set(read["device"]["versions"])
    (network,) = read["networks"]
    assert (network["batch"], network["nfe"]) == (2, 4)
    assert [line["name"] for line in network["lines"]] == [line.name for line in HERE]
    for line in network["lines"]:
        assert line.get("left_out") or {"images_per_second", "share_of_matmul_peak", "psnr_db"} <= set(line)
    first = network["lines"][0]
    assert (first["against_first"], first["psnr_db"], first["max_error"]) == (1, None, 0)
    assert first["images_per_second"] == pytest.approx(2e3 / (4 * first["ms_per_nfe"]), rel=1e-3)
    (series,) = read["batches"]
    assert all([point["batch"] for point in line["points"]] == [1, 2] for line in series["lines"])


def test_page_stands_alone(measured: BenchResult, tmp_path: Path) -> None:
    """The page refers to nothing outside itself, escapes what it quotes, and shows every line's figures."""
    pytest.importorskip("matplotlib")
    report.write_html(measured, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "http" not in page and "a &lt;command&gt;" in page
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)
    assert page.count("<svg") == page.count("</svg>") == 3
    for variant in measured.networks[0].variants:
        assert variant.name in page
        if variant.left_out:
            assert variant.left_out.replace("'", "&#39;") in page
    for _, found in measured.networks[0].measured:
        assert f"<td>{pages.figures(found.images_per_second)}</td>" in page


def test_one_broken_line_costs_itself() -> None:
    """A line that fails is left out with its error, and the others are measured."""

    def fail(workload: Workload) -> Any:
        raise RuntimeError("no such\nthing")

    workload = Workload.of(small_model(), 1, 2, "cpu")
    lines = [HERE[0], Variant("broken", "fails", fail)]
    network = result.measure_network("x", workload, Effort(1e-3), variants=lines, say=lambda _: None)
    assert network.variants[1].left_out == "RuntimeError: no such thing"
    assert network.variants[0].figures is not None


def test_race() -> None:
    """Runs alternate in an order that rotates; each is read, however little time there is, and a long one once."""
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    readings = timing.race(runs, torch.device("cpu"), 1.0, most=3)
    assert calls == [*"abc", *"bca", *"cab"] and [len(values) for values in readings.values()] == [3, 3, 3]
    runs["b"] = lambda: time.sleep(0.05)
    readings = timing.race(runs, torch.device("cpu"), 0.01)
    assert len(readings["a"]) >= 2 and len(readings["b"]) == 1


def test_a_busy_machine_is_noticed() -> None:
    """The highest ceilings count, and a peak that fell by a fifth says that the machine was not ours alone."""
    lower = CEILINGS | {"matmul_tflops": 0.07, "copy_gb_per_s": 12.0}
    assert machine.highest([CEILINGS, lower]) == CEILINGS | {"copy_gb_per_s": 12.0, "readings": 2, "steady": False}
    assert machine.highest([CEILINGS, CEILINGS | {"matmul_tflops": 0.09}])["steady"]


def test_figures() -> None:
    """Numbers are shown to so many digits, never with an exponent."""
    shown = [pages.figures(value) for value in (None, 0.0, 0.00012345, 1.5, 1234.5, 43600.0)]
    assert shown == ["-", "0", "0.000123", "1.5", "1,230", "43,600"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["digits-vee"], "unknown network 'digits-vee' - did you mean 'digits-ve'?"),
        (["ve/cifar10"], "unknown network 've/cifar10'"),
        (["--seconds", "0"], "the budget is 0.0 seconds"),
        (["digits-ve", "--batch-size", "0"], "the batch size is 0"),
        (["digits-ve", "--nfe", "-1"], "the nfe is -1"),
        (["digits-vp", "--nfe", "2"], "take more steps"),
        (["--device", "nowhere"], "device 'nowhere' is not usable here"),
        (["--threads", "0"], "--threads is 0"),
    ],
)
def test_mistakes(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistake is answered with one sentence, before anything is measured."""
    monkeypatch.setattr(result, "ceilings", lambda device: CEILINGS)
    assert main(["bench", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_page_without_its_libraries(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where matplotlib is absent, --html says how to get it, at once."""
    monkeypatch.setattr(pages, "LIBRARIES", ("no_such_library",))
    assert main(["bench", "--html", "page.html"]) == 2
    assert "pip install no_such_library" in capsys.readouterr().err


def test_amounts() -> None:
    """The default networks are all known."""
    result.require_names(list(AMOUNTS))


def test_pages_of_the_committed_results(root: Path, tmp_path: Path) -> None:
    """Every committed result of ``bench`` and ``bench solvers`` still has its page."""
    script = [sys.executable, str(root / "benchmarks" / "pages.py"), "--out", str(tmp_path)]
    subprocess.run(script, capture_output=True, check=True)
    results = [*(root / "benchmarks" / "results").glob("sampling-*.json")]
    results += (root / "benchmarks" / "results").glob("solvers-*.json")
    assert results and {path.stem for path in results} == {path.stem for path in tmp_path.glob("*.html")}
