# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/portability.md, made from benchmarks/results alone: python benchmarks/portability_tables.py"""

from __future__ import annotations

from tables import RESULTS, load, table_row


def processors() -> list[str]:
    """For every processor that was tried, the tests under each choice of instructions."""
    rows = [table_row(["processor", "instructions", "settings", "passed", "failed"]), table_row(["---"] * 5)]
    for file in sorted(RESULTS.glob("portability-*.json")):
        result = load(file.stem)
        versions = result["device"]["versions"]
        name = f"{file.stem.removeprefix('portability-')}, torch {versions['torch']}, Python {versions['python']}"
        for row in result["rows"]:
            level = {None: "", 1: "x86-64", 3: "x86-64-v3", 4: "x86-64-v4"}[row["level"]]
            kernels = [f"our kernels for {level}"] if level else []
            settings = [f"`{setting}`" for setting in row["settings"].split()]
            threads = ["2 threads"] if row["threads"] > 1 else []
            counts = ["-", row["not_run"]] if "not_run" in row else [str(row["passed"]), str(row["failed"])]
            rows.append(table_row([name, row["name"], ", ".join([*kernels, *settings, *threads]) or "-", *counts]))
            name = ""
    return rows


def versions() -> list[str]:
    """The tests in every environment of `make matrix`."""
    rows, libraries = load("matrix")["rows"], ("python", "torch", "triton", "numpy", "scipy", "setuptools")
    lines = [table_row(["processor", *libraries, "extension", "passed", "failed"]), table_row(["---"] * 10)]
    for row in rows:
        found = [row["cpu"], *(row["versions"][name] for name in libraries)]
        lines.append(table_row([*found, row["extension"], str(row["passed"]), str(row["failed"])]))
    return lines


def installed() -> str:
    """How fast a plain install is beside the checkout's environment."""
    result = load("install-speed")

    def side(name: str) -> str:
        versions = result[name]["device"]["versions"]
        return f"{result[name]['seconds']:.2f} s (Python {versions['python']}, torch {versions['torch']})"

    ratio = f"{result['installed_over_checkout']:.2f} times as long"
    return f"{side('installed')}; in the checkout's `.venv` {side('checkout')}: {ratio}"


if __name__ == "__main__":
    print("\n".join([*processors(), "", *versions(), "", installed()]))
