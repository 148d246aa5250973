# SPDX-License-Identifier: Apache-2.0
"""`code_sha256`: the identity of a network's code, which with its weights decides the outputs.

The code is followed from the network's classes to the functions, classes and constants that they name, in the user's
own modules.  Of installed libraries only the classes of the network's modules are read; of this package and PyTorch
none.  Whatever the code reads when it runs, such as a file or an environment variable, is not seen.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
import sys
import sysconfig
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from scoresde_fast.networks.adapter import Adapter, Conditional

NOT_READ = ("builtins", "torch", __package__)
"""Packages whose code is not part of the identity."""
INSTALLED = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib"))
"""Folders of Python and of installed libraries; code elsewhere is the user's own."""
SCALARS = (bool, int, float, complex, str, bytes, type(None), torch.dtype)


def code_sha256(network: nn.Module) -> str:
    """Return the SHA-256 of a network's structure and code; comments and formatting do not count."""
    modules = dict(network.named_modules())
    pending: list[object] = [cls for module in modules.values() for cls in type(module).__mro__]
    pending += [module.network for module in modules.values() if isinstance(module, Adapter | Conditional)]
    texts = {re.sub(r" at 0x[0-9a-f]+", "", repr(network))}
    for path, module in modules.items():
        for name, value in _attributes(module):
            texts.add(f"{path}.{name} = {_constant(value) or _name(value)}")
            pending.append(value)
    seen: dict[int, object] = {}  # keeps the objects alive, so that no two have the same id
    while pending:
        part = pending.pop()
        part = getattr(part, "__func__", part)  # of a bound method
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, partial):
            pending.append(part.func)
            texts |= {f"partial {_constant(value) or _name(value)}" for value in (*part.args, *part.keywords.items())}
            continue
        if not (inspect.isclass(part) or inspect.isroutine(part)):  # an object that can be called
            pending.append(type(part))
            continue
        texts.add(_source(part))
        if _is_own(part):
            for name, value in _names(part):
                if constant := _constant(value):
                    texts.add(f"{_name(part)}: {name} = {constant}")
                elif callable(value):
                    texts.add(f"{_name(part)}: {name} is {_name(value)}")
                    pending.append(value)
    return hashlib.sha256("\n".join(sorted(texts)).encode(errors="surrogateescape")).hexdigest()


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield the plain attributes of a module, such as ``self.gain = 3.0``, and its functions.

    Dictionaries and tensors are left out, because networks keep what they have computed in them.
    """
    if _package(module) in NOT_READ:
        return
    for name, value in vars(module).items():
        if not name.startswith("_") and name != "training":
            is_plain = _constant(value) and not isinstance(value, dict | Tensor | np.ndarray)
            if is_plain or (callable(value) and not isinstance(value, nn.Module)):
                yield name, value


def _names(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of everything that a class or function of the user's own refers to."""
    if inspect.isclass(part):
        for name, value in vars(part).items():
            if isinstance(value, property):
                yield from ((name, function) for function in (value.fget, value.fset) if function is not None)
            elif not name.startswith("__") or callable(value):
                yield name, getattr(value, "__func__", value)
        return
    if not isinstance(part, FunctionType):
        return
    names = _code_names(part.__code__)
    for name in names & part.__globals__.keys():
        value = part.__globals__[name]
        if not isinstance(value, ModuleType):
            yield name, value
        elif _is_own(value):
            yield from ((f"{name}.{each}", getattr(value, each)) for each in names if hasattr(value, each))
    for name, cell in zip(part.__code__.co_freevars, part.__closure__ or (), strict=True):
        if cell is not None:
            yield name, _content(cell)
    yield from ((f"default {index}", value) for index, value in enumerate(part.__defaults__ or ()))
    yield from (part.__kwdefaults__ or {}).items()


def _code_names(code: CodeType) -> set[str]:
    """Return the global names and attributes in a code object and those inside it."""
    inner = (_code_names(each) for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*inner)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _constant(value: Any) -> str:
    """Return the text of a constant, or "" for another object."""
    if isinstance(value, SCALARS):
        return repr(value)
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    if not (inspect.isclass(value) or callable(value)) and (isinstance(value, SimpleNamespace) or _is_own(type(value))):
        value = vars(value) if hasattr(value, "__dict__") else repr(value)  # such as a dataclass of options
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, tuple | list) and all(texts := [_constant(each) for each in value]):
        return f"({', '.join(texts)})"
    return ""


def _is_own(part: Any) -> bool:
    """Return whether code is the user's own, rather than that of a library."""
    if _package(part) in NOT_READ:
        return False
    name = part.__name__ if isinstance(part, ModuleType) else getattr(part, "__module__", None)
    file = getattr(sys.modules.get(name or ""), "__file__", None)
    if file is None:
        return name == "__main__"  # typed at a prompt; otherwise built into Python
    return not any(Path(file).is_relative_to(folder) for folder in INSTALLED)


def _package(part: Any) -> str:
    name = part.__name__ if isinstance(part, ModuleType) else getattr(part, "__module__", None)
    return (name or "builtins").partition(".")[0]


def _name(part: Any) -> str:
    """Return the name of a function or class, or that of another object's class.

    The user's own modules are left out: a file has several names.
    """
    named = part if hasattr(part, "__qualname__") else type(part)
    return named.__qualname__ if _is_own(named) else f"{getattr(named, '__module__', None)}.{named.__qualname__}"


def _source(part: Any) -> str:
    """Return the code of a class or function without comments, or "" for code of `NOT_READ`."""
    if _package(part) in NOT_READ:
        return ""
    try:  # of the code, because that of a decorated function would be the function's without the decorator
        text = inspect.getsource(part.__code__ if isinstance(part, FunctionType) else part)
    except (OSError, TypeError):  # typed at a prompt, or compiled
        return getattr(part, "__qualname__", type(part).__qualname__)
    try:
        if text[0].isspace():  # a method; lines of an expression in it may be indented less
            (block,) = ast.parse(f"if True:\n{text}").body
            assert isinstance(block, ast.If)
            return "\n".join(map(ast.unparse, block.body))
        return ast.unparse(ast.parse(text))
    except SyntaxError:  # a part of an expression
        return text
