"""Both clients and a real daemon: hits from views are those of the socket, each is counted once, and none outlives its daemon."""

import json
import signal
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import httpx2
import pytest
from anyio.from_thread import start_blocking_portal

from sidecard_client import AsyncClient, CallRejected, Client
from sidecard_client.http import SidecardTransport
from sidecard_client.view.reader import boot_clock
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon, poll
from tests.metrics import samples
from tests.raw_upstream import RawUpstream, response
from tests.view_callers import ask_again, counted, is_armed, is_published, publish, view_of

pytestmark = pytest.mark.usefixtures("patient_clients")

GETS = "sidecard_requests_total op=get outcome=hit"

Make = Callable[..., Caller]


@pytest.fixture(scope="module")
def running(module_daemon: Callable[..., Daemon]) -> Daemon:
    """Start the daemon of all tests that do not end it."""
    return module_daemon()


@pytest.fixture
def served(running: Daemon) -> Daemon:
    """Return a daemon without answers."""
    running.purge()
    return running


@pytest.fixture
def path(served: Daemon) -> str:
    """Return its socket."""
    return served.socket


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest, path: str) -> Iterator[Make]:
    """Make clients of each kind."""
    with connecting(request.param, path) as function:
        yield function


@pytest.fixture
def blocking(path: str) -> Iterator[Caller]:
    """Make a blocking client."""
    with Client(path) as sidecard:
        yield Caller(sidecard, None)


class Frozen:
    """A daemon that is stopped within the block: whatever is answered then needs no round trip."""

    def __init__(self, daemon: Daemon) -> None:
        self._process = daemon.process

    def __enter__(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGCONT)


def never(*_: object) -> Any:
    """Be a function that must not run."""
    pytest.fail("the function runs")


def test_every_kind_of_read_is_answered_from_the_view(served: Daemon, make: Make, path: str) -> None:
    """As over the socket, while the daemon is stopped; each hit is counted once, with its operation's name, when it goes on."""
    caller = make()
    caller.ask("put", "list", ["a", "b", 3])
    caller.ask("put", "one", "whole")
    publish(caller, "k1", "k2", "list", "one")
    over_socket = make().outcome(never, "k1", name="shout", key="k1")
    before = counted(path, "hits", "begins", "view_hits")
    gets = samples(path).get(GETS, 0.0)
    with Frozen(served):
        read = caller.outcome(never, "k1", name="shout", key="k1", mode="only_if_cached")
        assert (read.value, read.source, read.backend) == ("K1", "cache", over_socket.backend)
        assert (read.saved_seconds, read.saved_dollars) == (over_socket.saved_seconds, over_socket.saved_dollars)
        assert over_socket.age_seconds <= read.age_seconds < over_socket.age_seconds + 20
        assert caller.ask("call", never, "k2", name="shout", key="k2", max_age=1000.0) == "K2"
        assert caller.ask("get", "k1") == "K1"
        assert caller.ask("get", "k1", max_age=1000.0) == "K1"
        for key, pieces in (("list", ["a", "b", 3]), ("one", ["whole"])):
            stream = caller.sidecard.stream(never, key, name="shout", key=key)
            assert read_stream(caller, stream) == pieces
            assert (stream.source, stream.backend, stream.not_stored) == ("cache", "default", "")
            assert stream.age_seconds > 0

    poll(lambda: counted(path, "view_hits")[0] == before[2] + 4, "not all hits were reported")
    hits, begins = counted(path, "hits", "begins")
    assert (hits - before[0], begins - before[1]) == (4, 4)
    assert samples(path)[GETS] - gets == 2


def read_stream(caller: Caller, stream: Any) -> list[Any]:
    """Return all pieces."""
    if caller.portal is None:
        return list(stream)

    async def pieces() -> list[Any]:
        return [piece async for piece in stream]

    return caller.portal.call(pieces)


