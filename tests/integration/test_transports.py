"""The transport between an app and its upstream: what passes, what ends when, and what a refusal looks like."""

import io
import json
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from types import ModuleType
from typing import Any

import anyio
import anyio.lowlevel
import httpx
import httpx2
import openai
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import AsyncSidecardTransport, SidecardTransport
from tests.daemons import Daemon, ask, poll
from tests.raw_upstream import RawUpstream, Step, response, stream

pytestmark = pytest.mark.usefixtures("patient_clients")

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])
HELLO: Any = [{"role": "user", "content": "hello"}]
ANSWER = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    }
).encode()
DONE = b"data: [DONE]\n\n"


def event(text: str, finish: str | None = None) -> bytes:
    """Return one event of a chat's stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    fields = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


@pytest.fixture(scope="module")
def shared(module_daemon: Callable[..., Daemon]) -> Daemon:
    """The daemon of all tests of this module; its own limit of a wait is half a second."""
    return module_daemon(SIDECARD_FLIGHTS_WAIT_SECONDS="0.5")


@pytest.fixture
def client(shared: Daemon) -> Iterator[Client]:
    """A client of the daemon, which has no answers."""
    shared.purge()
    with Client(shared.socket) as client:
        yield client


def post(
    library: ModuleType, transport: Any, upstream: RawUpstream, path: str = "/v1/chat/completions", **given: Any
) -> Any:
    """Post a chat request, or another one."""
    with library.Client(transport=transport, timeout=given.pop("timeout", 20)) as http:
        asked = given or {"json": {"model": "m", "messages": HELLO}}
        return http.post(f"{upstream.url}{path}", **asked)


async def apost(
    library: ModuleType, transport: Any, upstream: RawUpstream, path: str = "/v1/chat/completions", **given: Any
) -> Any:
    """Do as `post` does, asynchronously."""
    async with library.AsyncClient(transport=transport, timeout=given.pop("timeout", 20)) as http:
        asked = given or {"json": {"model": "m", "messages": HELLO}}
        return await http.post(f"{upstream.url}{path}", **asked)


# One class ---------------------------------------------------------------------------------------------------------------


def test_there_is_one_class() -> None:
    """The name of the asynchronous transport is another name of it."""
    assert AsyncSidecardTransport is SidecardTransport


@LIBRARIES
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_one_transport_serves_both_kinds_of_code(library: ModuleType, kind: Any, shared: Daemon) -> None:
    """Whichever client it was given: that of the other kind has the same arguments, such as the namespace."""
    shared.purge()
    with RawUpstream(response(ANSWER)) as upstream:
        transport = SidecardTransport(sidecard=kind(shared.socket, namespace="other"), verify=False)
        assert post(library, transport, upstream).headers["x-sidecard-source"] == "upstream"
        assert anyio.run(apost, library, transport, upstream).headers["x-sidecard-source"] == "cache"
        with Client(shared.socket) as client:
            alone = SidecardTransport(sidecard=client, verify=False)
            assert post(library, alone, upstream).headers["x-sidecard-source"] == "upstream"


# What passes --------------------------------------------------------------------------------------------------------------


@LIBRARIES
@pytest.mark.parametrize("path", ["/v1/files", "/surveys/7/responses", "/api/v1/messages", "/v1/models"])
def test_other_requests_pass_and_say_so(library: ModuleType, path: str, client: Client) -> None:
    """A passed request has no header of sidecard; its response names the reason."""
    with RawUpstream(response(b'{"status": "completed"}')) as upstream:
        transport = SidecardTransport(sidecard=client, verify=False)
        headers = {"X-Sidecard-Task": "t", "x-sidecard-cache": "refresh"}
        for _ in range(2):
            got = post(library, transport, upstream, path, json={"answers": [1]}, headers=headers)
            assert (got.status_code, got.json()) == (200, {"status": "completed"})
            assert (got.headers["x-sidecard-source"], got.headers["x-sidecard-not-stored"]) == ("passed", "dialect")

        got = anyio.run(lambda: apost(library, transport, upstream, path, json={"answers": [1]}, headers=headers))
        assert got.headers["x-sidecard-source"] == "passed"
        assert upstream.count == 3
        assert b"sidecard" not in b"".join(upstream.heads).lower()
        assert [json.loads(body) for body in upstream.bodies] == [{"answers": [1]}] * 3


@LIBRARIES
def test_an_upload_is_sent_while_it_is_made(library: ModuleType, client: Client) -> None:
    """An upload is never whole in memory, in blocking or asynchronous code."""
    piece, count = bytes(1 << 20), 48

    def pieces(upstream: RawUpstream) -> Iterator[bytes]:
        for number in range(count):
            if number == count // 2:
                poll(lambda: upstream.body_sizes[-1] > 4 << 20, "nothing arrives before the upload is complete")

            yield piece

    async def apieces(upstream: RawUpstream) -> AsyncIterator[bytes]:
        for one in pieces(upstream):
            await anyio.lowlevel.checkpoint()
            yield one

    with RawUpstream(response(b"{}")) as upstream:
        transport = SidecardTransport(sidecard=client, verify=False)
        headers = {"x-sidecard-task": "t"}
        post(library, transport, upstream, "/v1/files", content=pieces(upstream), headers=headers)
        anyio.run(lambda: apost(library, transport, upstream, "/v1/files", content=apieces(upstream), headers=headers))
        file = io.BytesIO(bytes(3 << 20))
        post(library, transport, upstream, "/v1/files", files={"file": file}, headers=headers)
        assert upstream.body_sizes[:2] == [count << 20] * 2
        assert upstream.body_sizes[2] > 3 << 20


# The transport's own connections ------------------------------------------------------------------------------------------


@LIBRARIES
def test_proxies_of_the_environment_are_used(
    library: ModuleType, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests use the proxies that the library's own client would use, in both kinds of code."""
    with RawUpstream(response(ANSWER)) as proxy, RawUpstream(response(ANSWER)) as upstream:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        transport = SidecardTransport(sidecard=client, verify=False)
        with library.Client(transport=transport) as http:
            http.post("http://llm.example/v1/chat/completions", json={"model": "m", "messages": HELLO})
            http.get("http://llm.example/v1/models")
            http.get(f"{upstream.url}/v1/models")

        async def asynchronous() -> None:
            async with library.AsyncClient(transport=transport) as http:
                await http.get("http://llm.example/v1/models")

        anyio.run(asynchronous)
        requested = [head.split(b"\r\n")[0] for head in proxy.heads]
        assert requested == [
            b"POST http://llm.example/v1/chat/completions HTTP/1.1",
            b"GET http://llm.example/v1/models HTTP/1.1",
            b"GET http://llm.example/v1/models HTTP/1.1",
        ]
        assert upstream.count == 1
        untrusting = SidecardTransport(sidecard=client, verify=False, trust_env=False)
        with library.Client(transport=untrusting) as http, pytest.raises(library.ConnectError):
            http.get("http://llm.example/v1/models")


