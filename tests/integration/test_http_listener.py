"""The HTTP listener in front of an engine: resources of clients, cost of errors, shutdown."""

import asyncio
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from sidecard.errors import ListenError
from sidecard.observe.http import connection as http
from sidecard.observe.http import listener as http_listener
from sidecard.observe.http import request_limits
from sidecard.observe.http.address import TcpAddress, bind_tcp
from sidecard.observe.http.listener import HttpListener
from sidecard.server.scheduler import HTTP_UID, FairScheduler
from sidecard_client.protocol import wire
from tests.daemons import poll
from tests.served_http import Served, served, served_at

POST = b"POST /v1/metrics HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture
def one() -> Iterator[Served]:
    """Serve an engine with default settings."""
    with served() as listener:
        yield listener


def rest(connection: socket.socket) -> bytes:
    """Return the bytes until the other side ends the connection in any way."""
    received = b""
    try:
        while data := connection.recv(65536):
            received += data
    except ConnectionError:
        pass

    return received


def is_dropped(connection: socket.socket) -> bool:
    """Return whether the other side has ended a connection without sending anything."""
    if not select.select([connection], [], [], 0)[0]:
        return False

    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("said", [b"", b"GET /health HTTP/1.1\r\nHost: lo", POST + b"Content-Length: 9\r\n\r\n{"])
