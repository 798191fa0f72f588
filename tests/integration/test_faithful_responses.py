"""What an app observes through the transport is what it observes without it: for the holder, a follower and a hit."""

import gzip
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import anyio
import httpx
import httpx2
import pytest
import zstandard
from msgspec import Struct

from sidecard_client import Client
from sidecard_client.http import SidecardTransport
from tests.daemons import Daemon, ask, poll
from tests.raw_upstream import RawUpstream, Step, response, stream

pytestmark = pytest.mark.usefixtures("patient_clients")

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])

ANSWER = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hé " * 50}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    }
).encode()


def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """Return one event of a chat's stream."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    fields = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


WORDS = [event({"content": "one "}), event({"content": "two"}), event({}, "stop")]
DONE = b"data: [DONE]\n\n"


def flushed(*pieces: bytes, wbits: int) -> list[bytes]:
    """Return an encoded body whose pieces can be decoded one by one."""
    encoder = zlib.compressobj(wbits=wbits)
    parts = [encoder.compress(piece) + encoder.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    return [*parts, encoder.flush()]


class Seen(Struct):
    """What an app observes of one response."""

    status: int
    reason: str
    version: str
    headers: list[tuple[bytes, bytes]]
    pieces: list[bytes]
    downloaded: int
    has_elapsed: bool
    hooked: int
    failure: str

    @property
    def raw(self) -> bytes:
        """The bytes of the body."""
        return b"".join(self.pieces)

    def without(self, *names: bytes) -> "Seen":
        """Return it without headers that differ on purpose."""
        kept = [header for header in self.headers if header[0].lower() not in names]
        return Seen(
            self.status, self.reason, self.version, kept, [self.raw], self.downloaded, self.has_elapsed, self.hooked,
            self.failure,
        )  # fmt: skip


OF_ONE_EXCHANGE = (
    b"date",
    b"transfer-encoding",
    b"connection",
    b"set-cookie",
    b"x-ratelimit-remaining-tokens",
    b"retry-after",
)


def question(url: str, *, streamed: bool = False, text: str = "hello", **headers: str) -> dict[str, Any]:
    """Return the arguments of a request that an SDK would make."""
    body = {"model": "modèle", "messages": [{"role": "user", "content": text}]} | ({"stream": True} if streamed else {})
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"url": f"{url}/v1/chat/completions", "json": body, "headers": {"authorization": "Bearer k"} | named}


def observed(response: Any, pieces: list[bytes], hooked: list[Any], failure: str) -> Seen:
    """Return what was observed, without our own headers."""
    own = [header for header in response.headers.raw if header[0].lower().startswith(b"x-sidecard-")]
    return Seen(
        response.status_code,
        response.reason_phrase,
        response.http_version,
        [header for header in response.headers.raw if header not in own],
        pieces,
        response.num_bytes_downloaded,
        response.elapsed.total_seconds() >= 0,
        len(hooked),
        failure,
    )


def look(library: ModuleType, transport: Any, asked: dict[str, Any]) -> tuple[Seen, Any]:
    """Make a request as an app does that looks at everything."""
    hooked: list[Any] = []
    with library.Client(transport=transport, event_hooks={"response": [hooked.append]}) as client:
        response = client.send(client.build_request("POST", **asked), stream=True)
        pieces, failure = [], ""
        try:
            for piece in response.iter_raw():
                pieces.append(piece)  # noqa: PERF402 - kept if the next one raises
        except (library.HTTPError, library.StreamError) as error:
            failure = type(error).__name__

        return observed(response, pieces, hooked, failure), response


async def alook(library: ModuleType, transport: Any, asked: dict[str, Any]) -> tuple[Seen, Any]:
    """Do as `look` does, asynchronously."""
    hooked: list[Any] = []

    async def hook(response: Any) -> None:
        hooked.append(response)

    async with library.AsyncClient(transport=transport, event_hooks={"response": [hook]}) as client:
        response = await client.send(client.build_request("POST", **asked), stream=True)
        pieces, failure = [], ""
        try:
            async for piece in response.aiter_raw():
                pieces.append(piece)  # noqa: PERF401 - as above
        except (library.HTTPError, library.StreamError) as error:
            failure = type(error).__name__

        return observed(response, pieces, hooked, failure), response


SCRIPTS: list[tuple[str, bool, list[Step]]] = [
    ("plain", False, response(ANSWER)),
    ("headers of any bytes", False, response(ANSWER, "X-Model: modèle".encode(), b"x-latin: mod\xe8le", b"X-MiXeD: \xff\xfe")),
    ("headers of one exchange", False, response(ANSWER, b"Date: now", b"Set-Cookie: a=b", b"x-ratelimit-remaining-tokens: 7")),
    ("an unusual phrase", False, [b"HTTP/1.1 200 All right\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(ANSWER), ANSWER]),
    ("an old protocol", False, [b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n", ANSWER, "close"]),
    ("chunked", False, stream(ANSWER[:9], ANSWER[9:], kind=b"application/json")),
    ("gzip", False, response(gzip.compress(ANSWER), b"content-encoding: gzip")),
    ("deflate", False, response(zlib.compress(ANSWER), b"content-encoding: deflate")),
    ("a stream", True, stream(*WORDS, DONE)),
    ("a stream in odd pieces", True, stream(WORDS[0][:7], WORDS[0][7:] + WORDS[1][:30], WORDS[1][30:], WORDS[2] + DONE)),
    ("a stream in gzip", True, stream(*flushed(*WORDS, DONE, wbits=31), headers=[b"Content-Encoding: gzip"])),
    ("a stream to the end of the connection", True, [b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", *WORDS, DONE, "close"]),
]  # fmt: skip


@pytest.fixture(scope="module")
def shared(module_daemon: Callable[..., Daemon]) -> Daemon:
    """The daemon of all tests of this module."""
    return module_daemon()


@pytest.fixture
def client(shared: Daemon) -> Iterator[Client]:
    """A client of the daemon, which has no answers."""
    shared.purge()
    with Client(shared.socket) as client:
        yield client


@LIBRARIES
@pytest.mark.parametrize(("streamed", "script"), [one[1:] for one in SCRIPTS], ids=[one[0] for one in SCRIPTS])
def test_the_holder_and_a_hit_see_what_the_library_alone_sees(
    library: ModuleType, streamed: bool, script: list[Step], client: Client
) -> None:
    """A blocking and an asynchronous app observe the same for their own call and for the other's answer."""
    with RawUpstream(script) as upstream:
        direct, _ = look(library, library.HTTPTransport(verify=False), question(upstream.url, streamed=streamed))
        transport = SidecardTransport(sidecard=client, verify=False)
        own, response = look(library, transport, question(upstream.url, streamed=streamed))
        assert own.without() == direct.without()
        assert response.headers["x-sidecard-source"] == "upstream"
        hit, response = look(library, transport, question(upstream.url, streamed=streamed))
        assert response.headers["x-sidecard-source"] == "cache"
        assert "x-sidecard-not-stored" not in response.headers
        assert hit.without() == direct.without(*OF_ONE_EXCHANGE)
        assert upstream.count == 2

    async def asynchronous() -> None:
        with RawUpstream(script) as upstream:
            asked = question(upstream.url, streamed=streamed)
            direct, _ = await alook(library, library.AsyncHTTPTransport(verify=False), asked)
            own, response = await alook(library, transport, asked)
            assert own.without() == direct.without()
            assert response.headers["x-sidecard-source"] == "upstream"
            hit, response = await alook(library, transport, asked)
            assert response.headers["x-sidecard-source"] == "cache"
            assert hit.without() == direct.without(*OF_ONE_EXCHANGE)
            assert upstream.count == 2

        await transport.aclose()

    anyio.run(asynchronous)


