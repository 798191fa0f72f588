"""Forms of the standard library's scalar classes: times, exact numbers, identifiers, paths and enums."""

import enum
import functools
import os
import re
import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from typing import Any, Final

from msgspec import UNSET, UnsetType

from sidecard_client.values.forms import Form, Misfit, ScalarForm, misfit
from sidecard_client.values.likeness import name_of_kind

_ZONE_KEY: Final = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")

_TEXTS: Final = {
    "pathlib": ("PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "ipaddress": ("IPv4Address", "IPv6Address", "IPv4Network", "IPv6Network", "IPv4Interface", "IPv6Interface"),
}
"""Classes whose text makes an equal object, by module."""

_CONCRETE_PATHS: Final = {"Path": "PosixPath", "PurePath": "PurePosixPath"}
"""What the constructors of `pathlib` return."""


def scalar_form(kind: type) -> Form | None:
    """Return the form of a class; None for one that is not known."""
    if issubclass(kind, enum.Enum):
        return EnumForm(kind)

    if kind in {datetime, time}:
        import zoneinfo  # noqa: F401, PLC0415 - because of an annotation, so that no received bytes need it

        return ScalarForm(kind, _from_time, functools.partial(_to_time, kind), is_scalar=False)

    if kind in _BUILTIN:
        to_plain, from_plain, is_scalar = _BUILTIN[kind]
        return ScalarForm(kind, to_plain, from_plain, is_scalar=is_scalar)

    name = kind.__module__.partition(".")[0], kind.__name__
    if name in _BY_NAME:
        to_plain, restored = _BY_NAME[name]
        return ScalarForm(kind, to_plain, functools.partial(restored, kind))

    if _made_of_text(kind):
        return ScalarForm(kind, str, kind)

    if name[0] == "pathlib" and name[1] in _CONCRETE_PATHS:
        concrete = type(kind())
        return ScalarForm(concrete, str, concrete)

    return None


def _made_of_text(kind: type) -> bool:
    module = kind.__module__
    if module.startswith("pydantic"):
        # URLs, which are no subclasses of str.
        return hasattr(kind, "unicode_string") and not issubclass(kind, str)

    return kind.__name__ in _TEXTS.get(module.partition(".")[0], ())


class EnumForm(Form):
    """Members of an enum, by name; of a flag, by value."""

    is_scalar = True

    def __init__(self, kind: type[enum.Enum]) -> None:
        self.kind = kind
        values = ",".join(f"{name}={member.value!r}" for name, member in kind.__members__.items() if _is_stable(member))
        self.shape = f"{name_of_kind(kind)}<{values}>"
        self._is_flag = issubclass(kind, enum.Flag)
        self._members = dict(kind.__members__)

    def to_plain(self, value: Any) -> Any:
        """Return the member's name, or the flags' number."""
        if type(value) is not self.kind:
            raise misfit(value, name_of_kind(self.kind))

        return int(value._value_) if self._is_flag else value._name_

    def from_plain(self, plain: Any) -> Any:
        """Return the member."""
        if not self._is_flag:
            return self._members[plain]

        if type(plain) is not int:
            raise TypeError(f"a {type(plain).__name__} in place of a number")

        return self.kind(plain)


def _is_stable(member: enum.Enum) -> bool:
    return isinstance(member.value, str | int | float | bytes | bool | None)


def _to_uuid(kind: Any, plain: str) -> Any:
    # As `pickle` does: the constructor takes twice as long.
    number = int(plain.replace("-", ""), 16)
    if number >= 1 << 128:
        raise ValueError("more than 128 bits")

    value = object.__new__(kind)
    value.__setstate__({"int": number})
    return value


def _from_complex(value: complex) -> list[float]:
    if value != value:  # noqa: PLR0124 - NaN
        raise Misfit("is NaN, which equals nothing: return a number or None")

    return [value.real, value.imag]


def _from_decimal(value: Any) -> str:
    if value.is_nan():
        raise Misfit("is NaN, which equals nothing: return a number or None")

    return str(value)


def _to_decimal(kind: Any, plain: Any) -> Any:
    if type(plain) is not str:
        raise TypeError(f"a {type(plain).__name__} in place of a text")

    value = kind(plain)
    if value.is_nan():
        raise ValueError("NaN")

    return value


def _to_bytearray(plain: Any) -> bytearray:
    if type(plain) is not bytes:  # a number would be its length
        raise TypeError(f"a {type(plain).__name__} in place of bytes")

    return bytearray(plain)


# Times and zones: a text, which has an offset but no other zone, or ``[bytes, zone]`` with the bytes that pickle takes. ----


def _from_time(value: Any) -> Any:
    zone = value.tzinfo
    if not value.fold and (zone is None or _has_only_an_offset(zone)):
        return value.isoformat()

    return [value.__reduce_ex__(4)[1][0], None if zone is None else _from_zone(zone)]


def _to_time(kind: Any, plain: Any) -> Any:
    if type(plain) is str:
        return kind.fromisoformat(plain)

    state, zone = plain
    if type(state) is not bytes:
        raise TypeError(f"a {type(state).__name__} in place of bytes")

    if zone is None:
        value = kind(state)
    else:
        value = kind(state, _pydantic_zone_of(zone) if type(zone) is int else _to_zone(zone))

    return value.replace()  # which examines what the bytes say: an hour of 255 is none


def _has_only_an_offset(zone: tzinfo) -> bool:
    return type(zone) is timezone and zone.tzname(None) == timezone(zone.utcoffset(None)).tzname(None)


def _from_zone(zone: tzinfo) -> Any:
    """Return ``["offset", offset, name or None]``, ``["zone", key]``, or the seconds of one of pydantic's zones."""
    kind: Any = type(zone)
    if kind is timezone:
        offset = zone.utcoffset(None) or timedelta()
        name = None if _has_only_an_offset(zone) else zone.tzname(None)
        return ["offset", [offset.days, offset.seconds, offset.microseconds], name]

    if _is_zone_info(kind):
        key = getattr(zone, "key", None)
        if isinstance(key, str) and _is_installed(key) and kind(key) is zone:
            return ["zone", key]

    if kind is _pydantic_zone():
        return round((zone.utcoffset(None) or timedelta()).total_seconds())

    raise Misfit(
        f"has the time zone {zone!r}, which may not exist in another process: "
        "convert it, for example with .astimezone(timezone.utc)"
    )


def _to_zone(plain: Any) -> tzinfo:
    way, *rest = plain
    if way == "offset":
        (days, seconds, microseconds), name = rest
        offset = timedelta(days, seconds, microseconds)
        return timezone(offset) if name is None else timezone(offset, name)

    (key,) = rest
    if not _is_installed(key):
        raise ValueError(f"the time zone {key!r} is not known in this process")

    zone: tzinfo = sys.modules["zoneinfo"].ZoneInfo(key)
    return zone


@functools.lru_cache(maxsize=64)
def _pydantic_zone_of(seconds: int) -> tzinfo:
    kind: Any = _pydantic_zone()
    zone: tzinfo = kind(seconds)
    return zone


def _is_zone_info(kind: type) -> bool:
    zones = sys.modules.get("zoneinfo")
    return zones is not None and kind is zones.ZoneInfo


def _is_installed(key: str) -> bool:
    """Return whether the host has the zone's file. Without it, `ZoneInfo` would import a package by the zone's name."""
    if _ZONE_KEY.fullmatch(key) is None:
        return False

    from zoneinfo import TZPATH  # noqa: PLC0415 - imported already

    return any(os.path.isfile(f"{place}/{key}") for place in TZPATH)  # noqa: PTH113 - without another import


def _pydantic_zone() -> type[tzinfo] | None:
    return getattr(sys.modules.get("pydantic_core"), "TzInfo", None)


_BUILTIN: Final[Mapping[type, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]]] = {
    date: (date.isoformat, date.fromisoformat, True),
    timedelta: (lambda value: [value.days, value.seconds, value.microseconds], lambda plain: timedelta(*plain), False),
    complex: (_from_complex, lambda plain: complex(*plain), False),
    bytearray: (bytes, _to_bytearray, True),
    UnsetType: (lambda _: "UNSET", lambda _: UNSET, True),
}
"""What makes a value plain and back, and whether the plain form can be the key of a map."""

_BY_NAME: Final[Mapping[tuple[str, str], tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]]] = {
    ("decimal", "Decimal"): (_from_decimal, _to_decimal),
    ("uuid", "UUID"): (str, _to_uuid),
    ("fractions", "Fraction"): (str, lambda kind, plain: kind(*map(int, plain.split("/")))),  # no "1e999999999"
}
"""As `_BUILTIN`, of classes that are not imported here, by module and name."""
