# SPDX-License-Identifier: Apache-2.0
"""An unpickler for the Python form of CIFAR-10 that runs no code and takes no more memory than the file."""

from __future__ import annotations

import io
import pickle
import pickletools
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from scoresde_fast.data.codecs import Pixels

ROW = 3 * 32 * 32
MAX_OPCODES = 300_000
"""Limit of the operations of a pickle; the official ones have less than 100 000."""
MAX_OF_KIND = {"tuple": 16, "reference": 16}
"""Limits by kind. Deeply nested tuples overflow the stack when a dictionary hashes them, and references let a few
nested tuples stand for billions. The official pickles have less than ten of each."""
_KINDS = {
    **dict.fromkeys(("TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET"), "tuple"),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET", "DUP"), "reference"),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), "text"),
}
_ENCODED_BYTES = ["reference", "text", "reference", "tuple", "REDUCE"]
"""The bytes of Python 3 in protocol 2, a call of a function in the memo. They are not counted."""
_MEMO = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")


class ForbiddenPickleError(ValueError):
    """A pickle refers to a class or function that arrays, lists and strings do not need."""


def unpickle(raw: bytes, source: str, *, trust_pickle: bool) -> tuple[Pixels, list[int]]:
    """Return ``data`` (N, 3072) and ``labels`` of a dictionary pickled by Python 2 or 3.

    Raises:
        ValueError: the pickle is corrupt, has other content, or exceeds the limits of `_check_opcodes`.
        ForbiddenPickleError: without ``trust_pickle``, it contains not only arrays, lists and strings.
    """
    try:
        if not trust_pickle:
            _check_opcodes(raw)
        content = pickle.loads(raw, encoding="bytes") if trust_pickle else _SafeUnpickler(raw, source).load()
        by_name = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        images, labels = np.asarray(by_name["data"]), np.atleast_1d(np.asarray(by_name["labels"]))
    except ForbiddenPickleError:
        raise
    except Exception as error:  # unpickling corrupt bytes can raise almost any error
        reason = " ".join(str(error).split())
        raise ValueError(f"{source} is not a complete pickle of data and labels ({reason})") from error
    if images.dtype != np.uint8 or labels.dtype.kind not in "iu" or images.shape != (len(labels), ROW):
        raise ValueError(
            f"data in {source} is {images.dtype} {images.shape} with {len(labels)} labels of {labels.dtype}; expected "
            f"uint8 (N, {ROW}) and N integers"
        )
    return images, labels.tolist()


def _check_opcodes(raw: bytes) -> None:
    """Raise ValueError if the operations of a pickle could exhaust the memory or the stack of the process."""
    counts: Counter[str] = Counter()
    kinds: list[str] = []  # of the last operations other than those of the memo
    for number, (opcode, argument, _) in enumerate(pickletools.genops(raw), 1):
        if number > MAX_OPCODES:
            raise ValueError(f"it has more than {MAX_OPCODES} operations")
        if opcode.name in _MEMO:
            if argument is not None and argument > number:  # the unpickler allocates a table of this length
                raise ValueError(f"object {number} has the index {argument}")
            continue
        kind = _KINDS.get(opcode.name, opcode.name)
        kinds = [*kinds[-4:], kind]
        counts[kind] += 1
        if kinds == _ENCODED_BYTES:
            counts.subtract(["reference", "reference", "tuple"])
        if counts[kind] > MAX_OF_KIND.get(kind, MAX_OPCODES):
            raise ValueError(f"it has more than {MAX_OF_KIND[kind]} {kind}s")


class _SafeUnpickler(pickle.Unpickler):
    """Unpickles arrays with harmless stand-ins for their classes; refuses every other class and function."""

    def __init__(self, raw: bytes, source: str) -> None:
        super().__init__(io.BytesIO(raw), encoding="bytes")
        self._source = source

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STAND_INS:
            raise ForbiddenPickleError(
                f"{self._source} contains {module}.{name}, not only arrays, lists and strings, so loading it could "
                "execute arbitrary code: use another form of the data, or pass trust_pickle if you trust its author"
            )
        return _STAND_INS[module, name]


class _DType:
    """Stand-in for numpy.dtype."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name

    def __setstate__(self, _: object) -> None:
        """Ignore byte order and alignment, which single bytes do not have."""


class _Array:
    """Stand-in for numpy.ndarray, because ndarray trusts the pickled state and crashes if it is invalid."""

    def __setstate__(self, state: tuple[object, Any, _DType, object, bytes]) -> None:
        _, self._shape, self._dtype, _, self._raw = state

    def __array__(self, dtype: object = None, copy: object = None) -> npt.NDArray[Any]:
        if self._dtype.name not in (b"u1", "u1"):
            raise ValueError(f"an array of {self._dtype.name!r}")
        return np.frombuffer(self._raw, np.uint8).reshape(self._shape)


_STAND_INS: dict[tuple[str, str], Any] = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),
}
"""Harmless replacements for the classes and functions in a pickle of arrays."""
