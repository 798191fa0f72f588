"""Stable forms of values that functions hold: plain data that is equal in every process, and differs where the values do.

A form of a container or an object is a map with one kind of entry, so that no plain value has the form of another thing.
"""

import re
import sys
from enum import Enum
from functools import cached_property
from pathlib import PurePath
from types import ModuleType
from typing import Any, Final

import msgspec

from sidecard_client.functions import attribute_name, is_named_alone
from sidecard_client.keys.naming import name_of_class

MAX_WITHIN: Final = 64
"""Functions and containers within each other: a function that captures a list with a function that captures another one."""

_SCALARS: Final = frozenset({str, bytes, bytearray, int, float, bool, type(None)})
_PLAIN_TYPES: Final = (str, bytes, bytearray, int, float, list, tuple, dict, set, frozenset)

_BY_TEXT: Final = frozenset(
    {
        "datetime.date",
        "datetime.datetime",
        "datetime.time",
        "datetime.timedelta",
        "datetime.timezone",
        "decimal.Decimal",
        "fractions.Fraction",
        "uuid.UUID",
        "zoneinfo.ZoneInfo",
        "builtins.complex",
        "builtins.range",
    }
)
"""Types whose ``repr`` is the whole value."""

_ARRAY_KINDS: Final = frozenset("biufcmMSU")
"""Kinds of numpy's dtypes whose bytes are the whole value."""

_POINTER_BYTES: Final = 8
"""Of a slot. An instance also has one for its attributes, and one for weak references."""

_BOOKKEEPING: Final = frozenset({"__dict__", "__weakref__", "__pydantic_fields_set__"})

_encode = msgspec.msgpack.Encoder(order="deterministic").encode


