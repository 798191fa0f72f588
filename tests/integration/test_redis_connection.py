"""One connection to a server that misbehaves, byte by byte."""

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from sidecard.config.store_url import RedisAddress
from sidecard.store.redis.access import FAULTS, NotAdmittedError, RedisAccess
from sidecard.store.redis.connection import ScriptCall
from sidecard.store.redis.scripts import ALL, RENEW
from sidecard.store.redis.single import SingleConnection

pytestmark = pytest.mark.anyio

GREETING = b"%1\r\n+server\r\n+redis\r\n"
LOADED = b"$40\r\n" + b"0" * 40 + b"\r\n"


@pytest.fixture
def anyio_backend() -> str:
    """As the daemon."""
    return "asyncio"


def access(path: str, **fields: Any) -> RedisAccess:
    """Return how to get to a server at ``path``."""
    given: dict[str, Any] = {
        "address": RedisAddress("single", (), path),
        "username": "",
        "password": "",
        "password_file": "",
        "ca_file": "",
        "cert_file": "",
        "key_file": "",
        "timeout_seconds": 0.2,
        "admits": lambda _: True,
    }
    return RedisAccess(**(given | fields))


class Server:
    """A thread with a plain socket: it greets the first client, then sends the scripted replies regardless of the requests."""

    def __init__(self, path: str, says: tuple[bytes, ...], greeting: bytes = GREETING) -> None:
        self.received: list[bytes] = []
        self._says = says
        self._greeting = greeting
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Wait for the end; to be called when the connection has ended."""
        self._thread.join(5)
        self._listening.close()

    def _serve(self) -> None:
        connection, _ = self._listening.accept()
        with connection, suppress(OSError):
            last = ALL[-1].text.encode() + b"\r\n"
            hello = b""
            while not hello.endswith(last):
                hello += connection.recv(65536)

            self.received.append(hello)
            connection.sendall(self._greeting + LOADED * len(ALL))
            for text in self._says:
                self.received.append(connection.recv(65536))
                if text == b"close":
                    return

                connection.sendall(text)

            while connection.recv(65536):
                pass


@asynccontextmanager
async def connected(socket_path: str, *says: bytes) -> AsyncIterator[tuple[SingleConnection, Server]]:
    """Connect to a server that will say so."""
    server = Server(socket_path, says)
    connection = SingleConnection(access(socket_path))
    try:
        await connection.open()
        yield connection, server
    finally:
        await connection.close()
        await anyio.lowlevel.checkpoint()  # the transport's own turn to close
        server.close()


async def fault_of(connection: SingleConnection, command: tuple[str, ...]) -> Exception:
    """Ask and watch until something fails; return what."""
    with pytest.raises(ExceptionGroup) as raised:  # noqa: PT012 - both are needed for it
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.monitor)
            await connection.run([command])

    fault: Exception = raised.value.exceptions[0]
    return fault


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something, but not for long."""
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - a reply sets no event
            await anyio.sleep(0.001)


async def test_replies_reach_their_commands_in_order(socket_path: str) -> None:
    """Also if they arrive in pieces, or several together."""
    async with connected(socket_path, b"+a\r\n$3\r\nb", b"cd\r\n") as (connection, _):
        replies: list[object] = []
        connection.send(("ONE",), replies.append)
        connection.send(("TWO",), replies.append)
        await until(lambda: len(replies) >= 1)
        connection.send(("THREE",), replies.append)
        await until(lambda: len(replies) == 2)
        assert replies == [b"a", b"bcd"]


@pytest.mark.parametrize("says", [b"close", b"$100\r\nhalf of it"], ids=["at once", "in mid-reply"])
async def test_a_lost_connection_fails_its_commands(socket_path: str, says: bytes) -> None:
    """Later commands fail immediately."""
    async with connected(socket_path, says, b"close") as (connection, _):
        assert isinstance(await fault_of(connection, ("GET", "k")), FAULTS)
        with pytest.raises(FAULTS):
            await connection.run([("GET", "k")])


async def test_a_silent_server_times_out(socket_path: str) -> None:
    """Later commands do not extend the time."""
    async with connected(socket_path, b"") as (connection, _):
        began_at = asyncio.get_running_loop().time()
        assert isinstance(await fault_of(connection, ("GET", "k")), TimeoutError)
        assert asyncio.get_running_loop().time() - began_at < 1.0


async def test_an_idle_server_is_pinged(socket_path: str) -> None:
    """One that does not answer is given up."""
    async with connected(socket_path, b"+PONG\r\n", b"") as (connection, server):
        with pytest.raises(TimeoutError), anyio.fail_after(5):
            await connection.monitor()

        assert b"".join(server.received[1:]).count(b"PING") == 2


@pytest.mark.parametrize(
    "says", [b"!nonsense\r\n", b"-LOADING Redis is loading the dataset in memory\r\n", b"+one\r\n+too many\r\n"]
)
async def test_a_protocol_violation_ends_the_connection(socket_path: str, says: bytes) -> None:
    """Invalid bytes, a server that is not ready, a reply without a command."""
    async with connected(socket_path, says, b"") as (connection, _):
        connection.send(("GET", "k"), lambda _: None)
        await until(connection._lost.done)
        assert not isinstance(connection._lost.exception(), TimeoutError)


