"""Whether a value is plain, and whether two values are the same: equal, and of the same types, at every place. Pure."""

import array
import functools
import operator
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from typing import Any, Final

from sidecard_client.functions import attribute_name
from sidecard_client.protocol.nesting import MAX_DEPTH, nests_too_deep

PLAIN: Final = frozenset({str, bytes, int, float, bool, type(None), list, dict})
"""Types that come back from msgpack as they are."""

PLAIN_KEYS: Final = PLAIN - {list, dict}
"""Those that can be keys of a dict."""

_EXACT: Final = frozenset({str, bytes, bytearray, int, bool, type(None)})
_MIN_INT, _MAX_INT = -(2**63), 2**64 - 1

_NAN: Final = "is NaN, which equals nothing: return a number or None"
_TOO_LARGE: Final = "is an integer beyond 64 bits: return it as text"
TOO_DEEP: Final = f"is nested more than {MAX_DEPTH} deep, or contains itself: return a flatter value, or its text"
_ADVICE: Final = ": name that type in the function's annotation or with returns=, or return str, bytes, numbers, None, lists or dicts"
_ADVICE_OF_KIND: Final = {
    CoroutineType: ": call the function with AsyncClient, which awaits it",
    GeneratorType: ": call the function with stream(), or return a list",
    AsyncGeneratorType: ": call the function with stream() of AsyncClient, or return a list",
}
_SURROGATE: Final = "has a lone surrogate, which has no UTF-8 form: return bytes, or another text"


def name_of_kind(kind: type) -> str:
    """Return the name of a class, with its module unless that is Python's own; the same in all versions of Python."""
    module = kind.__module__
    if module == "builtins":
        return kind.__qualname__

    return f"{'pathlib' if module == 'pathlib._local' else module}.{kind.__qualname__}"


def fault_of_plain(value: Any, advice: str = _ADVICE) -> tuple[str, str] | None:
    """Return the path and the problem of a part that msgpack would change or refuse; None if it has none.

    ``advice`` is what to do about a part of another type.
    """
    if nests_too_deep(value):
        return "", TOO_DEEP

    level = [("", value)]
    while level:
        inner: list[tuple[str, Any]] = []
        for place, one in level:
            kind = type(one)
            if kind is list:
                if not _is_faultless(one):
                    inner += [(f"{place}[{index}]", part) for index, part in enumerate(one)]
            elif kind is dict:
                fault = _fault_of_keys(one, advice)
                if fault is not None:
                    return place, fault

                if not _is_faultless([*one.values()]):
                    inner += [(f"{place}[{name!r}]", part) for name, part in one.items()]
            else:
                fault = _fault_of_scalar(one, advice)
                if fault is not None:
                    return place, fault

        level = inner

    return None


def _fault_of_keys(entries: Mapping[Any, Any], advice: str) -> str | None:
    for name in entries:
        fault = _fault_of_scalar(name, advice)
        if fault is not None:
            return f"has the key {name!r:.40}, which {fault}"

    return None


def _is_faultless(parts: list[Any]) -> bool:
    """Return whether all of many parts are scalars without a fault; quickly for parts of one type."""
    kinds = set(map(type, parts))
    if kinds <= {int}:
        return not parts or (min(parts) >= _MIN_INT and max(parts) <= _MAX_INT)

    if kinds == {float}:
        return not any(map(operator.ne, parts, parts))

    if kinds == {str}:
        return all(map(str.isascii, parts))

    return kinds <= {bytes, bool, type(None)}


def _fault_of_scalar(one: Any, advice: str) -> str | None:
    kind = type(one)
    if kind is str:
        if not one.isascii():
            try:
                one.encode()
            except UnicodeEncodeError:
                return _SURROGATE
    elif kind is int:
        if not _MIN_INT <= one <= _MAX_INT:
            return _TOO_LARGE
    elif kind is float:
        if one != one:  # noqa: PLR0124 - NaN
            return _NAN
    elif kind not in PLAIN_KEYS:
        return f"is of type {name_of_kind(kind)}{_ADVICE_OF_KIND.get(kind, advice)}"

    return None


