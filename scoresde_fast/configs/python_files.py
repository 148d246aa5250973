# SPDX-License-Identifier: Apache-2.0
"""Configurations in Python, as those of score_sde: read from the syntax tree, and never run.

A file has a function ``get_config`` of plain assignments to attributes of a ``ConfigDict``, or such assignments to
``config`` at its top level.  It may start from the function of another file that it imports.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scoresde_fast.configs.text_files import read_text

ENTRIES = ("get_config", "get_default_configs")
"""Functions that return a configuration, the first of which is read."""
MAPPINGS = ("ConfigDict", "dict")
"""Functions that make an empty section."""
MAX_CALLS = 8
"""Longest chain of files and functions that start from each other."""


class Unread:
    """An expression whose value is not known because it is not plain; it is an error only as an option's value."""

    def __init__(self, node: ast.AST) -> None:
        self.node = node

    def __repr__(self) -> str:
        text = ast.unparse(self.node)
        short = text if len(text) <= 40 else f"{text[:40]}..."
        return f"the expression `{short}` of line {getattr(self.node, 'lineno', '?')}, which is not run"


def read_python(path: Path) -> dict[str, Any]:
    """Return the sections of a configuration file in Python.

    Raises:
        ValueError: the file is not Python, has no configuration, or makes it by more than plain assignments.
        FileNotFoundError: the file, or one that it starts from, does not exist.
    """
    try:
        config = _Module(path).configuration()
    except (RecursionError, MemoryError):
        raise ValueError("its expressions nest too deeply, so it is no configuration") from None
    if not isinstance(config, dict):
        raise ValueError(f"it has no configuration: it needs a function {ENTRIES[0]}() that returns a ConfigDict")
    return config


class _Module:
    """The syntax tree of a file: its functions, the functions that it imports, and its top-level statements."""

    def __init__(self, path: Path, calls: int = 0) -> None:
        if calls > MAX_CALLS:
            raise ValueError(f"its configurations start from each other more than {MAX_CALLS} times")
        self.path, self.calls = path, calls
        try:
            tree = ast.parse(read_text(path))
        except SyntaxError as error:
            raise ValueError(f"not a Python file: {error.msg} in line {error.lineno}") from error
        self.functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self.imports = {
            alias.asname or alias.name: (node, alias.name)
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        self.body = tree.body

    def configuration(self, function: str | None = None) -> Any:
        """Return what ``function`` returns, by default the first of `ENTRIES`, or the top-level ``config``."""
        name = function or next((name for name in ENTRIES if name in self.functions), None)
        if name is None:
            skipped = ast.Import | ast.ImportFrom | ast.FunctionDef
            return self._run([node for node in self.body if not isinstance(node, skipped)], {}).get("config")
        if name not in self.functions:
            raise ValueError(f"{self.path.name} has no function {name}()")
        names = self._run(self.functions[name].body, {})
        return names.get("return")

    def _run(self, statements: Sequence[ast.stmt], names: dict[str, Any]) -> dict[str, Any]:
        """Follow assignments, and return the values of names; that of "return" is what the function returns."""
        for node in statements:
            if isinstance(node, ast.Return):
                return {**names, "return": None if node.value is None else self._value(node.value, names)}
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                value = self._value(node.value, names)
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    _assign(target, value, names)
            elif not isinstance(node, ast.Import | ast.ImportFrom | ast.Pass) and not _is_text(node):
                raise ValueError(_not_plain(node))
        return names

    def _value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        if isinstance(node, ast.Name):
            return names.get(node.id, Unread(node))
        if isinstance(node, ast.Attribute):
            owner = self._value(node.value, names)
            return owner.get(node.attr, Unread(node)) if isinstance(owner, dict) else Unread(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        try:
            return ast.literal_eval(node)
        except (ValueError, TypeError, RecursionError, MemoryError):
            return Unread(node)

    def _call(self, node: ast.Call) -> Any:
        """Return the value of ``ConfigDict()``, or of a function without arguments of this file or of another."""
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if node.args or node.keywords:
            return Unread(node)
        if name in MAPPINGS:
            return {}
        if name in self.functions:
            return _Module(self.path, self.calls + 1).configuration(name)
        if isinstance(node.func, ast.Name) and name in self.imports:
            statement, function = self.imports[name]
            return _Module(self._imported(statement), self.calls + 1).configuration(function)
        return Unread(node)

    def _imported(self, node: ast.ImportFrom) -> Path:
        """Return the file of an imported module, searched from the folder of this file upwards."""
        relative = Path(*(node.module or "").split(".")).with_suffix(".py")
        folders = self.path.resolve().parents
        found = [folder / relative for folder in folders if (folder / relative).is_file()]
        if not found:
            raise FileNotFoundError(
                f"{str(self.path)!r} starts from the file {str(relative)!r}, which is in no folder above it"
            )
        return found[0]


def _assign(target: ast.expr, value: Any, names: dict[str, Any]) -> None:
    """Assign to a name, or to an attribute or item of a section."""
    if isinstance(target, ast.Name):
        names[target.id] = value
        return
    parts: list[str] = []
    while isinstance(target, ast.Attribute | ast.Subscript):
        key = target.attr if isinstance(target, ast.Attribute) else getattr(target.slice, "value", None)
        if not isinstance(key, str):
            raise ValueError(_not_plain(target))
        parts.append(key)
        target = target.value
    owner: Any = names.get(target.id) if isinstance(target, ast.Name) else None
    for part in reversed(parts[1:]):
        owner = owner.get(part) if isinstance(owner, dict) else None
    if not isinstance(owner, dict):
        raise ValueError(_not_plain(target))
    owner[parts[0]] = value


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _not_plain(node: ast.AST) -> str:
    return (
        f"line {getattr(node, 'lineno', '?')} is not a plain assignment to a section; configurations in Python "
        "are read and not run: write config.to_dict() to a .json file, and give that"
    )
