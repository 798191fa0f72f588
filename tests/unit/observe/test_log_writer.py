"""Log lines for a stream that accepts them late, or never."""

import threading
from io import StringIO

import pytest

from sidecard.observe import log_writer
from sidecard.observe.log_writer import LogWriter

PATIENCE_SECONDS = 20.0


class Gate(StringIO):
    """A stream that blocks until it is opened."""

    def __init__(self) -> None:
        super().__init__()
        self.opened = threading.Event()
        self.entered = threading.Event()

    def write(self, text: str) -> int:
        """Wait until the gate is open, then write."""
        self.entered.set()
        assert self.opened.wait(PATIENCE_SECONDS)
        return super().write(text)


def test_lines_are_written_in_order() -> None:
    """None is lost."""
    stream = StringIO()
    writer = LogWriter(stream)
    for number in range(1000):
        writer.write(f"{number}\n")

    assert writer.drain(PATIENCE_SECONDS)
    assert stream.getvalue().split() == [str(number) for number in range(1000)]
    assert writer.dropped == 0


def test_a_blocked_stream_does_not_block_its_writer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines above the bound are counted; queued lines are written once the stream continues."""
    monkeypatch.setattr(log_writer, "MAX_QUEUED_LINES", 3)
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


def test_drain_waits_for_the_line_that_is_being_written() -> None:
    """That line is not queued any more."""
    stream = Gate()
    writer = LogWriter(stream)
    writer.write("last\n")
    assert stream.entered.wait(PATIENCE_SECONDS)
    assert not writer.drain(0.01)
    stream.opened.set()
    assert writer.drain(PATIENCE_SECONDS)


def test_lines_for_a_closed_stream_are_counted_as_dropped() -> None:
    """Nothing is raised."""
    stream = StringIO()
    stream.close()
    writer = LogWriter(stream)
    writer.write("lost\n")
    assert writer.drain(PATIENCE_SECONDS)
    assert writer.dropped == 1
