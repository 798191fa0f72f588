"""What a transport and a real daemon make of refusals, and of answers that are not stored: header, exception, report."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import httpx2
import openai
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import SidecardTransport
from tests.daemons import Daemon, poll
from tests.llm_servers import Refusal, ScriptedModel

pytestmark = pytest.mark.usefixtures("patient_clients")

SECONDS = 20.0
URL = "http://upstream.test/v1/chat/completions"
QUESTION: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "why?"}]}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "because"}, "finish_reason": "stop"}
ANSWER = {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [CHOICE]}
REFUSED = {"error": {"message": "unknown tier " + "x" * 2500, "type": "invalid_request_error", "code": "bad_tier"}}

Handler = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture
def running(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with a task that stores nothing, and with a breaker that probes soon."""
    return daemon(
        SIDECARD_TASKS='{"unstored": {"cache": "never"}}',
        SIDECARD_BACKENDS='{"upstream.test/m": {"breaker": {"open_seconds": 0.5}}}',
    )


@pytest.fixture
def client(running: Daemon) -> Iterator[Client]:
    """A client of the daemon."""
    with Client(running.socket) as client:
        yield client


def asks(client: Client, upstream: Handler, **fields: Any) -> httpx2.Response:
    """Ask through a transport of one's own."""
    headers = fields.pop("headers", {})
    with httpx2.Client(transport=SidecardTransport(httpx2.MockTransport(upstream), client), timeout=SECONDS) as http:
        return http.post(URL, json=QUESTION | fields, headers=headers)


def test_a_refusal_concerns_callers_whose_requests_are_equal_outside_the_key(client: Client) -> None:
    """Waiters of an equal context get the whole refusal; another caller makes its own call, which is shared."""
    calls: list[str] = []
    all_wait = threading.Event()

    def upstream(request: httpx2.Request) -> httpx2.Response:
        calls.append(request.headers["x-title"])
        all_wait.wait(SECONDS)
        if request.headers["x-title"] == "odd":
            return httpx2.Response(400, json=REFUSED, headers={"x-should-retry": "false", "request-id": "r1"})

        return httpx2.Response(200, json=ANSWER)

    with ThreadPoolExecutor(4) as threads:
        started = [threads.submit(asks, client, upstream, headers={"x-title": "odd"})]
        poll(lambda: len(calls) == 1, "no call was made")
        started += [
            threads.submit(asks, client, upstream, headers={"x-title": name}) for name in ("odd", "even", "even")
        ]
        poll(lambda: client.stats().waiters == 3, "the others do not wait")
        all_wait.set()
        holder, equal, *others = (one.result(SECONDS) for one in started)

    assert [calls.count("odd"), calls.count("even")] == [1, 1]
    for refused in (holder, equal):
        assert refused.status_code == 400
        assert refused.json() == REFUSED
        assert (refused.headers["x-should-retry"], refused.headers["request-id"]) == ("false", "r1")

    assert [(answer.status_code, answer.json()) for answer in others] == [(200, ANSWER)] * 2


def test_other_processes_meet_the_refusal_that_closed_their_backend(client: Client) -> None:
    """They are rejected with its status and the rest of its pause."""
    kinds = {429: openai.RateLimitError, 529: openai.InternalServerError}
    with ScriptedModel() as model:
        model.next = [Refusal(status, {"retry-after": "30"}) for status in kinds]
        for status, text in itertools.product(kinds, ("first", "second")):
            transport = SidecardTransport(httpx2.HTTPTransport(), client, backend=f"limits with {status}")
            with (
                httpx2.Client(transport=transport) as http,
                openai.OpenAI(base_url=f"{model.url}/v1", api_key="k", http_client=http, max_retries=0) as llm,
                pytest.raises(kinds[status]) as caught,
            ):
                llm.chat.completions.create(model="m", messages=[{"role": "user", "content": text}])

            assert caught.value.status_code == status
            assert 25 < float(caught.value.response.headers["retry-after"]) <= 30

        assert len(model.asked) == len(kinds)


def test_answers_that_cannot_be_proven_close_a_breaker(client: Client) -> None:
    """1. Ten calls fail; 2. the backend recovers, with a dialect whose answers are never known to be whole."""
    failing = [True]

    def upstream(_: httpx2.Request) -> httpx2.Response:
        if failing:
            return httpx2.Response(500, json={"error": "down"})

        return httpx2.Response(200, json=ANSWER | {"choices": [CHOICE | {"finish_reason": None}]})

    for number in range(10):
        asks(client, upstream, seed=number)

    failing.clear()
    (name,) = client.breakers().backends
    assert client.breakers().backends[name].state == "open"
    poll(lambda: asks(client, upstream, seed=99).status_code == 200, "the breaker does not probe")
    assert client.breakers().backends[name].state == "closed"
    assert {asks(client, upstream, seed=number).status_code for number in range(20)} == {200}


@pytest.mark.parametrize("kind", ["blocking", "asynchronous"])
def test_the_app_learns_why_the_daemon_stores_nothing(running: Daemon, kind: str) -> None:
    """A header names the reason at the end of the answer, streamed or not; the report counts it by task."""
    headers = {"x-sidecard-task": "unstored"}

    async def ask(url: str, fields: dict[str, Any]) -> httpx2.Response:
        async with (
            AsyncClient(running.socket) as client,
            httpx2.AsyncClient(transport=SidecardTransport(sidecard=client)) as http,
        ):
            return await http.post(url, json=fields, headers=headers)

    with ScriptedModel() as model, Client(running.socket) as client:
        url = f"{model.url}/v1/chat/completions"
        for stream in (False, True):
            fields = QUESTION | {"stream": stream}
            if kind == "asynchronous":
                response = anyio.run(ask, url, fields)
            else:
                with httpx2.Client(transport=SidecardTransport(sidecard=client)) as http:
                    response = http.post(url, json=fields, headers=headers)

            assert response.headers["x-sidecard-source"] == "upstream"
            assert response.headers["x-sidecard-not-stored"] == "policy"

        assert client.report().tasks["unstored"].not_stored_by_reason == {"policy": 2}


def test_requests_that_pass_are_counted(client: Client) -> None:
    """The report counts passed requests by reason, task and API."""

    def upstream(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"id": "r", "object": "response", "status": "completed", "output": []})

    with httpx2.Client(transport=SidecardTransport(httpx2.MockTransport(upstream), client)) as http:
        http.get("http://upstream.test/v1/models")
        kept = {"model": "m", "input": "go on", "conversation": "conv_1"}
        answered = http.post("http://upstream.test/v1/responses", json=kept, headers={"x-sidecard-task": "rag"})
        assert (answered.headers["x-sidecard-source"], answered.headers["x-sidecard-not-stored"]) == ("passed", "state")

    assert client.flush_metrics(SECONDS)
    report = client.report()
    assert report.passed == {"": {"dialect": 1}, "openai_responses": {"state": 1}}
    assert (report.tasks["rag"].passed_by_reason, report.total.passed) == ({"state": 1}, 2)