class Unstable(Exception):
    """The value at ``place`` has no stable form, for ``reason``."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(place, reason)
        self.place = place
        self.reason = reason


class Forms:
    """Makes stable forms."""

    def form(self, value: Any, place: str, around: tuple[Any, ...]) -> Any:
        """Return the stable form of a value within ``around``. Raises `Unstable`."""
        kind = type(value)
        if kind in _SCALARS:
            return _scalar(value)

        for depth, one in enumerate(around):
            if value is one:
                return {"around": depth}

        if len(around) >= MAX_WITHIN:
            raise Unstable(place, f"is within {MAX_WITHIN} others, which is too deep for a stable form")

        if isinstance(value, ModuleType):
            return {"module": value.__name__}

        if isinstance(value, type):
            return self._class(value, place, around)

        within = (*around, value)
        form = self._container(value, place, within)
        if form is None:
            form = self.function(value, place, around)

        if form is None:
            form = self._value(value, place, within)

        if form is None:
            raise Unstable(place, f"is a {kind.__module__}.{kind.__qualname__}, which has no stable form")

        return form

    def function(self, value: Any, place: str, around: tuple[Any, ...]) -> Any:
        """Return the form of a function; None for what is none."""
        raise NotImplementedError

    def _class(self, kind: type, place: str, around: tuple[Any, ...]) -> dict[str, Any]:
        form: dict[str, Any] = {"class": name_of_class(kind)}
        if kind.__module__ != "builtins" and not is_named_alone(kind):
            # Several classes may have this name.
            form["attributes"] = {
                name: self.form(value, f"{place}.{name}", (*around, kind))
                for name, value in list(kind.__dict__.items())
                if not name.startswith("__")
            }

        return form

    def _container(self, value: Any, place: str, within: tuple[Any, ...]) -> Any:
        kind = type(value)
        if kind is list or kind is tuple:
            return [self.form(item, f"{place}[{index}]", within) for index, item in enumerate(tuple(value))]

        if kind is dict:
            entries = [
                [self.form(name, f"a key of {place}", within), self.form(item, f"{place}[{name!r}]", within)]
                for name, item in value.copy().items()
            ]
            return {"dict": sorted(entries, key=_encode)}

        if kind is set or kind is frozenset:
            return {"set": sorted(_encode(self.form(item, f"a member of {place}", within)) for item in value.copy())}

        return None

    def _value(self, value: Any, place: str, within: tuple[Any, ...]) -> Any:
        """Return the form of a value that is defined by its parts; None for any other."""
        kind = type(value)
        if isinstance(value, Enum):
            return {"member": f"{name_of_class(kind)}.{value.name}"}

        if isinstance(value, PurePath):
            return {"path": str(value)}

        if f"{kind.__module__}.{kind.__qualname__}" in _BY_TEXT:
            return {kind.__qualname__: repr(value)}

        if isinstance(value, re.Pattern):
            return {"pattern": [value.pattern, value.flags]}

        if getattr(kind, "has_no_part_in_keys", False):
            return {"client": True}

        if _is_array(value):
            return {"array": [value.dtype.str, list(value.shape), value.tobytes()]}

        if compared_fields(value) is None:
            return None

        known, below = state_below(value)
        if not known:
            return None

        attributes = attributes_of(value) if below is None else attributes_of(value) | {"": below}
        return {
            "value": name_of_class(kind),
            "attributes": {name: self.form(part, f"{place}.{name}", within) for name, part in attributes.items()},
        }


def _scalar(value: Any) -> Any:
    """Return the form of a scalar: itself, or a map if msgpack or a key has no place for it."""
    if type(value) is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return {"surrogates": value.encode(errors="surrogatepass")}

        return value

    unusual = (type(value) is int and not -(2**63) <= value < 2**64) or value != value  # noqa: PLR0124 - NaN
    return {"number": str(value)} if unusual else value


def compared_fields(value: Any) -> Any:
    """Return the fields by which instances of a class are compared, by name, or a plain value itself.

    None if the class compares instances by identity, or by rules of its own.
    """
    kind = type(value)
    if kind in _PLAIN_TYPES or isinstance(value, Enum | PurePath | re.Pattern) or _is_array(value):
        return value

    fields = getattr(kind, "__dataclass_fields__", None)
    if fields is not None:
        parameters = getattr(kind, "__dataclass_params__", None)
        if not getattr(parameters, "eq", False):
            return None

        return _present(value, (name for name, field in fields.items() if getattr(field, "compare", True)))

    attributes = getattr(kind, "__attrs_attrs__", None)
    if attributes is not None:
        equal = [attribute.name for attribute in attributes if attribute.eq]
        return _present(value, equal) if equal and _compares_by_value(kind) else None

    names = getattr(kind, "__struct_fields__", None) or getattr(kind, "__pydantic_fields__", None)
    if names is None and isinstance(value, tuple):
        names = getattr(kind, "_fields", None)

    if names is None or not _compares_by_value(kind):
        return None

    return _present(value, names) | (getattr(value, "__pydantic_extra__", None) or {})


def _compares_by_value(kind: type) -> bool:
    equality: Any = kind.__eq__
    return equality is not object.__eq__


def _present(value: Any, names: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in names if hasattr(value, name)}


def attributes_of(instance: Any) -> dict[str, Any]:
    """Return the attributes that an instance has itself, by name."""
    attributes: dict[str, Any] = {}
    for base in type(instance).__mro__:
        for slot in _slots(base):
            name = attribute_name(slot, base)
            if name not in _BOOKKEEPING and hasattr(instance, name):
                attributes[name] = getattr(instance, name)

    return attributes | {
        name: value
        for name, value in dict(getattr(instance, "__dict__", {})).items()
        if not isinstance(getattr(type(instance), name, None), cached_property)  # is computed of the others, later
    }


def has_slots(kind: type) -> bool:
    """Return whether instances of a class have attributes beside those in their ``__dict__``."""
    return any(name not in _BOOKKEEPING for base in kind.__mro__ for name in _slots(base))


def state_below(instance: Any) -> tuple[bool, Any]:
    """Return whether the state that an instance has beside its attributes is known, and that state, or None."""
    kind = type(instance)
    base = next((base for base in _PLAIN_TYPES if isinstance(instance, base)), None)
    if base is not None:
        return True, base(instance)

    if hasattr(kind, "__struct_fields__"):
        return True, None

    # What a class that is written in C keeps in its instances has no attribute, but a size.
    slots = sum(len(_slots(one)) for one in kind.__mro__)
    return kind.__basicsize__ <= object.__basicsize__ + _POINTER_BYTES * (slots + 2), None


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", kind.__dict__.get("__struct_fields__", ()))
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_array(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray | numpy.generic) and value.dtype.kind in _ARRAY_KINDS
