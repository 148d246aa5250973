# SPDX-License-Identifier: Apache-2.0
"""Hostile PyTorch files: no code, no crash, no hang and no memory, but one sentence."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scoresde_fast.checkpoints import load
from scoresde_fast.checkpoints.pickles import MAX_DEPTH, MAX_OPCODES, require_modest
from tests.support.memory import PEAK
from tests.support.official_checkpoints import SMALL, official_file

pytestmark = pytest.mark.same_everywhere

PROTOCOL = b"\x80\x02"
LIMIT = (
    PEAK
    + """
import json, sys, time, warnings
from scoresde_fast.checkpoints import load
warnings.simplefilter("error")
base = peak_megabytes()
outcomes = {}
for path in sys.argv[1:]:
    began = time.perf_counter()
    try:
        load(path, config="cld_toy")
        message = None
    except ValueError as error:
        message = str(error)
    outcomes[path] = message, time.perf_counter() - began
print(json.dumps([outcomes, peak_megabytes() - base]))
"""
)


def zipped(path: Path, pickled: bytes) -> None:
    """Write a PyTorch file with the given pickle and no storage."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (("data.pkl", pickled), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"archive/{name}", content)


def rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Write a small checkpoint with its entries changed."""
    buffer = io.BytesIO()
    torch.save({"model": {"w": torch.zeros(3)}, "ema": {"shadow_params": [torch.zeros(3)]}}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(path, "w", compression) as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))


DOUBLED = b"q\x00" + b"h\x00h\x00\x86q\x00" * 60
PICKLES = {
    "deep key": (b"}(" + b")" + b"\x85" * 2_000_000 + b"K\x01u.", "nests objects more than 100 deep"),
    "deep tuple": (b")" + b"\x85" * 2_000_000 + b".", "nests objects more than 100 deep"),
    "doubled key": (b"}(K\x01" + DOUBLED + b"K\x01u.", "describes more than 10,000,000 objects"),
    "large pickle": (b"X" + (11_000_000).to_bytes(4, "little") + b"x" * 11_000_000 + b".", "larger than 10 MB"),
    "bytearray of 30 GB": (
        b"cbuiltins\nbytearray\n\x8a\x05" + (30 * 10**9).to_bytes(5, "little") + b"\x85R.",
        "truncated or corrupt|contains a bytearray",
    ),
    "system": (b"cos\nsystem\nX\x04\x00\x00\x00exit\x85R.", r"more than tensors and numbers \(os\.system\)"),
    "eval": (b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R.", r"more than tensors and numbers \(eval\)"),
    "empty stack": (b"\x85.", "truncated or corrupt"),
    "no mark": (b"t.", "truncated or corrupt"),
    "no end": (b"}", "truncated or corrupt"),
    "unknown memo": (b"h\x07.", "truncated or corrupt"),
}


def test_hostile_files(tmp_path: Path) -> None:
    """Each file gives its sentence, together within 100 MB; a crash, a hang or a warning would end the process."""
    messages: dict[str, str] = {}

    def add(name: str, message: str) -> Path:
        messages[str(tmp_path / f"{name}.pth")] = message
        return tmp_path / f"{name}.pth"

    for name, (pickled, message) in PICKLES.items():
        zipped(add(name, message), PROTOCOL + pickled)
    zeros = b"\0" * 100_000_000
    bomb = add("bomb", "is compressed: its .* bytes unpack to 1")
    rewritten(bomb, lambda name, old: zeros if name.endswith("data/0") else old, zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 400_000
    huge = b"J\x00\x00\x00\x7ftq"  # two billion values
    rewritten(add("declared", "truncated or corrupt"), lambda name, old: old.replace(b"K\x03tq", huge))
    with zipfile.ZipFile(add("twice", "two entries of one name"), "w") as archive:
        for name in ("archive/data.pkl", "archive/DATA.PKL"):
            archive.writestr(name, PROTOCOL + b"}.")
    legacy = add("legacy", "truncated or corrupt")
    torch.save({"model": {"w": torch.zeros(3)}}, legacy, _use_new_zipfile_serialization=False)
    legacy.write_bytes(legacy.read_bytes().replace(b"K\x03", b"J\x00\x00\x00\x7f"))
    code = [sys.executable, "-c", LIMIT, *messages]
    run = subprocess.run(code, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    outcomes, megabytes = json.loads(run.stdout)
    for path, (message, seconds) in outcomes.items():
        assert message is not None and "\n" not in message and len(message) < 500 + len(path), (path, message)
        with pytest.raises(ValueError, match=messages[path]):
            raise ValueError(message)
        assert seconds < 10, (path, seconds)
    assert megabytes < 100


def test_stretched_tensor(tmp_path: Path) -> None:
    """A tensor of 4 TB by its shape, which one stored value represents, is refused by its shape."""
    content = torch.load(official_file(tmp_path / "checkpoint_8.pth"))
    content["model"]["module.sigmas"] = torch.zeros(1).expand(10**12)
    torch.save(content, tmp_path / "stretched.pth")
    with pytest.raises(ValueError, match=r"misshapen: sigmas is \[1000000000000\], not \[1000\]"):
        load(tmp_path / "stretched.pth", config=SMALL)


def test_number_of_opcodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle with many small objects, which take 70 times its size in memory, is refused by their number."""
    zipped(tmp_path / "many.pth", PROTOCOL + b"(" + b"}" * 1000 + b"t.")
    require_modest(tmp_path / "many.pth")
    monkeypatch.setattr("scoresde_fast.checkpoints.pickles.MAX_OPCODES", 1000)
    with pytest.raises(ValueError, match="has more than 1,000 opcodes"):
        require_modest(tmp_path / "many.pth")


def test_real_checkpoints_are_far_from_the_limits(tmp_path: Path) -> None:
    """A checkpoint with an optimizer, in the formats since and before PyTorch 1.6, passes; limits leave a factor 10."""
    path = official_file(tmp_path / "checkpoint_8.pth")
    require_modest(path)
    content = torch.load(path)
    torch.save(content, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    require_modest(tmp_path / "legacy.pth")
    assert not load(tmp_path / "legacy.pth", config=SMALL).training
    tensors = {f"name{i}": torch.zeros(1) for i in range(MAX_OPCODES // 250)}
    torch.save({"model": tensors}, tmp_path / "many.pth")
    require_modest(tmp_path / "many.pth")
    nest: object = 0
    for _ in range(MAX_DEPTH - 10):
        nest = [nest]
    torch.save(nest, tmp_path / "nest.pth")
    require_modest(tmp_path / "nest.pth")
