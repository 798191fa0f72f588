"""Advice for a name that is not known: the nearest known one, or all."""

from collections.abc import Iterable

MAX_LISTED = 20


def advice(name: str, known: Iterable[str]) -> str:
    """Return "did you mean X?" if a known name is near, and the first `MAX_LISTED` known names."""
    import difflib  # noqa: PLC0415 - for mistakes only, and it would slow down the start

    names = sorted(known)
    if not names:
        return "there are none"

    listed = ", ".join(map(repr, names[:MAX_LISTED]))
    more = f" and {len(names) - MAX_LISTED:,} more" if len(names) > MAX_LISTED else ""
    near = difflib.get_close_matches(name, names, n=1)
    return f"{f'did you mean {near[0]!r}? ' if near else ''}Known: {listed}{more}"
