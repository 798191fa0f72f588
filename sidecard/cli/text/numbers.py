"""Format numbers with their units. Pure."""

_KIBI = 1024
_MICRO = 1e-6
_TEN_MICRO = 9.95e-6
_MILLI = 1e-3
_MINUTE = 60
_HOUR = 3600
_DAY = 86400
_CENT = 0.01


def count(number: int) -> str:
    """Format an integer with thousands separators."""
    return f"{number:,}"


def percent(share: float) -> str:
    """Format a share of 1 as a percentage."""
    return f"{share * 100:.1f} %"


def ratio(number: float) -> str:
    """Format a ratio, such as ``0.50x``."""
    return f"{number:.2f}x"


def dollars(amount: float) -> str:
    """Format an amount of money; amounts below a cent get six decimals, because one call costs fractions of a cent."""
    return f"${amount:,.2f}" if amount == 0 or amount >= _CENT else f"${amount:.6f}"


def seconds(duration: float) -> str:
    """Format a duration in the largest unit that fits."""
    if duration == 0:
        return "0 s"

    if duration < _MICRO:
        return f"{duration * 1e9:.0f} ns"

    if duration < _MILLI:
        return f"{duration * 1e6:.2g} us" if duration < _TEN_MICRO else f"{duration * 1e6:.0f} us"

    if duration < 1:
        return f"{duration * 1e3:.3g} ms"

    if duration < _MINUTE:
        return f"{duration:.3g} s"

    whole = round(duration)
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"

    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"

    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def size(byte_count: float) -> str:
    """Format a number of bytes in the largest binary unit that fits."""
    if abs(byte_count) < _KIBI:
        return f"{byte_count:.0f} B"

    for unit in ("KiB", "MiB", "GiB"):
        byte_count /= _KIBI
        if abs(byte_count) < _KIBI:
            return f"{byte_count:.1f} {unit}"

    return f"{byte_count / _KIBI:.1f} TiB"


def plural(number: int, singular: str, plural: str) -> str:
    """Format a count with its noun, such as ``1 entry`` or ``2,000 entries``."""
    return f"{number:,} {singular if number == 1 else plural}"
