# SPDX-License-Identifier: Apache-2.0
"""Speed of a plain `pip install .` and of the checkout: python -m benchmarks.portability.install_speed PYTHON

Samples 64 images of digits-vp by dpmpp_2m in 20 steps, on two threads, alternately in processes of this interpreter and
of PYTHON. Writes benchmarks/results/install-speed.json. Exit status 1 if the images differ, or if PYTHON has no
extension.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.files import RESULTS, parser, save

PAIRS = 7
MEASURE = """
import json, statistics, time
import scoresde_fast as sf
from scoresde_fast import _extension
from scoresde_fast.bench.results import device_info
sampler = sf.Sampler(sf.load("digits-vp"), solver="dpmpp_2m", steps=20)
mean = sampler.sample(range(64)).double().mean().item()  # the first run is not timed
seconds = []
for _ in range(5):
    start = time.perf_counter()
    sampler.sample(range(64))
    seconds.append(time.perf_counter() - start)
result = {"seconds": statistics.median(seconds), "mean": mean, "extension": _extension.why_missing or "loaded"}
print(json.dumps(result | {"device": device_info()}))
"""


def measure(python: Path) -> dict[str, Any]:
    """Return the output of `MEASURE` in a process of an interpreter."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": ""}
    with tempfile.TemporaryDirectory() as folder:  # in the checkout, its package would be imported
        output = subprocess.check_output([python, "-c", MEASURE], cwd=folder, env=environment, text=True)
    results: dict[str, Any] = json.loads(output.splitlines()[-1])
    return results


def main() -> int:
    """Measure both interpreters alternately and return the exit status."""
    arguments = parser(__doc__)
    arguments.add_argument("python", type=Path, help="interpreter of an environment with the installed package")
    installed = arguments.parse_args().python.absolute()
    runs: dict[str, list[dict[str, Any]]] = {"checkout": [], "installed": []}
    for pair in range(PAIRS):
        for name, python in (("checkout", Path(sys.executable)), ("installed", installed)):
            runs[name].append(measure(python))
            print(f"{pair + 1} of {PAIRS}: {name} {runs[name][-1]['seconds']:.3f} s", flush=True)
    result: dict[str, Any] = {"pairs": PAIRS}
    for name, outputs in runs.items():
        seconds = [output["seconds"] for output in outputs]
        result[name] = {"seconds": statistics.median(seconds), "of_each_process": seconds}
        result[name] |= {key: outputs[0][key] for key in ("extension", "device")}
    result["installed_over_checkout"] = result["installed"]["seconds"] / result["checkout"]["seconds"]
    save(result, RESULTS / "install-speed.json")
    print(json.dumps({name: result[name] for name in (*runs, "installed_over_checkout")}, indent=1))
    means = [outputs[0]["mean"] for outputs in runs.values()]
    return int(abs(means[0] - means[1]) > 1e-5 or result["installed"]["extension"] != "loaded")


if __name__ == "__main__":
    sys.exit(main())