async def test_an_unknown_script_is_sent_as_text(socket_path: str) -> None:
    """The server's scripts were flushed, or it has replaced another server."""
    async with connected(socket_path, b"-NOSCRIPT No matching script\r\n", b":1\r\n") as (connection, server):
        with anyio.fail_after(5):
            assert await connection.run([ScriptCall(RENEW, b"k", ("t", 5))]) == [1]

        assert RENEW.sha.encode() in server.received[1]
        assert RENEW.text.encode() in server.received[2]


async def test_an_error_is_the_reply_of_its_command(socket_path: str) -> None:
    """The next command is served."""
    async with connected(socket_path, b"-WRONGTYPE of value\r\n+OK\r\n") as (connection, _):
        with anyio.fail_after(5):
            error, fine = await connection.run([("GET", "k"), ("SET", "k", 1)])

        assert isinstance(error, ResponseError)
        assert fine == b"OK"


async def test_a_canceled_caller_leaves_no_reply_to_the_next(socket_path: str) -> None:
    """1. A caller sends a command and is canceled. 2. Another sends one. 3. Both replies arrive: each has its own."""
    async with connected(socket_path, b"", b"+first\r\n+second\r\n") as (connection, _):
        with anyio.move_on_after(0.02):
            await connection.run([("ONE",)])

        with anyio.fail_after(5):
            assert await connection.run([("TWO",)]) == [b"second"]


async def test_a_wrong_password_is_an_authentication_error(socket_path: str) -> None:
    """The password is in the command, not in the error."""
    server = Server(socket_path, (), b"-WRONGPASS invalid username-password pair\r\n")
    connection = SingleConnection(access(socket_path, password="secret"))
    with pytest.raises(AuthenticationError) as raised:
        await connection.open()

    assert "secret" not in str(raised.value)
    assert b"secret" in server.received[0]
    await connection.close()
    await anyio.lowlevel.checkpoint()  # the transport's own turn to close
    server.close()


async def test_the_password_file_is_read_for_each_connection(tmp_path: Path) -> None:
    """So it can change; without a user it is the default user's."""
    file = tmp_path / "password"
    file.write_text("one\n")
    way = access("/s", password_file=str(file))
    assert way.credentials() == ("default", "one")
    file.write_text("two\n")
    assert way.credentials() == ("default", "two")
    assert access("/s", username="u", password="p").credentials() == ("u", "p")
    assert access("/s").credentials() is None


def test_a_sovereign_daemon_connects_to_admitted_hosts_only() -> None:
    """Sentinels and clusters name hosts that no setting names."""
    admits: Callable[[str], bool] = lambda host: host.startswith("10.")  # noqa: E731 - what the daemon makes of its settings
    way = access("/s", admits=admits)
    assert way.admitted(("10.0.0.1", 1)) == ("10.0.0.1", 1)
    with pytest.raises(NotAdmittedError, match=r"leads to 203\.0\.113\.9"):
        way.admitted(("203.0.113.9", 1))

    assert issubclass(NotAdmittedError, OSError)
    assert RedisError in FAULTS


async def test_a_flood_of_messages_is_passed_on_in_turns(socket_path: str) -> None:
    """Other tasks of the loop run meanwhile; every message arrives, in order, and so do later ones."""
    message = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$%d\r\n%d\r\n"
    flood = b"".join(message % (len(str(number)), number) for number in range(200))
    subscribed = b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
    async with connected(socket_path, subscribed + flood, message % (4, 9999) + b"+PONG\r\n") as (connection, _):
        seen: list[bytes] = []
        turns = 0

        def take(data: bytes) -> None:
            seen.append(data)
            time.sleep(0.001)  # as an expensive purge

        await connection.subscribe("c", take)
        while len(seen) < 200:
            await asyncio.sleep(0)
            turns += 1

        assert seen == [b"%d" % number for number in range(200)]
        assert turns >= 10
        assert await connection.run([("PING",)]) == [b"PONG"]
        assert seen[-1] == b"9999"


async def test_a_password_file_that_hangs_stops_no_other_task(
    socket_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connecting fails in time, and the loop serves meanwhile."""
    read, go_on = threading.Event(), threading.Event()

    def hang(_: str) -> str:
        read.set()
        go_on.wait(10)
        return "secret"

    monkeypatch.setattr("sidecard.store.redis.access._secret", hang)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(socket_path)
    listening.listen()
    connection = SingleConnection(access(socket_path, password_file=str(tmp_path / "secret")))
    turns = 0
    try:
        opening = asyncio.ensure_future(connection.open())
        while not opening.done():
            await asyncio.sleep(0.01)
            turns += 1

        assert isinstance(opening.exception(), TimeoutError)
        assert read.is_set()
        assert turns >= 10
    finally:
        go_on.set()
        await connection.close()
        listening.close()
