"""SDKs against servers with dialects of their own: what is shared, what is not, and that no breaker opens."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import anyio
import httpx2
import ollama
import openai
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import SidecardTransport
from tests.daemons import Daemon

pytestmark = pytest.mark.usefixtures("patient_clients")

CALLS = 12
"""More than a breaker needs to open."""
EVENTS, JSON = "text/event-stream", "application/json"
HELLO: Any = [{"role": "user", "content": "hello"}]
URL = "http://upstream.test/v1"

Answer = Callable[[httpx2.Request], httpx2.Response]


def chunk(text: str, finish: str | None = None) -> str:
    """Return a chunk of a chat as JSON."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return json.dumps({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


def events(*data: str) -> bytes:
    """Return server-sent events."""
    return "".join(f"data: {one}\n\n" for one in data).encode()


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


class Upstream:
    """Answers each request by a function, and counts them."""

    def __init__(self, answer: Answer) -> None:
        self.count = 0
        self._answer = answer

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Answer a request."""
        self.count += 1
        return self._answer(request)

    def sdk(self, client: Client) -> openai.OpenAI:
        """Return OpenAI's SDK, whose requests are answered here."""
        transport = SidecardTransport(httpx2.MockTransport(self), client)
        return openai.OpenAI(base_url=URL, api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport))


def always(body: bytes, content_type: str = EVENTS) -> Upstream:
    """Return an upstream that always answers this."""
    return Upstream(lambda _: httpx2.Response(200, headers={"content-type": content_type}, content=body))


def text_of(llm: openai.OpenAI, **fields: Any) -> tuple[str, str]:
    """Return a streamed answer's text, and why it is not stored."""
    with llm.chat.completions.with_streaming_response.create(
        model="m", messages=HELLO, stream=True, **fields
    ) as response:
        text = "".join(one.choices[0].delta.content or "" for one in response.parse() if one.choices)
        return text, response.headers.get("x-sidecard-not-stored", "")


@pytest.mark.parametrize(
    ("body", "content_type", "fields", "reason"),
    [
        (events(chunk("hi"), chunk("", ""), "[DONE]"), EVENTS, {}, "incomplete"),
        (events(chunk("hi"), chunk("", None), "[DONE]"), EVENTS, {}, "incomplete"),
        (events(chunk("hi")), EVENTS, {}, "incomplete"),
        (events(chunk("hi"), chunk("", "stop"), "[DONE]"), EVENTS, {"n": 2}, "incomplete"),
        (events(chunk("hi"), chunk("", "unheard_of"), "[DONE]"), EVENTS, {}, "dialect"),
        (events(chunk("hi"), chunk("", "stop"), "[DONE]"), "text/plain", {}, "dialect"),
        (events(chunk("hi"), chunk("", "stop"), "[DONE]"), JSON, {}, "dialect"),
    ],
)
def test_streams_of_a_dialect_reach_their_callers_and_open_no_breaker(
    body: bytes, content_type: str, fields: dict[str, Any], reason: str, client: Client
) -> None:
    """Nothing of them is stored."""
    upstream = always(body, content_type)
    llm = upstream.sdk(client)
    assert [text_of(llm, **fields) for _ in range(CALLS)] == [("hi", reason)] * CALLS
    assert upstream.count == CALLS
    assert {backend.state for backend in client.breakers().backends.values()} == {"closed"}


@pytest.mark.parametrize(
    "body",
    [
        events(chunk("hi").replace(", ", ",\ndata: "), chunk("", "stop")),
        b": OPENROUTER PROCESSING\r\n\r\n" + events(chunk("hi"), chunk("", "stop"), "[DONE] ").replace(b"\n", b"\r\n"),
        events('{"id":"","model":"","object":"","created":0,"choices":[]}', chunk("hi"), chunk("", "stop"), "[DONE]"),
    ],
)
def test_streams_that_sdks_understand_are_shared(body: bytes, client: Client) -> None:
    """Several lines of an event, comments, a first chunk without choices."""
    upstream = always(body)
    llm = upstream.sdk(client)
    assert [text_of(llm) for _ in range(3)] == [("hi", "")] * 3
    assert upstream.count == 1


