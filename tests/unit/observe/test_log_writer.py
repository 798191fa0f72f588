"""Lines to a stream that takes them late, or not at all."""

import threading
from io import StringIO

import pytest

from sidecard.observe import log_writer
from sidecard.observe.log_writer import LogWriter

PATIENCE_SECONDS = 20.0


class Gate(StringIO):
    """A stream that takes nothing until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        """Wait, and take it."""
        self.entered.set()
        assert self.opened.wait(PATIENCE_SECONDS)
        return super().write(text)


def test_lines_are_written_in_order() -> None:
    """All of them."""
    stream = StringIO()
    writer = LogWriter(stream)
    for number in range(1000):
        writer.write(f"{number}\n")

    assert writer.drain(PATIENCE_SECONDS)
    assert stream.getvalue().split() == [str(number) for number in range(1000)]
    assert writer.dropped == 0


def test_a_stream_that_takes_nothing_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has no room for is counted, and what it had room for is written once it goes on."""
    monkeypatch.setattr(log_writer, "MAX_WAITING_LINES", 3)
    stream = Gate()
    writer = LogWriter(stream)
    writer.write("0\n")
    assert stream.entered.wait(PATIENCE_SECONDS)
    for number in range(1, 6):
        writer.write(f"{number}\n")

    assert writer.dropped == 2
    assert not writer.drain(0.0)
    stream.opened.set()
    assert writer.drain(PATIENCE_SECONDS)
    assert stream.getvalue().split() == ["0", "1", "2", "3"]


def test_a_line_that_is_being_written_is_waited_for() -> None:
    """It is in no queue any more."""
    stream = Gate()
    writer = LogWriter(stream)
    writer.write("last\n")
    assert stream.entered.wait(PATIENCE_SECONDS)
    assert not writer.drain(0.01)
    stream.opened.set()
    assert writer.drain(PATIENCE_SECONDS)


def test_a_stream_that_was_closed_costs_its_lines() -> None:
    """And nothing else."""
    stream = StringIO()
    stream.close()
    writer = LogWriter(stream)
    writer.write("lost\n")
    assert writer.drain(PATIENCE_SECONDS)
    assert writer.dropped == 1