@LIBRARIES
def test_its_own_connections_are_as_many_as_those_of_sdks(library: ModuleType) -> None:
    """The default limit is 1,000 connections; ``limits=`` of either library changes it."""
    request = library.Request("GET", "http://h/")
    for limits, expected in ((None, 1000), (httpx.Limits(max_connections=7), 7), (httpx2.Limits(max_connections=7), 7)):
        transport = SidecardTransport(verify=False, limits=limits)
        with pytest.raises(library.ConnectError):
            transport.handle_request(request)

        pool = transport._inner._clients[library]._transport._pool
        assert pool._max_connections == expected
        transport.close()


# Ends ----------------------------------------------------------------------------------------------------------------------


def sdk(upstream: RawUpstream, client: Client) -> openai.OpenAI:
    """Return OpenAI's client."""
    http = httpx2.Client(transport=SidecardTransport(sidecard=client, verify=False), timeout=20)
    return openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="k", http_client=http, max_retries=0)


def asdk(upstream: RawUpstream, transport: Any) -> openai.AsyncOpenAI:
    """Return OpenAI's asynchronous client."""
    http = httpx2.AsyncClient(transport=transport, timeout=20)
    return openai.AsyncOpenAI(base_url=f"{upstream.url}/v1", api_key="k", http_client=http, max_retries=0)


