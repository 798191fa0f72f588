"""The latest end of a daemon that stops."""

import threading

import pytest

from sidecard.daemon import stop_deadline
from sidecard.daemon.stop_deadline import StopDeadline

WAIT_SECONDS = 10.0


@pytest.mark.parametrize("fails", [False, True])
def test_a_stop_that_takes_too_long_ends_the_process(fails: bool) -> None:
    """After its last words, even if these fail."""
    said: list[object] = []
    ended = threading.Event()

    def last_words() -> None:
        said.append("words")
        if fails:
            raise OSError

    def end(code: int) -> None:
        said.append(code)
        ended.set()

    StopDeadline(last_words, end).start(0.0)
    assert ended.wait(WAIT_SECONDS)
    assert said == ["words", 0]


def test_last_words_that_hang_end_the_process_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket's file may be on the disk that hangs."""
    monkeypatch.setattr(stop_deadline, "LAST_WORDS_SECONDS", 0.01)
    hanging, ended = threading.Event(), threading.Event()
    StopDeadline(hanging.wait, lambda _: ended.set()).start(0.0)  # type: ignore[arg-type]  # any callable
    assert ended.wait(WAIT_SECONDS)
    hanging.set()


def test_a_daemon_that_has_stopped_is_left_alone() -> None:
    """Also one that never began to stop."""
    said: list[str] = []
    deadline = StopDeadline(lambda: said.append("words"), said.append)  # type: ignore[arg-type]  # any callable
    deadline.cancel()
    deadline.start(WAIT_SECONDS)
    timer = deadline._timer
    assert timer is not None
    deadline.cancel()
    timer.join(WAIT_SECONDS / 2)
    assert not timer.is_alive()
    assert said == []


def test_a_host_without_room_for_a_thread_has_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stop goes on as before."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    deadline = StopDeadline(lambda: None)
    deadline.start(0.0)
    deadline.cancel()
    assert deadline._timer is None
