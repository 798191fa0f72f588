"""Whether two values are the same: equal, and of the same types, at every place. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

_LEAVES: Final = frozenset({str, bytes, bytearray, int, bool, type(None)})
_SEQUENCES: Final = frozenset({list, tuple})
_SETS: Final = frozenset({set, frozenset})
_WITH_FIELDS: Final = ("__dataclass_fields__", "__attrs_attrs__", "__pydantic_fields__")

PLAIN: Final = frozenset({str, bytes, int, float, bool, type(None), list, dict})
"""Types that come back from msgpack as they are."""


def place_of_difference(one: Any, other: Any, place: str = "value") -> str | None:
    """Return where two values differ in type or content, as a path, with the two types; None if they are the same."""
    kind = type(one)
    if one is other:
        return None

    if kind is not type(other):
        return f"{place} is {_named(one)}, and would come back as {_named(other)}"

    if kind in _LEAVES:
        return None if one == other else f"{place} would come back changed"

    if kind is float:
        # By representation: -0.0 is not 0.0, and NaN is NaN.
        return None if repr(one) == repr(other) else f"{place} would come back changed"

    if kind in _SETS:
        return _difference_of_sets(one, other, place)

    parts = _parts_of(one, place)
    if parts is None:
        return None if _equal(one, other) else f"{place} would come back changed"

    other_parts = _parts_of(other, place) or iter(())
    for part, other_part in _paired(parts, other_parts):
        if part is None or other_part is None or part[0] != other_part[0]:
            return f"{place} would come back with other parts"

        difference = place_of_difference(part[1], other_part[1], part[0])
        if difference is not None:
            return difference

    return None


def place_of_fancy(value: Any) -> str | None:
    """Return where a value has a part that msgpack would change, as `place_of_difference`; None if it has none."""
    level = [("value", value)]
    while level:
        inner: list[tuple[str, Any]] = []
        for place, one in level:
            kind = type(one)
            if kind not in PLAIN:
                return f"{place} is {_named(one)}"

            if kind is list:
                if not _SCALARS.issuperset(map(type, one)):
                    inner += [
                        (f"{place}[{index}]", part) for index, part in enumerate(one) if type(part) not in _SCALARS
                    ]
            elif kind is dict:
                for name, part in one.items():
                    if type(name) not in _NAMES:
                        return f"a key of {place} is {_named(name)}"

                    if type(part) not in _SCALARS:
                        inner.append((f"{place}[{name!r}]", part))

        level = inner

    return None


_SCALARS: Final = PLAIN - {list, dict}
_NAMES: Final = frozenset({str, bytes, int, float, bool, type(None)})


def _difference_of_sets(one: Any, other: Any, place: str) -> str | None:
    if one != other:
        return f"{place} would come back changed"

    # 1 equals True and 1.0, so equal sets may have members of other types.
    types = {member: type(member) for member in other}
    for member in one:
        if types[member] is not type(member):
            return f"a member of {place} is {_named(member)}, and would come back as another type"

    return None


def _parts_of(value: Any, place: str) -> Iterator[tuple[str, Any]] | None:
    """Return the parts of a value with their places; None for a value that only equality can compare."""
    if isinstance(value, Mapping):
        parts = []
        for name in value:
            parts += [(f"key {name!r} of {place}", name), (f"{place}[{name!r}]", value[name])]

        return iter([*parts, *_attributes(value, place)])

    if isinstance(value, list | tuple):
        items = ((f"{place}[{index}]", item) for index, item in enumerate(value))
        return iter([*items, *_attributes(value, place)])

    names = getattr(type(value), "__struct_fields__", None)
    if names is not None:
        return ((f"{place}.{name}", getattr(value, name)) for name in names)

    if not any(hasattr(value, name) for name in _WITH_FIELDS):
        return None

    attributes = list(_attributes(value, place))
    extra = getattr(value, "__pydantic_extra__", None)
    if extra:
        attributes += [(f"{place}.{name}", part) for name, part in extra.items()]

    fields_set = getattr(value, "__pydantic_fields_set__", None)
    if fields_set is not None:
        attributes.append((f"{place}'s set fields", sorted(fields_set)))

    return iter(attributes) if attributes else None


def _attributes(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    for name, part in getattr(value, "__dict__", {}).items():
        yield f"{place}.{name}", part

    for base in type(value).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in {"__dict__", "__weakref__"} and not name.startswith("__pydantic") and hasattr(value, name):
                yield f"{place}.{name}", getattr(value, name)


def _equal(one: Any, other: Any) -> bool:
    dtype = getattr(one, "dtype", None)
    if dtype is not None and hasattr(one, "tobytes"):
        # numpy's arrays and scalars, whose == compares each element.
        same = dtype == other.dtype and getattr(one, "shape", None) == getattr(other, "shape", None)
        return bool(same and one.tobytes() == other.tobytes())

    zone = getattr(one, "tzinfo", None)
    if zone is not None and getattr(other, "tzinfo", None) is not None and hasattr(one, "utcoffset"):
        # Instants are equal in all zones; the value is not.
        fixed = zone.utcoffset(None) is not None and other.tzinfo.utcoffset(None) is not None
        return bool(one == other and one.utcoffset() == other.utcoffset() and (fixed or zone == other.tzinfo))

    return bool(one == other)


def _paired(
    one: Iterator[tuple[str, Any]], other: Iterator[tuple[str, Any]]
) -> Iterator[tuple[tuple[str, Any] | None, tuple[str, Any] | None]]:
    from itertools import zip_longest  # noqa: PLC0415 - for values that are no plain ones

    return zip_longest(one, other)


def _named(value: Any) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    return f"of type {name}"
