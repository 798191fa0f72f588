"""Clients of a daemon whose memory is damaged: they never crash, hang, or return a wrong value."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.view import keeper
from sidecard_client.view.reader import ViewReader
from tests.daemons import Daemon, poll

_KEYS = 12
_MAX_CALL_SECONDS = 5.0


class _DamagingDaemon(Daemon):
    """A real daemon that damages its views."""

    def start_again(self) -> None:
        self._command[2] = "tests.damaging_daemon"
        super().start_again()


class _Reads:
    """How many reads of views were answers, and how many were refused."""

    def __init__(self) -> None:
        self.answered = 0
        self.refused = 0


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> _Reads:
    """Count reads. A client whose view is damaged while it attaches it asks again soon."""
    counted, read = _Reads(), ViewReader.read

    def counting(*arguments: Any) -> Any:
        hit = read(*arguments)
        counted.answered += hit is not None
        counted.refused += hit is None
        return hit

    monkeypatch.setattr(ViewReader, "read", counting)
    monkeypatch.setattr(keeper, "RETRY_SECONDS", 0.05)
    return counted


@pytest.fixture
def path(socket_path: str) -> Iterator[str]:
    """Start a daemon that damages its views."""
    daemon = _DamagingDaemon(socket_path)
    yield socket_path
    daemon.close()


def _value(key: int) -> dict[str, Any]:
    return {"key": key, "text": f"{key}" * (50 * key)}


def _refuse() -> None:
    raise AssertionError("an answer is stored, and was not found")


@pytest.mark.parametrize("seconds", [0.7, pytest.param(30.0, marks=pytest.mark.slow)])
def test_client_that_reads_damaged_views_returns_right_values_alone(path: str, reads: _Reads, seconds: float) -> None:
    """Each answer is the stored one, from the view or from the socket, and comes at once."""
    with Client(path, daemon_timeout=10, on_unavailable="raise") as client:
        ways: list[Callable[[str], Any]] = [client.get, lambda name: client.call(_refuse, key=name)]
        for key in range(_KEYS):
            client.put(str(key), _value(key))

        for key in range(_KEYS):
            poll(lambda: client.get(str(key)) is not None and reads.answered > key, "there is no view")  # noqa: B023

        until, number, longest_seconds = time.monotonic() + seconds, 0, 0.0
        while time.monotonic() < until:
            number += 1
            began_at = time.monotonic()
            assert ways[number & 1](str(number % _KEYS)) == _value(number % _KEYS)
            longest_seconds = max(longest_seconds, time.monotonic() - began_at)

        assert longest_seconds < _MAX_CALL_SECONDS
        assert reads.answered > reads.refused > 0, "nothing was read, or nothing was damaged"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_async_client_that_reads_damaged_views_returns_right_values_alone(path: str, reads: _Reads) -> None:
    """As the blocking client."""
    async with AsyncClient(path, daemon_timeout=10, on_unavailable="raise") as client:
        for key in range(_KEYS):
            await client.put(str(key), _value(key))

        with anyio.fail_after(30):
            while not (reads.answered > 1000 and reads.refused):
                for key in range(_KEYS):
                    assert await client.get(str(key)) == _value(key)