def test_pings_with_text_are_no_part_of_a_message(shared: Daemon) -> None:
    """Anthropic's SDK skips them unread, also asynchronously."""
    shared.purge()
    message: dict[str, Any] = {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
    }
    data: list[dict[str, Any]] = [
        {"type": "message_start", "message": message | {"usage": {"input_tokens": 1, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 2}},
        {"type": "message_stop"},
    ]
    lines = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in data]
    upstream = always("event: ping\ndata: keepalive\n\n".join(lines).encode())

    async def ask() -> list[str]:
        async with AsyncClient(shared.socket) as client:
            transport = SidecardTransport(httpx2.MockTransport(upstream), client)
            http = httpx2.AsyncClient(transport=transport)
            llm = anthropic.AsyncAnthropic(base_url="http://upstream.test", api_key="k", http_client=http)
            texts = []
            for _ in range(3):
                async with llm.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream:
                    texts.append(await stream.get_final_text())

            return texts

    assert anyio.run(ask) == ["hi"] * 3
    assert upstream.count == 1


@pytest.mark.parametrize(
    "error",
    [
        {"code": 400, "message": "x"},
        {"code": "context_length_exceeded", "message": "x"},
        {"type": "request_too_large", "message": "x"},
    ],
)
def test_errors_of_the_request_inside_an_answer_open_no_breaker(error: dict[str, Any], client: Client) -> None:
    """Its own caller gets the answer as it came."""
    upstream = always(json.dumps({"error": error}).encode(), JSON)
    llm = upstream.sdk(client)
    for number in range(CALLS):
        got = llm.chat.completions.with_raw_response.create(model="m", messages=HELLO, seed=number)
        assert (got.http_response.json(), got.headers["x-sidecard-not-stored"]) == ({"error": error}, "error")

    assert upstream.count == CALLS
    assert {backend.state for backend in client.breakers().backends.values()} == {"closed"}


def respond(request: httpx2.Request) -> httpx2.Response:
    """Answer as the Responses API does, which carries back what it was asked with."""
    fields = json.loads(request.content)
    echoed = {name: fields.get(name) for name in ("metadata", "user", "safety_identifier", "service_tier")}
    answer = {"id": "r", "object": "response", "created_at": 1, "model": "m", "status": "completed", "output": []}
    return httpx2.Response(
        200, json=answer | echoed | {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    )


@pytest.mark.parametrize("field", ["metadata", "user", "safety_identifier", "service_tier"])
def test_nobody_gets_what_another_callers_request_carried(field: str, client: Client) -> None:
    """Each value has an answer of its own, which is shared among equal requests."""
    values: list[Any] = ["auto", "flex"] if field == "service_tier" else ["alice", "bob"]
    values = [{"name": value} for value in values] if field == "metadata" else values
    upstream = Upstream(respond)
    llm = upstream.sdk(client)
    for value in values * 2:
        response: Any = llm.responses.create(model="m", input="hi", extra_body={field: value})
        assert getattr(response, field) == value

    assert upstream.count == 2


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"conversation": "conv_1"}, "state"),
        ({"store": True}, "state"),
        ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "state"),
        ({"tools": [{"type": "mcp", "server_label": "mail", "server_url": "https://mail.test"}]}, "tool"),
    ],
)
def test_requests_with_side_effects_are_made_each_time(fields: dict[str, Any], reason: str, client: Client) -> None:
    """Unless the app insists on sharing them."""
    upstream = Upstream(respond)
    create = upstream.sdk(client).responses.with_raw_response.create
    for _ in range(3):
        got = create(model="m", input="continue", **fields)
        assert (got.headers["x-sidecard-source"], got.headers["x-sidecard-not-stored"]) == ("passed", reason)

    assert upstream.count == 3
    insisting = [create(model="m", input="continue", extra_headers={"x-sidecard-cache": "on"}, **fields) for _ in "ab"]
    assert [one.headers["x-sidecard-source"] for one in insisting] == ["upstream", "cache"]
    assert upstream.count == 4