def test_an_incomplete_request_is_aborted(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """After no data, half a head or half a body."""
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(http, "RESPONSE_SECONDS", 0.2)
    with served() as one, one.connect() as connection:
        connection.sendall(said)
        assert rest(connection) == b""
        poll(lambda: one.connections == 0, "it is still connected")


@pytest.mark.slow
def test_a_trickling_client_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Single bytes do not extend the time."""
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    with served() as one, one.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: ")

        def cut() -> bool:
            try:
                connection.sendall(b"x")
            except ConnectionError:
                return True

            return False

        poll(cut, "it may go on for ever")


def send_without_reading(connection: socket.socket) -> None:
    """Send requests until the socket accepts no more."""
    connection.setblocking(False)
    asked = b"GET /assets/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4000
    left = asked

    def full() -> bool:
        nonlocal left
        try:
            left = left[connection.send(left) :] or asked
        except (BlockingIOError, ConnectionError):
            return True

        return False

    poll(full, "it takes questions without end")


@pytest.mark.slow
def test_a_client_that_does_not_read_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its responses wait in bounded memory, not forever."""
    monkeypatch.setattr(http, "RESPONSE_SECONDS", 0.5)
    with served() as one, one.connect() as connection:
        send_without_reading(connection)
        poll(lambda: one.connections == 0, "it is still connected")


@pytest.mark.slow
def test_a_client_that_does_not_read_does_not_delay_the_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graceful close would wait for it."""
    monkeypatch.setattr(http, "RESPONSE_SECONDS", 600.0)
    with served() as one, one.connect() as connection:
        send_without_reading(connection)
        one.stop()
        poll(lambda: one.connections == 0, "it is still connected")


def test_an_idle_connection_is_kept_for_the_next_request(one: Served) -> None:
    """The page sends one every two seconds."""
    with httpx.Client() as client, one.connect():
        poll(lambda: one.connections == 1, "it is not connected")
        for _ in range(3):
            assert client.get(f"{one.url}/health").status_code == 200

        assert one.connections == 2


def test_connections_above_the_limit_end_the_oldest_idle_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether they send nothing or halves of requests, they lock nobody out."""
    monkeypatch.setattr(http, "MAX_CONNECTIONS", 8)
    with served() as one, httpx.Client() as client:
        assert client.get(f"{one.url}/health").status_code == 200
        crowd = []
        for number in range(30):
            crowd.append(one.connect())
            if number % 2:
                crowd[-1].sendall(b"GET /metrics HTTP/1.1\r\nHos")

            assert httpx.get(f"{one.url}/health").status_code == 200

        poll(lambda: one.connections == 7, "others are connected")
        assert list(map(is_dropped, crowd)) == [True] * 23 + [False] * 7
        for connection in crowd:
            connection.close()


@contextmanager
def unanswered(one: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let requests for metrics wait."""
    release = threading.Event()

    async def wait(*_: Any) -> Any:
        while not release.is_set():  # noqa: ASYNC110 - it is set in another thread
            await anyio.sleep(0.01)

        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(one.listener._app._scrapes, "page", wait)
        try:
            yield
        finally:
            release.set()


def test_requests_above_the_limit_get_503_and_health_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """One client leaves room for others; when the requests have ended, there is room again."""
    monkeypatch.setattr(request_limits, "MAX_REQUESTS_PER_CLIENT", 3)
    ask = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with served() as one:
        with unanswered(one, monkeypatch):
            crowd = [one.connect() for _ in range(5)]
            for connection in crowd:
                connection.sendall(ask)

            poll(lambda: len([c for c in crowd if select.select([c], [], [], 0)[0]]) == 2, "all are served")
            rejected = httpx.get(f"{one.url}/v1/summary")
            assert (rejected.status_code, rejected.headers["retry-after"]) == (503, "1")
            assert "try again" in rejected.json()["error"]
            assert httpx.get(f"{one.url}/health").status_code == 200
            for connection in crowd:
                connection.close()

        poll(lambda: httpx.get(f"{one.url}/v1/summary").status_code == 200, "there is no room")


@pytest.mark.parametrize("path", ["/", "/assets/dashboard.js", "/health", "/metrics", "/v1/summary", "/v1/history"])
def test_head_is_get_without_the_body(one: Served, path: str) -> None:
    """As health checks request."""
    got, headed = httpx.get(one.url + path), httpx.head(one.url + path)
    assert headed.content == b""
    assert (headed.status_code, headed.headers["content-type"]) == (200, got.headers["content-type"])


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/assets/style.css", "text/css; charset=utf-8"),
        ("/assets/dashboard.js", "text/javascript; charset=utf-8"),
        ("/assets/icon.svg", "image/svg+xml"),
        ("/health", "application/json"),
        ("/v1/history", "application/json"),
    ],
)
def test_every_response_has_a_content_type(one: Served, path: str, kind: str) -> None:
    """Browsers must not guess it."""
    assert httpx.get(one.url + path).headers["content-type"] == kind


def test_405_names_the_allowed_methods(one: Served) -> None:
    """As HTTP requires."""
    assert httpx.get(f"{one.url}/v1/metrics").headers["allow"] == "POST"
    assert set(httpx.delete(f"{one.url}/health").headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_a_preflight_request_of_another_origin_is_denied(one: Served) -> None:
    """JSON of another origin needs one."""
    asking = {
        "Origin": "https://evil.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    answer = httpx.options(f"{one.url}/v1/metrics", headers=asking)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_history_returns_only_later_steps(one: Served) -> None:
    """One step per recording."""
    peer = one.do(one.host.peer)
    lease = one.do(peer.leads, "key")
    one.passes(10)
    one.do(lambda: peer.completes(lease, "answer"))
    one.do(lambda: peer.asks(wire.Begin("key")))
    one.passes(10)
    curves = httpx.get(f"{one.url}/v1/history").json()
    assert (curves["upstream"], curves["hits"], curves["at_seconds"]) == ([1, 0], [0, 1], [10.0, 20.0])
    assert curves["saved_seconds"] == [0.0, 10.0]
    news = httpx.get(f"{one.url}/v1/history", params={"after": curves["last"] - 1}).json()
    assert (news["hits"], news["last"]) == ([1], curves["last"])


def test_get_requests_change_nothing(one: Served) -> None:
    """They count neither as calls nor as measurements."""
    before = one.do(one.host.samples)
    for path in ("/", "/health", "/metrics", "/v1/summary", "/v1/history"):
        httpx.get(one.url + path)

    assert one.do(one.host.samples) == before


def test_an_internal_error_is_logged_and_costs_one_response(one: Served) -> None:
    """The response refers to the log; the next request is served."""
    one.reply = ZeroDivisionError("a mistake")
    answer = httpx.get(f"{one.url}/v1/summary")
    assert (answer.status_code, "see the daemon's log" in answer.json()["error"]) == (500, True)
    assert answer.headers["x-content-type-options"] == "nosniff"
    poll(lambda: bool(one.said), "it is not logged")
    assert [(level, type(fields["exc_info"])) for level, _, fields in one.said] == [("error", ZeroDivisionError)]
    one.reply = None
    assert httpx.get(f"{one.url}/v1/summary").status_code == 200


def test_clients_that_leave_during_their_pages_are_no_error(one: Served) -> None:
    """They log nothing, also if more of their requests wait."""
    scrapes = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100
    for _ in range(5):
        connections = [one.connect() for _ in range(8)]
        for connection in connections:
            connection.sendall(scrapes)

        for connection in connections:
            connection.recv(65536)
            connection.close()

        assert httpx.get(f"{one.url}/v1/summary").status_code == 200

    assert one.said == []


def test_an_unavailable_reply_is_503(one: Served) -> None:
    """With the daemon's own sentence."""
    one.reply = wire.Error(0, "unavailable", "Not now.")
    answer = httpx.get(f"{one.url}/v1/summary")
    assert (answer.status_code, answer.json()) == (503, {"error": "Not now."})


def test_a_failed_step_of_the_history_does_not_end_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged, and the next step is recorded."""
    monkeypatch.setattr(http_listener, "STEP_SECONDS", 0.01)
    with served() as one:
        one.reply = ZeroDivisionError("a mistake")
        poll(lambda: ("error", "http history failed") in [line[:2] for line in one.said], "it is not logged")
        one.reply = None
        poll(lambda: httpx.get(f"{one.url}/v1/history").json()["last"] > 0, "no step is taken any more")


@pytest.mark.parametrize("offered", ["websocket", "h2c"])
def test_an_upgrade_request_is_ignored(one: Served, offered: str) -> None:
    """It is not logged as a fault."""
    headers = {"Connection": "Upgrade", "Upgrade": offered}
    assert httpx.get(f"{one.url}/health", headers=headers).status_code == 200
    assert one.said == []


def test_a_chunked_body_is_limited_too(one: Served) -> None:
    """Its length is not announced."""

    def pieces(number: int) -> Iterator[bytes]:
        yield b'{"task_type":"rag","prompt":"'
        for _ in range(number):
            yield b"x" * 1024

        yield b'"}'

    headers = {"Content-Type": "application/json; charset=utf-8"}
    assert httpx.post(f"{one.url}/v1/metrics", content=pieces(63), headers=headers).json()["recorded"] == 1
    assert httpx.post(f"{one.url}/v1/metrics", content=pieces(64), headers=headers).status_code == 413
    assert one.do(one.host.samples)["openpipe_calls_total success=true task=rag"] == 1.0


def test_an_incomplete_body_is_not_recorded(one: Served) -> None:
    """Half of it could be valid JSON."""
    with one.connect() as connection:
        connection.sendall(POST + b"Content-Length: 99\r\n\r\n{}")

    poll(lambda: one.connections == 0, "it is still connected")
    assert [name for name in one.do(one.host.samples) if name.startswith("openpipe")] == []
    assert [line for line in one.said if line[0] == "error"] == []


def test_a_unix_socket_admits_every_host_name(socket_directory: Path) -> None:
    """Browsers cannot reach it."""
    with served_at(socket_directory / "h.sock") as one, one.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")


def test_a_request_without_a_host_is_served(one: Served) -> None:
    """HTTP/1.0 has none, and no browser uses it."""
    with one.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 200 ")


def test_a_request_with_two_hosts_is_rejected(one: Served) -> None:
    """A check of one would not protect the other."""
    with one.connect() as connection:
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
        assert rest(connection).startswith(b"HTTP/1.1 400 ")


def test_an_ipv6_listener_does_not_accept_ipv4() -> None:
    """A socket for ``[::]`` would otherwise listen on more addresses than configured."""
    try:
        listening = bind_tcp(TcpAddress("::", 0))
    except ListenError as error:
        pytest.skip(str(error))

    one = Served(listening)
    with one.serving():
        assert httpx.get(f"http://[::1]:{one.address[1]}/health").status_code == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", one.address[1])).close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (TcpAddress("no-such-host.invalid", 80), "cannot resolve the host"),
        (TcpAddress("192.0.2.1", 80), r"cannot listen on 192\.0\.2\.1:80 for HTTP"),
    ],
)
def test_an_unusable_address_is_an_error_that_names_the_setting(address: TcpAddress, said: str) -> None:
    """Unknown hosts, addresses of other hosts."""
    with pytest.raises(ListenError, match=said) as caught:
        bind_tcp(address)

    assert "change" in str(caught.value)


def test_stopping_ends_open_connections() -> None:
    """Idle ones and incomplete requests; the port is free afterward."""
    with served() as one:
        with httpx.Client() as client, one.connect() as half:
            client.get(f"{one.url}/health")
            half.sendall(b"GET /hea")
            poll(lambda: one.connections == 2, "they are not connected")
            one.stop()
            assert rest(half) == b""

        with pytest.raises(ConnectionRefusedError):
            one.connect()

        bind_tcp(TcpAddress(*one.address)).close()

    assert one.said == []


class TestInTheDaemonsThread:
    """As the daemon runs it: in the main thread, in a task group."""

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        """Run only on the daemon's own backend."""
        return "asyncio"

    async def test_signal_handlers_remain_the_daemons(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Uvicorn would replace them, and raise the signals again at its end."""
        reports: list[Any] = []
        handlers: list[Callable[..., Any]] = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]  # type: ignore[misc]  # those of pytest and Python
        listener = HttpListener(
            (),
            bind_tcp(TcpAddress("127.0.0.1", 0)),
            lambda _: wire.Error(0, "unavailable", "not asked"),
            lambda *said, **_: reports.append(said),
            sources=lambda: iter(()),
            scheduler=FairScheduler(asyncio.get_running_loop(), time.monotonic),
            tcp_uid=HTTP_UID,
        )
        monkeypatch.setattr(listener._app, "record_step", lambda: None)
        async with anyio.create_task_group() as tasks:
            await tasks.start(listener.run)
            during = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
            tasks.cancel_scope.cancel()

        assert during == handlers
        assert reports == []

    async def test_cancellation_before_the_start_closes_the_socket(self) -> None:
        """The daemon may be stopped at any time."""
        listening = bind_tcp(TcpAddress("127.0.0.1", 0))
        listener = HttpListener(
            (),
            listening,
            lambda _: wire.Error(0, "unavailable", ""),
            lambda *_, **__: None,
            sources=lambda: iter(()),
            scheduler=FairScheduler(asyncio.get_running_loop(), time.monotonic),
            tcp_uid=HTTP_UID,
        )
        with anyio.CancelScope() as scope:
            scope.cancel()
            await listener.run()

        assert listening.fileno() == -1


def test_header_lines_are_limited(one: Served) -> None:
    """They fit into the limit of bytes: 3,000 short ones would take 30 ms to parse. A connection may send many requests."""
    few = b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + b"a:b\r\n" * (http.MAX_HEAD_LINES - 10) + b"\r\n"
    many = few[:-2] + b"a:b\r\n" * 1000 + b"\r\n"
    with one.connect() as connection:
        connection.sendall(few * 3 + many)
        answers = rest(connection)

    assert answers.count(b"HTTP/1.1 200 ") == 3
    assert answers.count(b"HTTP/1.1 400 ") == 1
