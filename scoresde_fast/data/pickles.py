# SPDX-License-Identifier: Apache-2.0
"""Arrays out of pickles, without running what a pickle asks for."""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from scoresde_fast.data.png import Pixels

_BROKEN = (
    *(ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, SyntaxError, TypeError),
    *(ValueError, pickle.UnpicklingError),
)
"""What unpickling raises where the bytes are no whole pickle."""


class Foreign(ValueError):
    """A pickle asks for something that arrays, lists and texts do not need."""


def unpickled(raw: bytes, where: str, names: Sequence[str], *, trusted: bool) -> list[npt.NDArray[Any]]:
    """The arrays, or lists, of those names in a pickled dictionary.

    Args:
        raw: the pickle, also one of Python 2.
        where: what an error says of where it is from.
        trusted: let it run what it asks for; else it may ask for arrays, lists and texts alone.

    Raises:
        ValueError: it is damaged, lacks a name, or asks for more than it may.
    """
    try:
        content = pickle.loads(raw, encoding="bytes") if trusted else _Unpickler(raw, where).load()
        found = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        return [np.asarray(found[name]) for name in names]
    except Foreign:
        raise
    except _BROKEN as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{where} is no whole pickle of {' and '.join(names)} ({reason})") from error


class _Type:
    """What a pickle says of the type of an array's numbers."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name

    def __setstate__(self, _: object) -> None:
        """Byte order and more, which single bytes have none of."""


class _Array:
    """What a pickle says of an array; numpy itself trusts it, and breaks where it lies."""

    def __setstate__(self, state: tuple[object, Any, _Type, object, bytes]) -> None:
        _, self._shape, self._type, _, self._raw = state

    def __array__(self, dtype: object = None, copy: object = None) -> Pixels:
        if self._type.name not in (b"u1", "u1"):
            raise ValueError(f"an array of {self._type.name!r}")
        return np.frombuffer(self._raw, np.uint8).reshape(self._shape)


_HARMLESS: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}
"""All that a pickle of arrays asks for: stand-ins that keep what they are told, and do nothing."""


class _Unpickler(pickle.Unpickler):
    """Admits stand-ins for what arrays need, so that nothing that a pickle names is ever run."""

    def __init__(self, raw: bytes, where: str) -> None:
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _HARMLESS:
            raise Foreign(
                f"{self._where} holds {module}.{name}, more than arrays, lists and texts, so it may run any program: "
                "take another form of the data, or trust the pickle (trust_pickle) if you know who made it"
            )
        return _HARMLESS[module, name]
