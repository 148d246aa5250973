# SPDX-License-Identifier: Apache-2.0
"""Installation into fresh environments, as a user does it; each takes minutes, including pip's downloads."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.portability.matrix import copy_sources
from scoresde_fast import _extension

pytestmark = [pytest.mark.slow, pytest.mark.same_everywhere]

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = (
    "import scoresde_fast as sf; "
    "print(sf.sample(sf.load('digits-vp'), seeds=range(2), solver='dpmpp_2m', steps=4).shape)"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the checkout's tracked files, without build outputs."""
    copy_sources(tmp_path / "copy" / "checkout")
    return tmp_path / "copy" / "checkout"


def run(environment: Path, command: str, cwd: Path, **variables: str) -> str:
    """Run a command with the environment's programs first on PATH, and return its output.

    pip uses the versions of constraints.txt, and the extension is built without CUDA, which would take minutes.
    """
    settings = {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": "",  # instead of that of this test run
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "PIP_BUILD_CONSTRAINT": str(ROOT / "constraints.txt"),
        "CMAKE_ARGS": "-DSSF_CUDA=OFF",
    }
    done = subprocess.run(
        command, shell=True, cwd=cwd, env={**os.environ, **settings, **variables}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """Return a fresh virtual environment of this Python."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    return tmp_path / "venv"


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_plain_install_builds_the_extension(checkout: Path, environment: Path, tmp_path: Path) -> None:
    """The README's command installs the kernels, and there is no warning."""
    run(environment, "pip install .", checkout)
    backends = run(environment, "scoresde-fast env", tmp_path).partition("backends of each operation")[2]
    assert re.search(r"\n +cpu, reference .*\bnormal\b", backends, re.DOTALL)
    assert run(environment, f'python -W error -c "{SAMPLE}"', tmp_path).endswith("torch.Size([2, 3, 16, 16])\n")


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_command_in_the_warning_works(checkout: Path, environment: Path, tmp_path: Path) -> None:
    """Without a compiler at installation, the first sample warns once, and the command in the warning fixes it."""
    run(environment, "pip install .", checkout, CXX="no-such-compiler")
    warned = run(environment, f'python -c "{SAMPLE}"', tmp_path)
    assert warned.count("RuntimeWarning") == 1
    assert "`no-such-compiler` is not on PATH" in warned
    (command,) = re.findall(r"to build it: (.*)", warned)
    run(environment, command, tmp_path)
    assert "RuntimeWarning" not in run(environment, f'python -c "{SAMPLE}"', tmp_path)


@pytest.mark.skipif(_extension.why_missing is not None, reason="the extension is not there")
def test_install_continues_after_a_failed_build(checkout: Path, environment: Path, tmp_path: Path) -> None:
    """If the C++ sources do not compile, pip installs the package without them; the reason is the compiler's error."""
    source = checkout / "csrc" / "cpu" / "normal.cpp"
    source.write_text(source.read_text() + "\n#error broken on purpose\n")
    run(environment, "pip install .", checkout)
    warned = run(environment, f'python -c "{SAMPLE}"', tmp_path)
    assert warned.count("RuntimeWarning") == 1
    assert "broken on purpose" in warned


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_distributions_are_complete(checkout: Path, environment: Path, tmp_path: Path) -> None:
    """The sdist needs no torch; the wheel built from it is abi3 and contains the whole package."""
    run(environment, "pip install build twine", tmp_path)
    output = run(environment, "python -m build --outdir dist", checkout)
    for_sdist, for_wheel = output.split("Building wheel from sdist")
    assert "- torch" not in for_sdist and "- torch" in for_wheel
    run(environment, "twine check --strict dist/*", checkout)
    (wheel,) = (checkout / "dist").glob("*-cp310-abi3-*.whl")
    tracked = {file.relative_to(checkout) for file in (checkout / "scoresde_fast").rglob("*") if file.is_file()}
    kernels = {Path("scoresde_fast", "kernels", file.name) for file in (checkout / "kernels").glob("*.py")}
    added = {
        "scoresde_fast/_C.abi3.so",
        *(f"scoresde_fast-0.1.0.dist-info/{name}" for name in
          ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")),
    }  # fmt: skip
    assert set(zipfile.ZipFile(wheel).namelist()) == added | set(map(str, tracked | kernels))
