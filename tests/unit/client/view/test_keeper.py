"""The thread that keeps a client's views."""

import math
import sys
from collections.abc import Callable
from itertools import count
from time import monotonic

import pytest

from sidecard_client.protocol.connection import ConnectionLost
from sidecard_client.view.attachment import ViewConnection
from sidecard_client.view.keeper import RETRY_SECONDS, ViewKeeper
from tests.line_interruptions import was_interrupted


def _lost() -> ViewConnection:
    raise ConnectionLost("refused")


def _forbidden() -> ViewConnection:
    raise ImportError("no module")


@pytest.mark.parametrize("connect", [_lost, _forbidden])
def test_a_view_that_cannot_be_attached_is_asked_for_again_later(connect: Callable[[], ViewConnection]) -> None:
    """Without a daemon, and in a process that may no longer read its own modules. The thread goes on."""
    keeper = ViewKeeper(connect)
    keeper.ask_at["default"] = math.inf
    keeper._wanted.append("default")
    assert keeper.turn(set()) == math.inf
    assert keeper.ask_at["default"] == pytest.approx(monotonic() + RETRY_SECONDS, abs=5.0)


def test_request_for_a_view_that_a_signal_handler_interrupts_can_be_repeated() -> None:
    """Wherever it raises: a lock that it left locked would also block the end of the thread."""
    for number in count(1):
        keeper = ViewKeeper(_lost)
        keeper.ask_at["default"] = 0.0
        interrupted = was_interrupted(number, lambda: keeper.want("default"), ViewKeeper.want)  # noqa: B023 - called here
        assert not keeper._starting.locked(), number
        keeper.stop()
        keeper.join(10.0)
        if not interrupted:
            break

    assert number > 3


def test_a_module_that_cannot_be_imported_is_like_a_missing_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is imported only once there are hits."""
    monkeypatch.setitem(sys.modules, "sidecard_client.view.attachment", None)
    test_a_view_that_cannot_be_attached_is_asked_for_again_later(_lost)
