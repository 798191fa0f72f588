"""The daemon's log: readable on a terminal, JSON otherwise. It never contains prompts or answers."""

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from traceback import format_exception
from typing import Any, Protocol, TextIO

from msgspec import json

from sidecard.core import notes
from sidecard.core.effects import Effect, SendReply
from sidecard.core.events import Event, RequestReceived
from sidecard.core.notes import Note
from sidecard.core.operations.watch import SHOWN_KEY_CHARACTERS, fields_of, name_of
from sidecard.printable import printable, printable_json
from sidecard_client.protocol import wire

MAX_LINES_PER_SECOND = 20
"""Limit of one event: a misbehaving peer must not fill the disk."""

_LEVELS: dict[type[Note], str] = {
    notes.Evicted: "debug",
    notes.ViewUnavailable: "warning",
    **dict.fromkeys((notes.LeaseEnded, notes.Reelected, notes.StaleLeaseRefused, notes.DrainStarted), "info"),
    **dict.fromkeys((notes.BreakerProbing, notes.BreakerClosed, notes.StoreRecovered), "info"),
    **dict.fromkeys((notes.FlightFailed, notes.EntryRefused, notes.TableFull, notes.QueueFull), "warning"),
    **dict.fromkeys((notes.BreakerOpened, notes.BreakerDisabled, notes.BudgetSpent, notes.StoreFailed), "warning"),
}
_WEIGHTS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


class LogStream(Protocol):
    """The destination of log lines."""

    def write(self, text: str, /) -> object:
        """Write a line."""

    def flush(self) -> object:
        """Write buffered lines."""

    def isatty(self) -> bool:
        """Return whether the stream is a terminal."""


LineWriter = Callable[[str, str, dict[str, object]], None]
"""Writes a line with a level, an event and fields; ``exc_info`` is an exception."""


class Log:
    """Writes log lines of ``level`` and above. ``clock`` is monotonic, and used for the rate limit only.

    ``level`` may be changed at any time. ``left_out`` counts lines above the rate limit.
    """

    def __init__(self, write_line: LineWriter, level: str, clock: Callable[[], float]) -> None:
        self.level = level
        self.left_out = 0
        self._write_line = write_line
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}
        """For each event, the start of its current second and its lines so far."""

    def write(self, level: str, event: str, **fields: object) -> None:
        """Write a line, within the rate limit of the event; the next one written has the number of those left out."""
        if _WEIGHTS[level] < _WEIGHTS[self.level]:
            return

        now = self._clock()
        began_at, lines = self._windows.get(event, (now, 0))
        if now - began_at >= 1.0:
            if lines > MAX_LINES_PER_SECOND:
                fields["left_out"] = lines - MAX_LINES_PER_SECOND

            began_at, lines = now, 0

        self._windows[event] = began_at, lines + 1
        if lines < MAX_LINES_PER_SECOND:
            self._write_line(level, event, fields)
        else:
            self.left_out += 1

    def write_note(self, note: Note) -> None:
        """Log a note of the core."""
        self.write(_LEVELS[type(note)], name_of(type(note)).replace("_", " "), **fields_of(note))

    def write_traffic(self, event: Event, effects: Sequence[Effect]) -> None:
        """Log each reply with its request, at level debug."""
        peer_id, request = (event.peer.id, event.request) if isinstance(event, RequestReceived) else (0, None)
        for effect in effects:
            if not isinstance(effect, SendReply):
                continue

            reply = effect.reply
            asked = request if request is not None and (peer_id, request.id) == (effect.peer_id, reply.id) else None
            op = wire.tag_of(effect.answer_to if asked is None else type(asked))
            names = {name: getattr(asked, name, None) or getattr(reply, name, None) for name in ("key", "lease")}
            if names["key"] is not None:
                names["key"] = names["key"][:SHOWN_KEY_CHARACTERS]

            self.write("debug", "answered", peer=effect.peer_id, op=op, reply=wire.tag_of(type(reply)), **names)

    def write_fault(self, event: str, fault: BaseException, **fields: object) -> None:
        """Log an internal error with its traceback."""
        self.write("error", event, exc_info=fault, **fields)


def open_log(level: str, form: str, clock: Callable[[], float], stream: LogStream | None = None) -> Log:
    """Return a daemon's log. ``form`` is ``auto``, ``console`` or ``json``; ``stream`` is standard error by default."""
    stream = sys.stderr if stream is None else stream
    console = form == "console" or (form == "auto" and stream.isatty())
    return Log(_console_writer(stream) if console else _json_writer(stream), level, clock)


def _json_writer(stream: LogStream) -> LineWriter:
    # Without structlog, whose import takes a tenth of the start; the order of the fields is structlog's.
    def write_line(level: str, event: str, fields: dict[str, object]) -> None:
        fault = fields.pop("exc_info", None)
        timestamp = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        line = fields | {"event": event, "level": level, "timestamp": timestamp}
        if isinstance(fault, BaseException):
            line["exception"] = "".join(format_exception(fault)).removesuffix("\n")

        stream.write(f"{printable_json(_in_json(line))}\n")
        stream.flush()

    return write_line


def _console_writer(stream: LogStream) -> LineWriter:
    structlog = _structlog()
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            _escape_fields,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.dev.ConsoleRenderer(
                colors=stream.isatty(), exception_formatter=_escaped_traceback, pad_event_to=0
            ),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_WEIGHTS["debug"]),
        context_class=dict,
        cache_logger_on_first_use=True,
    )
    return lambda level, event, fields: getattr(logger, level)(event, **fields)


def _escape_fields(_: object, __: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Escape what would control the terminal: peers choose names, and backends write messages."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in fields.items()}


def _escaped_traceback(stream: TextIO, fault: Any) -> None:
    stream.write("\n" + printable("".join(format_exception(*fault)).removesuffix("\n"), keep="\n"))


def _in_json(line: Any) -> str:
    try:
        return json.encode(line, enc_hook=repr).decode()
    except UnicodeEncodeError:
        # A file name may contain any bytes, and logging it must not end the daemon.
        return json.encode({name: _printable(value) for name, value in line.items()}, enc_hook=repr).decode()


def _printable(value: Any) -> Any:
    return value if isinstance(value, int | float | None) else str(value).encode(errors="backslashreplace").decode()


def _structlog() -> Any:
    """Import structlog without rich.

    structlog imports rich if it is installed, for tracebacks that this log does not use: 60 ms of a start that should take
    less than 150. ``None`` in `sys.modules` means "not installed".
    """
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]  # supported by the import system

    try:
        import structlog  # noqa: PLC0415 - see above
    finally:
        if hidden:
            del sys.modules["rich"]

    return structlog