def test_batches_ask_only_for_inputs_that_the_view_has_not(served: Daemon, make: Make, path: str) -> None:
    """All inputs are answered while the daemon is stopped; with one that is new, that one alone is called for."""
    caller = make()
    inputs = [f"text {number}" for number in range(200)]
    called: list[list[str]] = []

    def shout(texts: list[str]) -> list[str]:
        called.append(texts)
        return [text.upper() for text in texts]

    def all_read() -> bool:
        ask_again(caller.sidecard)
        before = counted(path, "view_hits")[0]
        assert caller.ask("call_each", shout, inputs, name="shout") == [text.upper() for text in inputs]
        poll(lambda: not is_armed(caller.sidecard), "hits are not reported")
        return counted(path, "view_hits") == (before + len(inputs),)

    poll(all_read, "not all inputs are read from the view")
    with Frozen(served):
        outcomes = caller.ask("outcome_each", never, inputs, name="shout")
        assert {outcome.source for outcome in outcomes} == {"cache"}
        assert [outcome.value for outcome in outcomes] == [text.upper() for text in inputs]

    assert called == [inputs]
    before = counted(path, "view_hits")[0]
    assert caller.ask("call_each", shout, [*inputs, "new"], name="shout")[-1] == "NEW"
    assert called[1:] == [["new"]]
    poll(lambda: counted(path, "view_hits")[0] >= before + len(inputs), "not all hits were reported")


def test_calls_that_need_the_daemon_ask_it(make: Make, path: str) -> None:
    """A refresh, another task, and a bound that the entry has passed: each makes its call again, or is refused by the daemon."""
    caller = make()
    publish(caller, "k")
    assert caller.outcome(str.upper, "k", name="shout", key="k", mode="refresh").source == "upstream"
    publish(caller, "k")
    assert caller.outcome(str.upper, "k", name="shout", key="k", task="rag").source == "cache"
    assert caller.outcome(str.upper, "k", name="shout", key="k", max_age=0.0).source == "upstream"
    assert caller.outcome(str.upper, "k", name="shout", key=None).source == "upstream"
    with pytest.raises(CallRejected):
        caller.outcome(never, "k", name="shout", key="k", max_age=0.0, mode="only_if_cached")


def test_answer_that_the_caller_finds_invalid_is_asked_for_again(served: Daemon, make: Make, path: str) -> None:
    """A hit that ``valid=`` rejects counts as a hit, and the call is made again, as over the socket."""
    caller = make()
    publish(caller, "k")
    before = counted(path, "view_hits")[0]
    outcome = caller.outcome(lambda text: text + "!", "k", name="shout", key="k", valid=lambda value: value == "k!")
    assert (outcome.value, outcome.source) == ("k!", "upstream")
    poll(lambda: counted(path, "view_hits")[0] == before + 1, "the hit was not reported")


def test_no_read_returns_what_was_changed_before(served: Daemon, make: Make) -> None:
    """After each acknowledged put, delete and purge of another client, the next read has the new state."""
    caller, other = make(), make()
    for number in range(10):
        publish(caller, "k")
        assert other.ask("put", "k", number)
        assert caller.ask("get", "k") == number
        publish_value(caller, "k")
        assert other.ask("delete", "k") == 1
        assert caller.ask("get", "k") is None

    publish(caller, "k")
    served.purge()
    assert caller.ask("get", "k") is None
    with pytest.raises(CallRejected):
        caller.outcome(never, "k", name="shout", key="k", mode="only_if_cached")