def test_loads_and_unloads_of_a_model_are_made_each_time(client: Client) -> None:
    """Of Ollama; how long a model stays loaded is no part of a question."""

    def answer(request: httpx2.Request) -> httpx2.Response:
        loads = not json.loads(request.content).get("prompt")
        reason = "load" if loads else "stop"
        return httpx2.Response(200, json={"model": "m", "response": "", "done": True, "done_reason": reason})

    upstream = Upstream(answer)
    with httpx2.Client(transport=SidecardTransport(httpx2.MockTransport(upstream), client)) as http:
        for body in ({"model": "m"}, {"model": "m", "keep_alive": 0}, {"model": "m", "prompt": "", "keep_alive": 0}):
            for _ in range(2):
                got = http.post("http://upstream.test/api/generate", json=body | {"stream": False})
                assert got.headers["x-sidecard-not-stored"] == "state"

        for keep_alive in ("5m", "10m", 0):
            asked = {"model": "m", "prompt": "hi", "stream": False, "keep_alive": keep_alive}
            assert ollama.GenerateResponse(**http.post("http://upstream.test/api/generate", json=asked).json()).done

    assert upstream.count == 6 + 1


def test_hints_to_the_providers_cache_ask_the_same_question(client: Client) -> None:
    """At the top of a request and in the parts of its messages."""

    def answer(_: httpx2.Request) -> httpx2.Response:
        choice = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
        return httpx2.Response(
            200, json={"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
        )

    upstream = Upstream(answer)
    llm = upstream.sdk(client)
    hints: list[dict[str, Any]] = [{}, {"prompt_cache_key": "a"}, {"prompt_cache_options": {"ttl": "30m"}}]
    marks: list[dict[str, Any]] = [{}, {"cache_control": {"type": "ephemeral"}}, {"prompt_cache_breakpoint": {}}]
    for hint, mark in zip(hints, marks, strict=True):
        messages: Any = [{"role": "user", "content": [{"type": "text", "text": "hello", **mark}]}]
        assert llm.chat.completions.create(model="m", messages=messages, extra_body=hint).choices

    assert upstream.count == 1


@pytest.mark.parametrize(
    ("model", "answer", "state", "reason"),
    [
        ("none", {"data": []}, "closed", "incomplete"),
        ("one", {"data": [{"index": 0, "embedding": [1.0]}]}, "closed", "incomplete"),
        ("other", {"vectors": [[1.0], [2.0]]}, "closed", "dialect"),
        ("refused", {"error": {"code": 400, "message": "x"}}, "closed", "error"),
        ("overloaded", {"error": {"type": "overloaded_error", "message": "x"}}, "open", "error"),
    ],
)
def test_embeddings_are_judged_as_other_answers(
    model: str, answer: dict[str, Any], state: str, reason: str, client: Client
) -> None:
    """Their own caller gets the answer as it came; only errors of the server count against the backend."""
    upstream = Upstream(lambda _: httpx2.Response(200, json=answer))
    with httpx2.Client(transport=SidecardTransport(httpx2.MockTransport(upstream), client)) as http:
        for number in range(CALLS):
            got = http.post(f"{URL}/embeddings", json={"model": model, "input": [f"a{number}", f"b{number}"]})
            if got.status_code == 200:
                assert (got.json(), got.headers["x-sidecard-not-stored"]) == (answer, reason)

        assert upstream.count >= 10
        assert client.breakers().backends[f"upstream.test/{model}"].state == state
