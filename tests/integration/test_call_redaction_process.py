"""The redaction process: real, with expressions that never end."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from sidecard.observe.call_log.redaction_process import RedactionProcess
from tests.daemons import poll

pack = msgspec.msgpack.Encoder().encode

ENDLESS = r"(a+)+b"
"""Tries 2^N ways through N letters."""


@pytest.fixture
def maker() -> Iterator[RedactionProcess]:
    """Make texts with a pattern that is dear where there are many letters a."""
    maker = RedactionProcess((r"\d{4}", ENDLESS))
    yield maker
    maker.close()


def children() -> set[int]:
    """Return the processes that this one has."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


def test_texts_are_redacted(maker: RedactionProcess) -> None:
    """By one process."""
    before = children()
    for number in range(100):
        assert maker.texts(pack({"n": number, "pin": "1234"}), None) == (f'{{"n":{number},"pin":"[redacted]"}}', None)

    assert len(children() - before) == 1


def test_a_large_text_is_returned(maker: RedactionProcess) -> None:
    """Pipes hold less than it has."""
    prompt, answer = maker.texts(pack("x" * 250_000), pack("y" * 250_000))
    assert (len(str(prompt)), len(str(answer))) == (250_002, 250_002)


@pytest.mark.slow
def test_an_endless_expression_blocks_no_caller(maker: RedactionProcess) -> None:
    """The interpreter of this process goes on meanwhile; the text fails, and the next one succeeds."""
    done = threading.Event()
    faults = []

    def ask() -> None:
        try:
            maker.texts(pack("a" * 40), None)
        except OSError as error:
            faults.append(error.strerror)
        finally:
            done.set()

    threading.Thread(target=ask).start()
    turns = 0
    while not done.wait(0.001):
        turns += 1

    assert turns > 100
    assert faults == ["it takes more than 2 s of CPU time: simplify calls.redact"]
    assert maker.texts(pack("12345"), None) == ('"[redacted]5"', None)


def test_a_killed_process_is_restarted(maker: RedactionProcess) -> None:
    """Its current text fails."""
    before = children()
    maker.texts(pack("a"), None)
    (child,) = children() - before
    os.kill(child, signal.SIGKILL)
    with pytest.raises(OSError, match="ended with -9"):
        maker.texts(pack("a"), None)

    assert maker.texts(pack("a"), None) == ('"a"', None)


def test_the_process_survives_a_signal_to_its_group(maker: RedactionProcess) -> None:
    """Otherwise stopping the whole group would lose the last texts."""
    before = children()
    maker.texts(pack("a"), None)
    (child,) = children() - before
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(child, number)

    assert maker.texts(pack("a"), None) == ('"a"', None)


def test_the_process_ends_with_its_parent(maker: RedactionProcess) -> None:
    """However that ends: its pipe ends too."""
    before = children()
    maker.texts(pack("a"), None)
    (child,) = children() - before
    process = maker._process
    assert process is not None
    assert process.stdin is not None
    process.stdin.close()
    process.stdin = None
    poll(lambda: Path(f"/proc/{child}/stat").read_text().rpartition(") ")[2].startswith("Z"), "it goes on")


def test_close_leaves_no_process(maker: RedactionProcess) -> None:
    """Closing twice is harmless."""
    before = children()
    maker.texts(pack("a"), None)
    maker.close()
    maker.close()
    assert children() <= before
