"""Signals that arrive before the daemon's event loop handles them: by default, each would kill the process."""

import signal
from types import FrameType
from typing import NoReturn

STOPPING = (signal.SIGTERM, signal.SIGINT)
KEPT = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_received: list[int] = []
_installed: list[bool] = []


def install() -> None:
    """From now on, a signal to stop ends the process with 0, and the others are kept until `take`."""
    for number in STOPPING:
        signal.signal(number, _end)

    for number in KEPT:
        signal.signal(number, _keep)

    _installed.append(True)


def take() -> list[int]:
    """Return the signals that were kept, oldest first, and keep none."""
    taken = _received[:]
    _received.clear()
    return taken


def ignore() -> None:
    """Ignore all of these signals if `install` was called: the daemon has stopped, and its process is about to end."""
    if _installed:
        for number in (*STOPPING, *KEPT):
            signal.signal(number, signal.SIG_IGN)


def _end(_number: int, _frame: FrameType | None) -> NoReturn:
    # Nothing is served yet. An exception, because the start may hang, for example in reading a settings file.
    ignore()
    raise SystemExit(0)


def _keep(number: int, _frame: FrameType | None) -> None:
    if number not in _received:
        _received.append(number)
