# SPDX-License-Identifier: Apache-2.0
"""Sections of options: dataclasses whose annotations give the type and the range of each option."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from functools import cache
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

from scoresde_fast.errors import shown, unknown_message

Section = TypeVar("Section", bound="Options")


@dataclass(frozen=True)
class Range:
    """The allowed values of a number, or of each number of a list; ``above`` and ``below`` exclude the ends."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise ``ValueError`` if ``value`` is out of range."""
        low_fits = value > self.low if self.above else value >= self.low
        high_fits = value < self.high if self.below else value <= self.high
        require(low_fits and high_fits, f"{name} is {shown(value)}; it must be {self}")

    def __str__(self) -> str:
        if not self.above and not self.below:
            return f"from {self.low:g} to {self.high:.15g}"
        low = "greater than" if self.above else "at least"
        return f"{low} {self.low:g} and {'below' if self.below else 'at most'} {self.high:g}"


@dataclass(frozen=True)
class Length:
    """The allowed lengths of a list or a string."""

    low: int
    high: int

    def check(self, name: str, value: Sequence[Any]) -> None:
        """Raise ``ValueError`` if ``value`` is too short or too long."""
        unit = "characters" if isinstance(value, str) else "values"
        require(
            self.low <= len(value) <= self.high,
            f"{name} has {len(value)} {unit}; it must have from {self.low} to {self.high}",
        )


class Options:
    """Base class of sections: checks types and ranges, and makes numbers and lists those of the annotations.

    An annotation is a type, or ``Annotated[type, Range(...), Length(...)]``; a `Range` of a list is that of its items.

    Raises:
        ValueError: an option has another type or is out of range; the message gives its section and what is allowed.
    """

    SECTION: ClassVar[str]
    IGNORED: ClassVar[frozenset[str]]

    def __init_subclass__(cls, section: str, ignored: Sequence[str] = ()) -> None:
        cls.SECTION, cls.IGNORED = section, frozenset(ignored)

    def __post_init__(self) -> None:
        for name, hint in option_types(type(self)).items():  # type: ignore[arg-type]
            object.__setattr__(self, name, _checked(f"{self.SECTION}.{name}", hint, getattr(self, name)))

    @classmethod
    def from_dict(cls: type[Section], options: Any) -> Section:
        """Build the section from a mapping of options.

        Raises:
            ValueError: an option is unknown, missing or invalid, or ``options`` is not a mapping; the message lists
                the valid values.
        """
        options = as_mapping(options)
        if not isinstance(options, Mapping):
            raise ValueError(
                f"section {cls.SECTION!r} of a configuration is {shown(options)}; it must be a mapping of options"
            )
        hints = option_types(cls)  # type: ignore[arg-type]
        for name in options:
            if name not in hints and name not in cls.IGNORED:
                raise ValueError(unknown_message(f"option of section {cls.SECTION!r}", name, hints))
        for option in fields(cls):  # type: ignore[arg-type]
            if option.default is MISSING and option.name not in options:
                kind = hints[option.name]
                allowed = f": one of {', '.join(map(repr, get_args(kind)))}" if get_origin(kind) is Literal else ""
                raise ValueError(f"a configuration must contain {cls.SECTION}.{option.name}{allowed}")
        return cls(**{name: value for name, value in options.items() if name in hints})

    def to_dict(self) -> dict[str, Any]:
        """Return the options as JSON values, for `from_dict`."""
        values = asdict(self)  # type: ignore[call-overload]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def as_mapping(options: Any) -> Any:
    """Return a ``ConfigDict`` of ml_collections, or another object with ``to_dict()``, as a mapping; others as is."""
    is_object = not isinstance(options, Mapping | type) and callable(getattr(options, "to_dict", None))
    return options.to_dict() if is_object else options


@cache
def option_types(cls: type) -> dict[str, Any]:
    """Return the annotation of each option of a section, with its ranges."""
    hints = get_type_hints(cls, include_extras=True)
    return {option.name: hints[option.name] for option in fields(cls)}


def _checked(name: str, hint: Any, value: Any) -> Any:
    """Return ``value`` as the option's type; raise ``ValueError`` if it has another type or is out of range."""
    limits: tuple[Range | Length, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *found = get_args(hint)
        limits = tuple(found)
    if get_origin(hint) is UnionType:
        if value is None:
            return None
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        if not isinstance(value, str) or value not in get_args(hint):
            raise ValueError(unknown_message(name, value, get_args(hint)))
        return value
    if get_origin(hint) is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            raise ValueError(f"{name} is {shown(value)}; it must be a list")
        for limit in limits:
            if isinstance(limit, Length):
                limit.check(name, value)
        ranges = tuple(limit for limit in limits if isinstance(limit, Range))
        item = get_args(hint)[0]
        return tuple(
            _number(name, item, each, ranges) if item is not str else _typed(name, str, each) for each in value
        )
    return _number(name, hint, value, limits) if hint in (int, float) else _typed(name, hint, value, limits)


def _typed(name: str, kind: type, value: Any, limits: Sequence[Any] = ()) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{name} is {shown(value)}; it must be {'a string' if kind is str else 'true or false'}")
    for limit in limits:
        limit.check(name, value)
    return value


def _number(name: str, kind: type, value: Any, limits: Sequence[Range | Length]) -> Any:
    # Python counts bool as int, but `true` as a number is a mistake.
    is_number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        expected = "an integer" if kind is int else "a finite number"
        raise ValueError(f"{name} is {shown(value)}; it must be {expected}")
    for limit in limits:  # before the conversion, because an integer may not fit into a float
        limit.check(name, value)
    return kind(value)


def require(condition: bool, message: str) -> None:
    """Raise ValueError with ``message`` unless ``condition`` is true."""
    if not condition:
        raise ValueError(message)
