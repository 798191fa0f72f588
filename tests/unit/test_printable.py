"""Text for people: nothing in it controls a terminal."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from sidecard.cli import output
from sidecard.cli.status.breakers import breakers_text
from sidecard.cli.text import tables
from sidecard.observe.logs import open_log
from sidecard.printable import printable, printable_exposition, printable_json
from sidecard_client.protocol import wire

HOSTILE = "a\x1b[2J\x1b]0;t\x07\x7f\x9b1m\u202eb\u2066\u200f\r\nc\u2028"
"""Clears the screen, sets a title, deletes, C1's CSI, overrides the direction, breaks the line."""


def is_harmless(text: str) -> bool:
    """Return whether a terminal would only print it; spaces of other widths are harmless."""
    return all(
        character.isprintable() or (character.isspace() and character not in "\r\v\f\x1c\x1d\x1e\x1f\x85\u2028\u2029")
        for character in text
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x9b\x7f", r"\x9b\x7f"),
        ("a\r\n\tb", r"a\r\n\tb"),
        ("\u202e", r"\u202e"),
        ("\U000e0001", r"\U000e0001"),
        ("\ud800", r"\ud800"),
        ("日本\u3000語 é 🙂", "日本\u3000語 é 🙂"),
    ],
)
def test_unprintable_characters_are_escaped(text: str, shown: str) -> None:
    """Letters of all scripts and spaces stay; the rest is legible as Python writes it."""
    assert printable(text) == shown


@given(st.text())
def test_json_keeps_its_value(text: str) -> None:
    """Escapes mean the same characters, and nothing unprintable is left."""
    shown = printable_json(json.dumps({"name": text}, ensure_ascii=False, indent=1))
    assert json.loads(shown) == {"name": text}
    assert is_harmless(shown.replace("\n", ""))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters='\\"\n')))
def test_metrics_stay_readable_for_programs(text: str) -> None:
    """A label's value is what `printable` shows, and the scrape has nothing that controls a terminal."""
    shown = printable_exposition(f'# TYPE m gauge\nm{{l="{text}"}} 1.0\n')
    assert is_harmless(shown.replace("\n", ""))
    (family,) = text_string_to_metric_families(shown)
    assert [sample.labels["l"] for sample in family.samples] == [printable(text)]


@given(st.text())
def test_printable_text_is_one_harmless_line(text: str) -> None:
    """Whatever a peer chose."""
    shown = printable(text)
    assert "\n" not in shown
    assert is_harmless(shown)


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return true."""
        return True


@pytest.mark.parametrize("form", ["console", "json"])
def test_the_log_shows_no_control_characters(form: str) -> None:
    """In fields, in lists, and in tracebacks, whose own lines stay."""
    stream = Terminal()
    log = open_log("info", form, float, stream)
    log.write("warning", "peer denied", reason=HOSTILE, names=[HOSTILE])
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        log.write_fault("store failed", error, backend=HOSTILE)

    # The renderer's own colors.
    text = stream.getvalue()
    for code in ("0", "1", "2", "31", "32", "33", "35", "36", "91"):
        text = text.replace(f"\x1b[{code}m", "")

    assert is_harmless(text.replace("\n", ""))
    assert "Traceback" in text


def test_commands_write_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Neither as text, nor as JSON, nor in tables, nor in errors."""
    output.write(HOSTILE)
    output.write_json({"name": HOSTILE})
    output.write_json_line({"name": HOSTILE})
    output.write(tables.render(tables.table("", ("x", "y"), [(HOSTILE, HOSTILE)]), f"cause of {HOSTILE}"))
    state = wire.BackendState("open", "remote", 1, f"caused by {HOSTILE}", 1.0, 1, 1, 0, 1, 0, None, 0, 0, None, None)
    output.write(breakers_text(wire.Breakers(1, {HOSTILE: state})))
    output.warn(HOSTILE)
    written = capsys.readouterr()
    assert is_harmless((written.out + written.err).replace("\n", ""))
    assert output.json_line({"name": HOSTILE}).isascii()
