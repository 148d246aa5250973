# SPDX-License-Identifier: Apache-2.0
"""Results as pages of HTML, each one file that needs no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scoresde_fast.errors import require_packages
from scoresde_fast.files import make_folder, replacing

LIBRARIES = ("matplotlib", "jinja2")


def require_libraries() -> None:
    """Raises `MissingPackageError` unless pages can be made here."""
    require_packages("the page of --html", *LIBRARIES)


def render(template: str, **values: Any) -> str:
    """A page from one of the templates, which all extend page.html; the errors of `require_libraries`."""
    require_libraries()
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("scoresde_fast.bench")
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["figures"] = figures
    return environment.get_template(template).render(**values)


def write(page: str, path: Path) -> None:
    """Write a page; its folder is made."""
    make_folder(path.parent)
    with replacing(path) as file:
        file.write(page.encode())


def figures(value: float | None, digits: int = 3) -> str:
    """A number rounded to ``digits`` significant digits, without an exponent; None is shown as a hyphen."""
    if value is None:
        return "-"
    return f"{float(f'{value:.{digits}g}'):,.10f}".rstrip("0").rstrip(".") if value else "0"
