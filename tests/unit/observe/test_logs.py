"""The daemon's log: levels, fields, formats, rate limit."""

import io
from typing import get_args

import msgspec
import pytest

from sidecard.core import notes
from sidecard.core.effects import SendReply
from sidecard.core.events import Peer, RequestReceived, Tick
from sidecard.core.operations.watch import SHOWN_KEY_CHARACTERS
from sidecard.observe.logs import _LEVELS, MAX_LINES_PER_SECOND, Log, open_log
from sidecard_client.protocol import wire

KEY = "1:" + "ab" * 32


class Clock:
    """A clock that the test advances."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        """Return true."""
        return True


@pytest.fixture
def stream() -> io.StringIO:
    """Collect the lines."""
    return io.StringIO()


@pytest.fixture
def clock() -> Clock:
    """Start a clock."""
    return Clock()


@pytest.fixture
def log(stream: io.StringIO, clock: Clock) -> Log:
    """Open a log of all levels."""
    return open_log("debug", "json", clock, stream)


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    """Decode the written lines."""
    return [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("note", "level", "event"),
    [
        (notes.LeaseEnded("lost", KEY, "l", "local", 1, 7, "gone"), "info", "lease ended"),
        (notes.Reelected(KEY, "l", 1, 1), "info", "reelected"),
        (notes.FlightFailed(KEY, "fatal", "why", 3), "warning", "flight failed"),
        (notes.StaleLeaseRefused("complete", "l", 1), "info", "stale lease refused"),
        (notes.EntryRefused(KEY, 2, 1), "warning", "entry refused"),
        (notes.Evicted(5), "debug", "evicted"),
        (notes.TableFull("waiters", 9), "warning", "saturated"),
        (notes.DrainStarted(1, 2), "info", "drain started"),
        (notes.BreakerOpened("cloud", "failures", 10.0, 20, 11, 0, 2), "warning", "breaker opened"),
        (notes.BreakerProbing("cloud", 1, 3), "info", "breaker probing"),
        (notes.BreakerClosed("cloud", 4), "info", "breaker closed"),
        (notes.BreakerDisabled("cloud", 5), "warning", "breaker disabled"),
        (notes.QueueFull("local", 512), "warning", "queue full"),
        (notes.BudgetSpent("daily", 5.0, 5.1, hard=True, resets_in_seconds=60.0), "warning", "budget spent"),
    ],
)
def test_every_note_has_a_level_and_its_fields(
    note: notes.Note, level: str, event: str, log: Log, stream: io.StringIO
) -> None:
    """Fields are those of the note, except its message."""
    log.write_note(note)
    (line,) = lines(stream)

    assert (line["level"], line["event"]) == (level, event)
    assert msgspec.structs.asdict(note).keys() - {"message"} <= line.keys()


def test_there_is_a_level_for_every_note() -> None:
    """A note without one would raise when it is first logged."""
    assert set(_LEVELS) == set(get_args(notes.Note))


def test_a_key_is_cut(log: Log, stream: io.StringIO) -> None:
    """Enough to distinguish keys, too little to read the entry."""
    log.write_note(notes.Reelected(KEY, "l", 1, 1))
    assert lines(stream)[0]["key"] == KEY[:SHOWN_KEY_CHARACTERS]


def test_a_lease_without_a_key_has_none(log: Log, stream: io.StringIO) -> None:
    """There is nothing to cut."""
    log.write_note(notes.LeaseEnded("lost", None, "l", "local", 1, 7, "gone"))
    assert lines(stream)[0]["key"] is None
    assert lines(stream)[0]["pid"] == 7


CANARY = "zebra-4711"


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (f"ValueError: cannot parse {CANARY}", "ValueError"),
        (f"openai.RateLimitError: {CANARY}: {CANARY}", "openai.RateLimitError"),
        ("TimeoutError", "TimeoutError"),
        (f"{CANARY}: what follows is a prompt", ""),
        (f"Summarise this, {CANARY}: ...", ""),
        (f"the holder said {CANARY}", ""),
        (f"{CANARY}", ""),
        ("x" * 4000, ""),
        (f"{'a.' * 100}b: {CANARY}", ""),
        (f"ValueError\n{CANARY}: {CANARY}", ""),
        (f" ValueError: {CANARY}", ""),
        ("", ""),
    ],
)
def test_only_the_exception_type_of_a_failure_is_logged(
    message: str, error: str, log: Log, stream: io.StringIO
) -> None:
    """Exceptions of other processes may quote the prompt."""
    log.write_note(notes.FlightFailed(KEY, "fatal", message, 3))
    log.write_note(notes.LeaseEnded("fatal", KEY, "l", "local", 1, 7, message))

    assert [line["error"] for line in lines(stream)] == [error, error]
    assert CANARY not in stream.getvalue()


def test_lines_below_the_level_are_not_written(stream: io.StringIO, clock: Clock) -> None:
    """As `log.level` is set."""
    log = open_log("warning", "json", clock, stream)
    log.write_note(notes.DrainStarted(1, 2))
    log.write_note(notes.TableFull("waiters", 9))

    assert [line["event"] for line in lines(stream)] == ["saturated"]


def test_a_flood_of_one_event_is_cut_and_counted(log: Log, clock: Clock, stream: io.StringIO) -> None:
    """Other events are not affected."""
    for _ in range(MAX_LINES_PER_SECOND + 5):
        log.write_note(notes.StaleLeaseRefused("complete", "l", 1))

    log.write_note(notes.DrainStarted(1, 2))
    clock.now += 1
    log.write_note(notes.StaleLeaseRefused("complete", "l", 1))
    written = lines(stream)

    assert len(written) == MAX_LINES_PER_SECOND + 2
    assert written[-2]["event"] == "drain started"
    assert written[-1]["left_out"] == 5


def test_an_internal_error_is_logged_with_its_traceback(log: Log, stream: io.StringIO) -> None:
    """On one line."""
    try:
        raise ZeroDivisionError("ours")
    except ZeroDivisionError as fault:
        log.write_fault("internal error", fault, correlation="abc")

    (line,) = lines(stream)
    assert (line["event"], line["level"], line["correlation"]) == ("internal error", "error", "abc")
    assert "test_logs.py" in str(line["exception"])
    assert "ZeroDivisionError: ours" in str(line["exception"])


def test_a_message_keeps_its_own_line_breaks(log: Log, stream: io.StringIO) -> None:
    """Only the traceback's last one is removed, as structlog does."""
    log.write_fault("internal error", ZeroDivisionError("ours\n\n"))

    (line,) = lines(stream)
    assert line["exception"] == "ZeroDivisionError: ours\n\n"