# Followers --------------------------------------------------------------------------------------------------------------


def together(
    library: ModuleType, upstream: RawUpstream, goes_on: threading.Event, daemon: Daemon, **asked: Any
) -> tuple[Seen, Seen, Any]:
    """Return what the holder and its follower see of one answer, and the follower's response."""
    seen: dict[str, tuple[Seen, Any]] = {}

    def read(name: str) -> None:
        with Client(daemon.socket) as client:
            seen[name] = look(
                library, SidecardTransport(sidecard=client, verify=False), question(upstream.url, **asked)
            )

    holder = threading.Thread(target=read, args=("holder",), daemon=True)
    holder.start()
    poll(lambda: upstream.count == 1, "the upstream was not asked")
    follower = threading.Thread(target=read, args=("follower",), daemon=True)
    follower.start()
    poll(lambda: ask(daemon.socket, {"op": "stats"})["waiters"] == 1, "nobody waits")
    goes_on.set()
    for thread in (holder, follower):
        thread.join(20)
        assert not thread.is_alive()

    return seen["holder"][0], *seen["follower"]


def in_band(**error: Any) -> bytes:
    """Return an answer of status 200 that is an error."""
    return json.dumps({"error": error}).encode()


ENDINGS: list[tuple[str, bool, list[Step]]] = [
    ("plain", False, response(ANSWER, b"Date: now")),
    ("gzip", False, response(gzip.compress(ANSWER), b"content-encoding: gzip")),
    ("zstd", False, response(zstandard.compress(ANSWER), b"content-encoding: zstd")),
    ("a stream", True, stream(*WORDS, DONE)),
    ("a stream without a finish", True, stream(*WORDS[:2], DONE)),
    ("a stream that breaks", True, [*stream(*WORDS[:2], ends=False), 0.1, "reset"]),
    ("a long refusal", False, response(json.dumps({"error": {"code": "no", "message": "x" * 2500}}).encode(), b"x-should-retry: false", b"x-request-id: 7", status=b"400 No")),
    ("an error of the request in band", False, response(in_band(code=400, type="invalid_request_error", message="no"))),
]  # fmt: skip


@pytest.mark.parametrize(("streamed", "script"), [one[1:] for one in ENDINGS], ids=[one[0] for one in ENDINGS])
def test_a_follower_sees_what_the_holder_sees(
    streamed: bool, script: list[Step], shared: Daemon, client: Client
) -> None:
    """Followers observe the holder's end, whichever it is; an unproven answer is not stored."""
    goes_on = threading.Event()
    with RawUpstream([goes_on, *script], script) as upstream:
        holder, follower, response = together(httpx2, upstream, goes_on, shared, streamed=streamed)
        direct, _ = look(httpx2, httpx2.HTTPTransport(verify=False), question(upstream.url, streamed=streamed))
        assert holder.without() == direct.without()
        expected = direct.without(*OF_ONE_EXCHANGE)
        if direct.headers and (b"content-encoding", b"zstd") in direct.headers:
            expected = expected.without(b"content-encoding", b"content-length")
            expected.pieces, expected.downloaded = [ANSWER], len(ANSWER)

        assert follower.without() == expected
        assert response.headers["x-sidecard-source"] == "shared"
        assert upstream.count == 2
