"""Both clients and the real daemon: old answers in place of none, and failures that are remembered.

All answers are stale from the beginning (``ttl=0``), so that no test has to wait until they are.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from sidecard_client import CallFailed, CallRejected, Client
from sidecard_client.http import SidecardTransport
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon
from tests.llm_servers import Refusal, ScriptedModel

pytestmark = pytest.mark.usefixtures("patient_clients")

OLD = {"key": "question", "ttl": 0.0, "stale": 60.0}


class Upstream:
    """A function that returns numbers, or raises what a test wants, and counts."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> int:
        """Answer."""
        self.calls += 1
        if self.error is not None:
            raise self.error

        return self.calls

    def pieces(self) -> Iterator[int]:
        """Answer in pieces."""
        first = self()
        yield first
        yield first + 100


@pytest.fixture
def running(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that gives nothing away for being new."""
    return daemon("--set", "cache.sharing_window_seconds=0")


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, running: Daemon) -> Iterator[Caller]:
    """A client of each kind."""
    with connecting(request.param, running.socket) as connect:
        yield connect()


def test_a_failed_call_has_the_old_answer_in_its_place(client: Caller) -> None:
    """Always marked, with its age; and the next caller tries again."""
    upstream = Upstream()
    assert client.outcome(upstream, **OLD).source == "upstream"
    upstream.error = ConnectionError("down")
    old = client.outcome(upstream, **OLD)

    assert (old.value, old.source, old.backend, old.attempts, upstream.calls) == (1, "stale", "default", 1, 2)
    assert 0 < old.age_seconds < 60
    upstream.error = None
    assert client.outcome(upstream, **OLD).value == 3


def test_the_old_answer_comes_after_all_other_backends(client: Caller) -> None:
    """It is better than none, and not than another backend's."""
    upstream, other = Upstream(), Upstream()
    client.outcome({"local": upstream, "default": other}, **OLD)
    upstream.error = ConnectionError("down")
    new = client.outcome({"local": upstream, "default": other}, **OLD)
    assert (new.source, new.backend) == ("upstream", "default")
    other.error = ConnectionError("down")
    old = client.outcome({"local": upstream, "default": other}, retries=1, **OLD)

    assert (old.source, old.value, old.attempts) == ("stale", 1, 4)


def test_a_failure_without_a_stale_answer_is_raised(client: Caller) -> None:
    """A fault of the request is no outage."""
    upstream = Upstream()
    client.outcome(upstream, **OLD)
    upstream.error = ValueError("bad prompt")

    with pytest.raises(ValueError, match="bad prompt"):
        client.outcome(upstream, **OLD)


def test_an_open_breaker_leaves_the_old_answer(client: Caller) -> None:
    """No call is made; a caller without a stale answer is rejected."""
    upstream = Upstream()
    client.outcome(upstream, **OLD)
    client.ask("breaker", "default", "open")
    old = client.outcome(upstream, **OLD)

    assert (old.value, old.source, upstream.calls) == (1, "stale", 1)
    with pytest.raises(CallRejected):
        client.outcome(upstream, key="another")


def test_the_others_have_the_old_answer_while_one_fetches(client: Caller) -> None:
    """No caller waits."""
    upstream = Upstream()
    client.outcome(upstream, **OLD)
    seen = []

    def slow() -> int:
        seen.append(client.outcome(upstream, **OLD))
        return 7

    assert client.outcome(slow, **OLD).value == 7
    assert [(one.value, one.source) for one in seen] == [(1, "stale")]
    assert upstream.calls == 1


def read(client: Caller, upstream: Upstream, key: str = "stream") -> tuple[list[Any], str]:
    """Read a stream and return it with its source."""
    if isinstance(client.sidecard, Client):
        stream = client.sidecard.stream(upstream.pieces, key=key, ttl=0.0, stale=60.0)
        return list(stream), str(stream.source)

    async def all_of() -> tuple[list[Any], str]:
        stream = client.sidecard.stream(upstream.pieces, key=key, ttl=0.0, stale=60.0)
        return [piece async for piece in stream], str(stream.source)

    assert client.portal is not None
    answer: tuple[list[Any], str] = client.portal.call(all_of)
    return answer


def test_a_stream_that_fails_before_its_first_piece_is_the_old_one(client: Caller) -> None:
    """Whole, and marked; so also where the breaker is open."""
    upstream = Upstream()
    assert read(client, upstream) == ([1, 101], "upstream")
    upstream.error = ConnectionError("down")
    assert read(client, upstream) == ([1, 101], "stale")
    client.ask("breaker", "default", "open")
    assert read(client, upstream) == ([1, 101], "stale")
    assert upstream.calls == 2


def test_a_failure_is_remembered_where_its_caller_says_so(client: Caller) -> None:
    """The next caller gets it without a call, as if it had waited."""
    upstream = Upstream()
    upstream.error = ValueError("bad prompt")
    with pytest.raises(ValueError, match="bad prompt"):
        client.outcome(upstream, key="question", failure_ttl=60.0)

    with pytest.raises(CallFailed, match="bad prompt") as failed:
        client.outcome(upstream, key="question")

    assert (failed.value.kind, upstream.calls) == ("fatal", 1)


def test_an_sdk_gets_the_old_response_while_its_backend_fails(running: Daemon) -> None:
    """A 503, plain and streamed; and a 401 as it is."""
    with ScriptedModel() as model, Client(running.socket) as sidecard:
        transport = SidecardTransport(httpx2.HTTPTransport(), sidecard, ttl=0.0, stale=60.0)
        with httpx2.Client(transport=transport, base_url=model.url, timeout=20) as http:
            for streamed in (False, True):
                body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": streamed}
                first = http.post("/v1/chat/completions", json=body)
                model.next.append(Refusal(503))
                second = http.post("/v1/chat/completions", json=body)
                assert (first.headers["x-sidecard-source"], second.headers["x-sidecard-source"]) == (
                    "upstream",
                    "stale",
                )
                assert second.status_code == 200
                assert second.content == first.content
                model.next.append(Refusal(401))
                assert http.post("/v1/chat/completions", json=body).status_code == 401