@pytest.mark.parametrize(
    ("form", "stream", "is_json"),
    [
        ("auto", io.StringIO(), True),
        ("auto", Terminal(), False),
        ("console", io.StringIO(), False),
        ("json", Terminal(), True),
    ],
)
def test_a_terminal_gets_text_and_a_pipe_gets_json(form: str, stream: io.StringIO, is_json: bool, clock: Clock) -> None:
    """Unless the settings choose the format."""
    log = open_log("info", form, clock, stream)
    log.write("info", "serving", socket="/s")
    text = stream.getvalue()

    assert "serving" in text
    assert text.startswith("{") == is_json
    assert ("\x1b[" in text) == (stream.isatty() and not is_json)


def test_the_console_shows_tracebacks_too(clock: Clock) -> None:
    """Below the line."""
    stream = io.StringIO()
    log = open_log("info", "console", clock, stream)
    log.write_fault("internal error", ZeroDivisionError("ours"))

    assert "ZeroDivisionError: ours" in stream.getvalue()


def test_traffic_logs_request_and_reply(log: Log, stream: io.StringIO) -> None:
    """With peer, beginning of the key, and lease; without any content."""
    log.level = "debug"
    alice = Peer(1, 1000, 100, 7, operator=False)
    value = msgspec.Raw(b"\xa6CANARY")
    log.write_traffic(
        RequestReceived(alice, wire.Begin(KEY, id=4)), [SendReply(1, wire.Lease(4, "l-1", "local", 30.0, 1))]
    )
    shared = wire.Shared(4, value, 0.0, stale=False, saved_seconds=1.0, saved_dollars=0.0, backend="local", meta=None)
    complete = RequestReceived(alice, wire.Complete("l-1", value, id=5))
    log.write_traffic(complete, [SendReply(1, wire.Stored(5, stored=True)), SendReply(2, shared)])
    log.write_traffic(Tick(), [SendReply(2, wire.Timeout(9, 1.0))])

    logged = [{name: line.get(name) for name in ("peer", "op", "reply", "key", "lease")} for line in lines(stream)]
    assert logged == [
        {"peer": 1, "op": "begin", "reply": "lease", "key": KEY[:SHOWN_KEY_CHARACTERS], "lease": "l-1"},
        {"peer": 1, "op": "complete", "reply": "stored", "key": None, "lease": "l-1"},
        {"peer": 2, "op": "begin", "reply": "shared", "key": None, "lease": None},
        {"peer": 2, "op": "begin", "reply": "timeout", "key": None, "lease": None},
    ]
    assert "CANARY" not in stream.getvalue()
