"""Text for people, in which nothing controls a terminal: peers choose names, and models write answers.

Control characters move the cursor, set the window's title or hide lines; characters that change the direction of writing
(U+202E) make a name look like another one.
"""

import re

_SPACES = frozenset("\u00a0\u1680\u202f\u205f\u3000") | frozenset(map(chr, range(0x2000, 0x200B)))
"""Spaces that `str.isprintable` rejects, and that are harmless."""

_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}

_SUSPECT = re.compile(r"[^ -~\n]")
_BASIC = 0xFFFF


def printable(text: str, keep: str = "") -> str:
    """Return ``text`` with each unprintable character as an escape (an ESC as its hexadecimal code), except for ``keep``."""
    if text.isprintable():
        return text

    return "".join(
        character if character.isprintable() or character in keep or character in _SPACES else _escape(character)
        for character in text
    )


def printable_json(text: str) -> str:
    """Return JSON with each unprintable character but line feeds as JSON's own escape; its value stays the same."""
    if text.isprintable():
        return text

    return _SUSPECT.sub(_json_escape, text)


def printable_exposition(text: str) -> str:
    r"""Return metrics with each unprintable character but line feeds as an escape that is itself escaped.

    Prometheus' formats know ``\\``, ``\"`` and ``\n`` alone, and a scrape that has ``\x1b`` fails as a whole: readers get
    the four characters of ``\x1b`` from ``\\x1b``.
    """
    if text.isprintable():
        return text

    return _SUSPECT.sub(_exposition_escape, text)


def _exposition_escape(found: re.Match[str]) -> str:
    shown = printable(found[0])
    return shown if shown == found[0] else f"\\{shown}"


def _escape(character: str) -> str:
    code = ord(character)
    return _SHORT.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code <= _BASIC else f"\\U{code:08x}"  # noqa: PLR2004 - as Python
    )


def _json_escape(found: re.Match[str]) -> str:
    character = found[0]
    if character.isprintable() or character in _SPACES:
        return character

    units = character.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
