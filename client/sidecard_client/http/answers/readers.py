"""Read answers of JSON: one object, server-sent events, or lines. Pure."""

from collections.abc import Callable
from typing import Any, Final, Literal

import msgspec

from sidecard_client.http.answers.events import MAX_EVENT_BYTES, EventSplitter, LineSplitter
from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.family import AnswerReader, AnswerSummary, UnclassifiableAnswer, media_type_of

MAX_BODY_BYTES: Final = 15 * 1024 * 1024
"""Limit of an answer that is not a stream. Larger ones are not shared."""

StreamForm = Literal["events", "lines"]

_EVENTS: Final = "text/event-stream"
LINE_TYPES: Final = frozenset(
    {
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/x-jsonlines",
        "application/stream+json",
    }
)
"""Media types of lines of JSON."""

_DONE: Final = b"[DONE]"

_from_json = msgspec.json.Decoder().decode


def is_json(media_type: str) -> bool:
    """Return whether a media type is JSON's."""
    return media_type == "application/json" or media_type.endswith("+json")


def json_reader(
    make: Callable[..., JsonAnswer], *, content_type: str, form: StreamForm = "events", stream: bool, choices: int = 1
) -> AnswerReader:
    """Return the reader for an answer of this content type, in an API whose streams have this form.

    ``stream`` says what was requested; it decides for an answer without a content type. Any other answer may be whole or a
    stream, whatever was requested.
    """
    media_type = media_type_of(content_type)
    if not media_type:
        media_type = "application/json" if not stream else _EVENTS if form == "events" else "application/x-ndjson"

    if form == "events" and media_type == _EVENTS:
        return EventReader(make(choices, streamed=True))

    if form == "lines" and (media_type in LINE_TYPES or (stream and media_type == "application/json")):
        return LineReader(make(choices, streamed=True))

    if is_json(media_type) and media_type not in LINE_TYPES:
        return WholeReader(make(choices, streamed=False))

    return UnclassifiableAnswer(f"its content type is {media_type[:80]!r}")


class WholeReader(AnswerReader):
    """Reads an answer that is one JSON object."""

    def __init__(self, answer: JsonAnswer) -> None:
        self._answer = answer
        self._body = bytearray()

    def feed(self, data: bytes) -> None:
        """Keep the bytes until the end."""
        self.has_output = self.has_output or bool(data.strip())
        if self.classifiable and len(self._body) + len(data) <= MAX_BODY_BYTES:
            self._body += data
        else:
            self._body.clear()
            self.classifiable = False

    def finish(self) -> AnswerSummary:
        """Read the object."""
        if not self.classifiable:
            return self._answer.summary(f"it has more than {MAX_BODY_BYTES} bytes", "size")

        return self._answer.summary(_receive(self._answer, "", bytes(self._body)))


class EventReader(AnswerReader):
    """Reads an answer in server-sent events."""

    def __init__(self, answer: JsonAnswer) -> None:
        self._answer = answer
        self._events = EventSplitter()
        self._unreadable = ""

    @property
    def terminal(self) -> bool:
        """``[DONE]``, the API's last event, or an error was received."""
        return self._answer.marked_done or self._answer.ended or self._answer.error is not None

    def feed(self, data: bytes) -> None:
        """Read the events that the bytes complete."""
        for name, event in self._events.feed(data):
            self._read(name, event)

        self.has_output = self.has_output or self._events.too_long

    def finish(self) -> AnswerSummary:
        """Read a last event that nothing ended."""
        for name, event in self._events.rest():
            self._read(name, event)

        if self._events.too_long and not self.terminal and not self._unreadable:
            return self._answer.summary(f"it has an event of more than {MAX_EVENT_BYTES} bytes", "size")

        return self._answer.summary(self._unreadable)

    def _read(self, name: str, data: bytes) -> None:
        # Nothing counts after the end, nor after an unreadable event, where SDKs stop.
        if self.terminal or self._unreadable or self._answer.ignores(name):
            return

        if data.strip().startswith(_DONE):
            self._answer.marked_done = True
        else:
            self._unreadable = _receive(self._answer, name, data)
            self.classifiable = self._answer.fits or not self._unreadable

        self.has_output = self._answer.has_output or self._answer.marked_done or bool(self._unreadable)


class LineReader(AnswerReader):
    """Reads an answer in lines of JSON."""

    def __init__(self, answer: JsonAnswer) -> None:
        self._answer = answer
        self._lines = LineSplitter()
        self._unreadable = ""

    @property
    def terminal(self) -> bool:
        """The API's last line or an error was received."""
        return self._answer.ended or self._answer.error is not None

    def feed(self, data: bytes) -> None:
        """Read the lines that the bytes complete."""
        self.has_output = self.has_output or bool(data.strip())
        for line in self._lines.feed(data):
            self._read(line)

    def finish(self) -> AnswerSummary:
        """Read a last line that nothing ended."""
        self._read(self._lines.rest())
        if self._lines.too_long and not self.terminal and not self._unreadable:
            return self._answer.summary(f"it has a line of more than {MAX_EVENT_BYTES} bytes", "size")

        return self._answer.summary(self._unreadable)

    def _read(self, line: bytes) -> None:
        if not self.terminal and not self._unreadable and line.strip():
            self._unreadable = _receive(self._answer, "", line)
            self.classifiable = self._answer.fits or not self._unreadable


def _receive(answer: JsonAnswer, name: str, data: bytes) -> str:
    """Read an object; return what is wrong with it if it cannot be read."""
    try:
        event: Any = _from_json(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
        if name == "error":
            answer.fail(data.decode("utf-8", "replace"))

        return "it is not JSON"

    events = event if answer.lists and isinstance(event, list) else [event]
    for one in events:
        if not isinstance(one, dict):
            return "it is not a JSON object"

        answer.receive(name, one)

    return ""
