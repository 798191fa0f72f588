"""One connection to a server that misbehaves, byte by byte."""

import asyncio
import socket
import threading
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
    """Greets who comes first, and then says what it was told to say, whatever it hears. A thread, with plain sockets."""

    def __init__(self, path: str, says: tuple[bytes, ...], greeting: bytes = GREETING) -> None:
        self.heard: list[bytes] = []
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

            self.heard.append(hello)
            connection.sendall(self._greeting + LOADED * len(ALL))
            for text in self._says:
                self.heard.append(connection.recv(65536))
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
    with pytest.raises(ExceptionGroup) as told:  # noqa: PT012 - both are needed for it
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.monitor)
            await connection.run([command])

    fault: Exception = told.value.exceptions[0]
    return fault


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something, but not for long."""
    with anyio.fail_after(5):
        while not condition():  # noqa: ASYNC110 - a reply sets no event
            await anyio.sleep(0.001)


async def test_replies_go_to_who_asked_in_order(socket_path: str) -> None:
    """Also where they come in pieces, or several at once."""
    async with connected(socket_path, b"+a\r\n$3\r\nb", b"cd\r\n") as (connection, _):
        replies: list[object] = []
        connection.send(("ONE",), replies.append)
        connection.send(("TWO",), replies.append)
        await until(lambda: len(replies) >= 1)
        connection.send(("THREE",), replies.append)
        await until(lambda: len(replies) == 2)
        assert replies == [b"a", b"bcd"]


@pytest.mark.parametrize("says", [b"close", b"$100\r\nhalf of it"], ids=["at once", "in mid-reply"])
async def test_a_connection_that_ends_fails_what_was_asked(socket_path: str, says: bytes) -> None:
    """And nothing is asked over it again."""
    async with connected(socket_path, says, b"close") as (connection, _):
        assert isinstance(await fault_of(connection, ("GET", "k")), FAULTS)
        with pytest.raises(FAULTS):
            await connection.run([("GET", "k")])


async def test_a_server_that_says_nothing_is_given_up_in_time(socket_path: str) -> None:
    """Whatever is asked of it later."""
    async with connected(socket_path, b"") as (connection, _):
        began_at = asyncio.get_running_loop().time()
        assert isinstance(await fault_of(connection, ("GET", "k")), TimeoutError)
        assert asyncio.get_running_loop().time() - began_at < 1.0


async def test_an_idle_server_is_asked_whether_it_lives(socket_path: str) -> None:
    """One that does not say so is given up."""
    async with connected(socket_path, b"+PONG\r\n", b"") as (connection, server):
        with pytest.raises(TimeoutError), anyio.fail_after(5):
            await connection.monitor()

        assert b"".join(server.heard[1:]).count(b"PING") == 2


@pytest.mark.parametrize(
    "says", [b"!nonsense\r\n", b"-LOADING Redis is loading the dataset in memory\r\n", b"+one\r\n+too many\r\n"]
)
async def test_what_no_server_should_say_ends_the_connection(socket_path: str, says: bytes) -> None:
    """Nonsense, a server that is not ready, an answer to nothing."""
    async with connected(socket_path, says, b"") as (connection, _):
        connection.send(("GET", "k"), lambda _: None)
        await until(connection._lost.done)
        assert not isinstance(connection._lost.exception(), TimeoutError)


async def test_a_forgotten_script_is_sent_whole(socket_path: str) -> None:
    """A server that was told to forget, or that took over."""
    async with connected(socket_path, b"-NOSCRIPT No matching script\r\n", b":1\r\n") as (connection, server):
        with anyio.fail_after(5):
            assert await connection.run([ScriptCall(RENEW, b"k", ("t", 5))]) == [1]

        assert RENEW.sha.encode() in server.heard[1]
        assert RENEW.text.encode() in server.heard[2]


async def test_an_error_is_a_reply(socket_path: str) -> None:
    """Of the command that it is about; the next one is served."""
    async with connected(socket_path, b"-WRONGTYPE of value\r\n+OK\r\n") as (connection, _):
        with anyio.fail_after(5):
            error, fine = await connection.run([("GET", "k"), ("SET", "k", 1)])

        assert isinstance(error, ResponseError)
        assert fine == b"OK"


async def test_who_is_cancelled_leaves_no_reply_to_the_next(socket_path: str) -> None:
    """1. somebody asks and is cancelled; 2. another asks; 3. both replies come: each is its own."""
    async with connected(socket_path, b"", b"+first\r\n+second\r\n") as (connection, _):
        with anyio.move_on_after(0.02):
            await connection.run([("ONE",)])

        with anyio.fail_after(5):
            assert await connection.run([("TWO",)]) == [b"second"]


async def test_a_password_that_is_wrong_is_told_as_such(socket_path: str) -> None:
    """And it stands in what is sent, not in what is said."""
    server = Server(socket_path, (), b"-WRONGPASS invalid username-password pair\r\n")
    connection = SingleConnection(access(socket_path, password="secret"))
    with pytest.raises(AuthenticationError) as told:
        await connection.open()

    assert "secret" not in str(told.value)
    assert b"secret" in server.heard[0]
    await connection.close()
    await anyio.lowlevel.checkpoint()  # the transport's own turn to close
    server.close()


async def test_a_password_file_is_read_for_each_connection(tmp_path: Path) -> None:
    """So that it may change; without a user it is the default one's."""
    file = tmp_path / "password"
    file.write_text("one\n")
    way = access("/s", password_file=str(file))
    assert way.credentials() == ("default", "one")
    file.write_text("two\n")
    assert way.credentials() == ("default", "two")
    assert access("/s", username="u", password="p").credentials() == ("u", "p")
    assert access("/s").credentials() is None


def test_where_a_sovereign_daemon_may_not_go_it_does_not() -> None:
    """Sentinels and clusters name hosts that no setting has named."""
    admits: Callable[[str], bool] = lambda host: host.startswith("10.")  # noqa: E731 - what the daemon makes of its settings
    way = access("/s", admits=admits)
    assert way.admitted(("10.0.0.1", 1)) == ("10.0.0.1", 1)
    with pytest.raises(NotAdmittedError, match=r"leads to 203\.0\.113\.9"):
        way.admitted(("203.0.113.9", 1))

    assert issubclass(NotAdmittedError, OSError)
    assert RedisError in FAULTS