LINGERING: list[Step] = [*stream(event("one "), event("two", "stop"), DONE, ends=False), 3.0, b"0\r\n\r\n"]
"""The server keeps the connection open for three seconds after the last event."""


def test_a_stream_ends_where_the_sdk_ends_it(client: Client) -> None:
    """At ``[DONE]``, though the server keeps the connection; the answer is stored at once."""
    with RawUpstream(LINGERING) as upstream, sdk(upstream, client) as llm:
        began = time.monotonic()
        for _ in range(2):
            chunks = llm.chat.completions.create(model="m", messages=HELLO, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"

        assert time.monotonic() - began < 2.5
        assert upstream.count == 1


def test_an_asynchronous_stream_ends_where_the_sdk_ends_it(client: Client) -> None:
    """The stream ends at ``[DONE]``, and the answer is stored."""

    async def asynchronous(upstream: RawUpstream) -> None:
        transport = SidecardTransport(sidecard=client, verify=False)
        llm = asdk(upstream, transport)
        for _ in range(2):
            chunks = await llm.chat.completions.create(model="m", messages=HELLO, stream=True)
            texts = [chunk.choices[0].delta.content or "" async for chunk in chunks]
            assert "".join(texts) == "one two"

        await llm.close()

    with RawUpstream(LINGERING) as upstream:
        began = time.monotonic()
        anyio.run(asynchronous, upstream)
        assert time.monotonic() - began < 2.5
        assert upstream.count == 1


@pytest.mark.parametrize("timeout", [None, 10**8])
def test_only_the_callers_own_timeout_applies(timeout: float | None, shared: Daemon, client: Client) -> None:
    """A wait lasts as long as the request's own timeout, beyond the daemon's half a second."""
    goes_on, got = threading.Event(), list[Any]()

    def read() -> None:
        with Client(shared.socket) as sidecard:
            transport = SidecardTransport(sidecard=sidecard, verify=False)
            got.append(post(httpx2, transport, upstream, timeout=timeout, json={"model": "m", "messages": HELLO}))

    with RawUpstream([goes_on, *response(ANSWER)]) as upstream:
        threads = [threading.Thread(target=read, daemon=True) for _ in range(2)]
        threads[0].start()
        poll(lambda: upstream.count == 1, "the upstream was not asked")
        threads[1].start()
        poll(lambda: ask(shared.socket, {"op": "stats"})["waiters"] == 1, "nobody waits")
        time.sleep(0.8)
        goes_on.set()
        for thread in threads:
            thread.join(20)

        assert sorted(one.headers["x-sidecard-source"] for one in got) == ["shared", "upstream"]
        assert upstream.count == 1


def test_words_in_gzip_arrive_one_by_one(client: Client) -> None:
    """The first word arrives before the last one is sent."""
    encoder, goes_on = zlib.compressobj(wbits=31), threading.Event()
    parts = [encoder.compress(event(text)) + encoder.flush(zlib.Z_SYNC_FLUSH) for text in ("one ", "two")]
    rest = encoder.compress(event("", "stop") + DONE) + encoder.flush()
    script = stream(parts[0], goes_on, parts[1], rest, headers=[b"content-encoding: gzip"])
    with RawUpstream(script) as upstream, sdk(upstream, client) as llm:
        chunks = iter(llm.chat.completions.create(model="m", messages=HELLO, stream=True))
        assert next(chunks).choices[0].delta.content == "one "
        goes_on.set()
        assert [chunk.choices[0].delta.content for chunk in chunks] == ["two", ""]
        assert b"accept-encoding: gzip" in upstream.heads[0].lower()
        again = llm.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert [chunk.choices[0].delta.content for chunk in again] == ["one ", "two", ""]
        plain = post(
            httpx2,
            SidecardTransport(sidecard=client, verify=False),
            upstream,
            json={"model": "m", "messages": HELLO, "stream": True},
            headers={"accept-encoding": "identity", "authorization": "Bearer k"},
        )
        assert "content-encoding" not in plain.headers
        assert plain.content.endswith(DONE)
        assert upstream.count == 1


# Refusals -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "error"), [(429, openai.RateLimitError), (529, openai.InternalServerError)])
def test_a_backend_that_asks_for_a_pause_is_refused_to_all_alike(status: int, error: Any, client: Client) -> None:
    """Other callers are rejected with the backend's own status and ``Retry-After``."""
    limited = response(b'{"error": {"message": "slow down"}}', b"Retry-After: 7", status=b"%d Slow" % status)
    with RawUpstream(limited, response(ANSWER)) as upstream, sdk(upstream, client) as llm:
        seen = []
        for text in ("one", "two"):
            with pytest.raises(error) as raised:
                llm.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

            seen.append(raised.value.response)

        assert [one.status_code for one in seen] == [status, status]
        assert [one.headers["x-sidecard-source"] for one in seen] == ["upstream", "rejected"]
        assert 5 <= int(seen[1].headers["retry-after"]) <= 7
        assert upstream.count == 1


@pytest.mark.parametrize("directive", [b"no-store", b"private, No-Store"])
def test_an_upstream_may_forbid_storing(directive: bytes, client: Client) -> None:
    """The app sees that it was that."""
    with RawUpstream(response(ANSWER, b"Cache-Control: " + directive)) as upstream:
        transport = SidecardTransport(sidecard=client, verify=False)
        got = [post(httpx2, transport, upstream).headers for _ in range(2)]
        assert [one["x-sidecard-source"] for one in got] == ["upstream", "upstream"]
        assert [one["x-sidecard-not-stored"] for one in got] == ["policy", "policy"]


def test_answers_without_a_finish_count_for_their_backend(client: Client, shared: Daemon) -> None:
    """They are whole for the SDK, which leaves at ``[DONE]``, so no breaker opens; the app sees why none is stored."""
    script = stream(event("one "), event("two"), DONE, ends=False)
    with RawUpstream([*script, 0.2, b"0\r\n\r\n"]) as upstream, sdk(upstream, client) as llm:
        for number in range(14):
            asked: Any = [{"role": "user", "content": str(number)}]
            chunks = llm.chat.completions.create(model="m", messages=asked, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two"
            assert chunks.response.headers["x-sidecard-not-stored"] == "incomplete"

        assert upstream.count == 14
        name = next(name for name in ask(shared.socket, {"op": "breakers"})["backends"] if str(upstream.port) in name)  # type: ignore[attr-defined]  # a map
        state = ask(shared.socket, {"op": "breakers"})["backends"][name]  # type: ignore[index]  # as above
        assert (state["state"], state["calls"], state["failures"]) == ("closed", 14, 0)


MAX_FUNCTIONS_OF_A_HIT = 145
"""Those of the client, for an answer in one piece; each takes a third of a microsecond or more."""


def test_a_hit_takes_few_functions(client: Client) -> None:
    """A count is the same on every machine, whatever else it does."""
    with RawUpstream(response(ANSWER)) as upstream, httpx2.Client() as http:
        transport = SidecardTransport(sidecard=client, verify=False)
        asked = {"json": {"model": "m", "messages": HELLO}, "headers": {"authorization": "Bearer k"}}
        requests = [http.build_request("POST", f"{upstream.url}/v1/chat/completions", **asked) for _ in range(4)]  # type: ignore[arg-type]  # a dict of several
        for request in requests[:3]:
            transport.handle_request(request).read()

        called: list[str] = []

        def count(frame: Any, happened: str, _: object) -> None:
            if happened == "call" and "sidecard_client" in frame.f_code.co_filename:
                called.append(f"{frame.f_code.co_filename}:{frame.f_code.co_qualname}")

        sys.setprofile(count)
        try:
            answer = transport.handle_request(requests[3])
        finally:
            sys.setprofile(None)

        assert answer.headers["x-sidecard-source"] == "cache"
        assert len(called) <= MAX_FUNCTIONS_OF_A_HIT, Counter(called).most_common()
        transport.close()