def difference_of(  # noqa: C901 - one case for each kind of value
    one: Any, other: Any
) -> tuple[str, str] | None:
    """Return the path and the problem of a part that differs in type or content; None if the values are the same.

    It finds what constructors, and comparisons of the app's own classes, do with values that were taken apart correctly.
    """
    kind = type(one)
    if kind is not type(other):
        return "", f"is of type {name_of_kind(kind)}, and would come back as {name_of_kind(type(other))}"

    if one is other:
        return None

    if kind in _EXACT:
        return None if one == other else _CHANGED

    if kind is float:
        # By representation: -0.0 is not 0.0.
        return None if repr(one) == repr(other) else _CHANGED

    if kind in {set, frozenset}:
        return _difference_of_sets(one, other)

    if isinstance(one, list | tuple | deque):
        if getattr(one, "maxlen", None) != getattr(other, "maxlen", None):
            return _CHANGED

        parts: Any = [] if kind is list and _are_same_scalars(one, other) else enumerate(one)
        others = enumerate(other) if parts else []
        return _difference_of_parts(parts, others, "[{!r}]") or _difference_of_states(one, other)

    if isinstance(one, Mapping):
        if [*map(type, one)] != [*map(type, other)] or [*one] != [*other]:
            return "", "would come back with other keys"

        return _difference_of_parts(one.items(), other.items(), "[{!r}]") or _difference_of_states(one, other)

    if hasattr(kind, "__struct_fields__"):
        names = kind.__struct_fields__
        pairs = ((name, getattr(one, name)) for name in names), ((name, getattr(other, name)) for name in names)
        return _difference_of_parts(*pairs, ".{}") or _difference_of_states(one, other)

    if any(hasattr(kind, mark) for mark in _WITH_FIELDS):
        return _difference_of_states(one, other)

    return None if _are_equal(one, other) else _CHANGED


_WITH_FIELDS: Final = ("__dataclass_fields__", "__attrs_attrs__", "__pydantic_fields_set__", "__fields_set__")
_PYDANTIC: Final = ("__pydantic_extra__", "__pydantic_private__", "__pydantic_fields_set__")
_CHANGED: Final = ("", "would come back changed")


def _are_same_scalars(one: Any, other: Any) -> bool:
    """Return whether two lists of scalars are the same, quickly; False for other lists."""
    kinds = [*map(type, one)]
    if kinds != [*map(type, other)]:
        return False

    found = set(kinds)
    if found == {float}:
        return array.array("d", one).tobytes() == array.array("d", other).tobytes()

    return found <= _EXACT and one == other


def _difference_of_parts(one: Any, other: Any, step: str) -> tuple[str, str] | None:
    for part, other_part in zip_longest(one, other):
        if part is None or other_part is None or part[0] != other_part[0]:
            return "", "would come back with other parts"

        difference = difference_of(part[1], other_part[1])
        if difference is not None:
            return step.format(part[0]) + difference[0], difference[1]

    return None


def _difference_of_sets(one: Any, other: Any) -> tuple[str, str] | None:
    if one != other:
        return _CHANGED

    # 1 equals True and 1.0, so equal sets may have members of other types.
    types = {member: type(member) for member in other}
    same = all(types[member] is type(member) for member in one)
    return None if same else ("", "has members that would come back as another type")


def _difference_of_states(one: Any, other: Any) -> tuple[str, str] | None:
    if type(one).__module__ == "builtins":
        return None

    return _difference_of_parts(_state_of(one), _state_of(other), ".{}")


def _state_of(value: Any) -> Iterator[tuple[str, Any]]:
    kind = type(value)
    for name, part in sorted(getattr(value, "__dict__", {}).items()):
        if not isinstance(getattr(kind, name, None), functools.cached_property):
            yield name, part

    for name in slots_of(kind):  # type: ignore[arg-type]  # mypy does not take classes for hashable
        if hasattr(value, name) and not name.endswith("_cached_hash"):
            yield name, getattr(value, name)

    is_current = hasattr(kind, "__pydantic_fields_set__")
    for name in _PYDANTIC if is_current else ("__fields_set__",):
        part = getattr(value, name, None)
        if part is not None:
            yield name, sorted(part) if name.endswith("_set__") else part


@functools.lru_cache(maxsize=256)
def slots_of(kind: Any) -> tuple[str, ...]:
    """Return the names of the attributes that a class's instances keep in slots, but not those of its libraries."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            attribute = attribute_name(name, base)
            if not attribute.startswith("__"):
                names[attribute] = None

    return tuple(names)


def _are_equal(one: Any, other: Any) -> bool:
    if hasattr(one, "dtype") and hasattr(one, "tobytes"):
        # numpy's arrays and scalars, whose == compares each element.
        same = one.dtype == other.dtype and one.shape == other.shape
        return bool(same and one.tobytes() == other.tobytes())

    if hasattr(one, "tzinfo"):
        # Instants are equal in all zones; the values are not.
        zone, other_zone = one.tzinfo, other.tzinfo
        same = type(zone) is type(other_zone) and zone == other_zone and one.fold == other.fold
        return bool(same and one == other and one.tzname() == other.tzname())

    return bool(one == other)
