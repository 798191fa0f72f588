"""Quantities as people write them: ``256MiB``, ``512M``, ``5m``, ``1h30m``."""

import re
from typing import Any

_BYTES: dict[str, int] = {"": 1, "b": 1} | {
    name: base**power
    for power, letter in enumerate("kmgt", 1)
    # A single letter is binary, as in systemd, Docker and cgroups.
    for name, base in ((f"{letter}ib", 1024), (letter, 1024), (f"{letter}b", 1000))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0} | {
    f"{name}{plural}": seconds
    for name, seconds in (
        ("sec", 1.0),
        ("second", 1.0),
        ("min", 60.0),
        ("minute", 60.0),
        ("hour", 3600.0),
        ("day", 86400.0),
    )
    for plural in ("", "s")
}
_DURATION = re.compile(r"(?:\s*\d+(?:\.\d+)?\s*[a-z]+)+\s*", re.IGNORECASE)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)", re.IGNORECASE)


def bytes_in(text: str) -> float:
    """Return the number of bytes that ``text`` means. Raises `ValueError`."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _BYTES:
        raise ValueError

    unit = _BYTES[match[2].lower()]
    # Whole numbers stay exact.
    number = float(match[1]) if "." in match[1] else int(match[1])
    return number * unit


def seconds_in(value: Any) -> Any:
    """Return the number of seconds that text means, and other values as they are. Raises `ValueError`."""
    if not isinstance(value, str):
        return value

    if not _DURATION.fullmatch(value):
        return float(value)

    try:
        return sum(float(number) * _SECONDS[unit.lower()] for number, unit in _PART.findall(value))
    except KeyError:
        raise ValueError from None