def publish_value(caller: Caller, key: str) -> None:
    """Get a value until it is in the view."""
    poll(
        lambda: caller.ask("get", key) is not None and is_published(caller.sidecard, key), "the value is not published"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_view_outlives_its_daemon(daemon: Callable[..., Daemon], socket_path: str, kind: str) -> None:
    """After kill -9 each call is made again; the next daemon's view is attached, and counts its own hits only."""
    served = daemon()
    with connecting(kind, socket_path) as make:
        caller = make()
        publish(caller, "k")
        served.kill()
        assert caller.outcome(str.upper, "k", name="shout", key="k").source == "fallback"
        assert caller.ask("get", "k") is None
        assert view_of(caller.sidecard) is None or not is_published(caller.sidecard, "k")
        served.start_again()
        publish(caller, "k")
        hits, view_hits = counted(socket_path, "hits", "view_hits")
        assert hits < 40
        assert caller.ask("call", never, "k", name="shout", key="k") == "K"
        poll(lambda: counted(socket_path, "view_hits", "hits") == (view_hits + 1, hits + 1), "the hit is not counted")


def test_view_of_a_stopped_daemon_is_used_until_its_entries_expire(served: Daemon, path: str) -> None:
    """Nothing can change meanwhile. Then the call is made without the daemon."""
    with Client(path, daemon_timeout=0.1) as sidecard:
        caller = Caller(sidecard, None)
        publish(caller, "k", ttl=600.0)
        held = view_of(sidecard)
        assert held is not None
        with Frozen(served):
            held.reader._clock = lambda: boot_clock() + 300.0
            assert source_of(caller) == "cache"
            held.reader._clock = lambda: boot_clock() + 600.0
            assert source_of(caller) == "fallback"


def source_of(caller: Caller) -> str:
    """Make a call without its own bound."""
    return caller.outcome(str.upper, "k", name="shout", key="k").source


def test_daemon_without_views_serves_as_before(daemon: Callable[..., Daemon], socket_path: str) -> None:
    """With ``cache.view_bytes = 0`` the client asks once, and not again for half a minute."""
    daemon(SIDECARD_CACHE_VIEW_BYTES="0")
    with Client(socket_path) as sidecard:
        caller = Caller(sidecard, None)
        for _ in range(20):
            assert caller.outcome(str.upper, "k", name="shout", key="k").value == "K"

        assert view_of(caller.sidecard) is None
        assert counted(socket_path, "views", "view_hits", "hits") == (0, 0, 19)


def test_hits_are_reported_without_another_call(blocking: Caller, path: str) -> None:
    """The client's thread reports a few hits in time; the reading thread reports very many at once."""
    caller = blocking
    publish(caller, "k")
    before = counted(path, "view_hits")[0]
    source_of(caller)
    poll(lambda: counted(path, "view_hits")[0] == before + 1, "the hit is not reported")
    for _ in range(1300):
        source_of(caller)

    poll(lambda: counted(path, "view_hits")[0] == before + 1301, "not all hits are reported")


ANSWER = json.dumps(
    {
        "id": "c1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
    }
).encode()
EMBEDDED = json.dumps(
    {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}],
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
).encode()
REQUESTS: dict[str, tuple[str, dict[str, Any], bytes]] = {
    "chat": ("/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hello"}]}, ANSWER),
    "embeddings": ("/v1/embeddings", {"model": "m", "input": "hello"}, EMBEDDED),
}


@pytest.mark.parametrize("request_of", REQUESTS)
@pytest.mark.parametrize("awaits", [False, True])
def test_transport_answers_from_the_view(served: Daemon, path: str, request_of: str, awaits: bool) -> None:
    """The response of an SDK's request has the same headers and bytes as over the socket, while the daemon is stopped."""
    place, body, answer = REQUESTS[request_of]
    with RawUpstream(response(answer)) as upstream, start_blocking_portal() as portal:
        sidecard: Any = AsyncClient(path) if awaits else Client(path)
        transport = SidecardTransport(sidecard=sidecard, verify=False)
        make = partial(httpx2.AsyncClient if awaits else httpx2.Client, transport=transport, timeout=20)

        async def apost(http: Any) -> Any:
            return await http.post(f"{upstream.url}{place}", json=body)

        http: Any = make()
        post = partial(portal.call, apost, http) if awaits else partial(http.post, f"{upstream.url}{place}", json=body)
        over_socket = [post(), post()][1]

        def is_read() -> bool:
            ask_again(sidecard)
            before = counted(path, "view_hits")[0]
            post()
            poll(lambda: not is_armed(sidecard), "hits are not reported")
            return counted(path, "view_hits") == (before + 1,)

        poll(is_read, "the answer is not read from the view")
        with Frozen(served):
            read = post()

        assert read.content == over_socket.content
        ages = [float(answered.headers.pop("x-sidecard-age")) for answered in (over_socket, read)]
        assert 0 < ages[0] < ages[1]
        assert read.headers == over_socket.headers
        assert read.headers["x-sidecard-source"] == "cache"
        assert upstream.count == 1
        if awaits:
            portal.call(http.aclose)
            portal.call(sidecard.aclose)
        else:
            http.close()
            sidecard.close()
