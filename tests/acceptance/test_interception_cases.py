"""Faults of SDKs, gateways and proxies, observed by two processes of an app that share an SDK's client.

Each process has a client of its own. Further members of each class are tested where the code is: dialects in
`tests/properties/test_answer_dialects.py`, exchanges in `tests/integration/test_exchanges.py`, the APIs in
`tests/integration/test_api_families.py`, held streams in `tests/integration/test_held_streams.py`.
"""

import base64
import gzip
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any, Self

import anthropic
import anyio
import httpx
import httpx2
import ollama
import openai
import pytest

from sidecard_client import AsyncClient, Client, share
from sidecard_client.http import AsyncSidecardTransport, SidecardTransport
from tests.daemons import Daemon, poll
from tests.raw_upstream import RawUpstream, response, stream

pytestmark = pytest.mark.usefixtures("patient_clients")

HELLO: Any = [{"role": "user", "content": "hello"}]
SECONDS = 20.0
DONE = b"data: [DONE]\n\n"


def completion(text: str = "hi", **fields: Any) -> bytes:
    """Return a chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    whole = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(whole | fields).encode()


def event(text: str, finish: str | None = None, **fields: Any) -> bytes:
    """Return an event of a chat's stream."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    whole = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(whole | fields).encode() + b"\n\n"


def answer_of_responses(**fields: Any) -> bytes:
    """Return a response of OpenAI's Responses API."""
    whole = {"id": "r-1", "object": "response", "created_at": 1, "status": "completed", "model": "m", "output": []}
    whole |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None}
    return json.dumps(whole | {"incomplete_details": None} | fields).encode()


def message(**fields: Any) -> bytes:
    """Return a message of Anthropic's."""
    whole: dict[str, Any] = {
        "id": "m-1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "stop_reason": "end_turn",
    }
    whole |= {"content": [{"type": "text", "text": "hi"}], "stop_sequence": None}
    return json.dumps(whole | {"usage": {"input_tokens": 3, "output_tokens": 4}} | fields).encode()


class Process:
    """What one process of an app has: a client of the daemon, and SDKs whose calls it shares."""

    def __init__(self, daemon: Daemon) -> None:
        self._stack = ExitStack()
        self.sidecard = self._stack.enter_context(Client(daemon.socket))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def openai(self, upstream: RawUpstream, **arguments: Any) -> openai.OpenAI:
        """Return OpenAI's client."""
        llm = openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="sk-one", max_retries=0, **arguments)
        return share(self._stack.enter_context(llm), sidecard=self.sidecard)

    def anthropic(self, upstream: RawUpstream) -> anthropic.Anthropic:
        """Return Anthropic's client."""
        llm = anthropic.Anthropic(base_url=upstream.url, api_key="k", max_retries=0)
        return share(self._stack.enter_context(llm), sidecard=self.sidecard)

    def ollama(self, upstream: RawUpstream, **arguments: Any) -> ollama.Client:
        """Return Ollama's client."""
        llm = ollama.Client(upstream.url, **arguments)
        self._stack.callback(llm._client.close)
        return share(llm, sidecard=self.sidecard)

    def http(self, event_hooks: Any = None, **policy: Any) -> httpx2.Client:
        """Return an HTTP client."""
        http = self._stack.enter_context(httpx2.Client(timeout=SECONDS, event_hooks=event_hooks))
        return share(http, sidecard=self.sidecard, **policy)


@pytest.fixture(scope="module")
def running(module_daemon: Callable[..., Daemon]) -> Daemon:
    """The daemon of all tests of this module."""
    return module_daemon()


@pytest.fixture
def processes(running: Daemon) -> Iterator[tuple[Process, Process]]:
    """Two processes, while the daemon has no answers and no breakers."""
    running.purge()
    with Process(running) as first, Process(running) as second:
        yield first, second


Both = tuple[Process, Process]


def chat(llm: openai.OpenAI, text: str = "hello", **fields: Any) -> Any:
    """Make a call."""
    return llm.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **fields)


def texts(llm: openai.OpenAI, text: str = "hello", **fields: Any) -> list[Any]:
    """Make a call with streaming, and return the texts."""
    chunks = chat(llm, text, stream=True, **fields)
    return [choice.delta.content for each in chunks for choice in each.choices]


def post(http: httpx2.Client, upstream: RawUpstream, headers: dict[str, str] | None = None, **fields: Any) -> Any:
    """Make a call without an SDK, so that headers can be chosen."""
    body = {"model": "m", "messages": HELLO} | fields
    return http.post(f"{upstream.url}/v1/chat/completions", json=body, headers=headers)


# Libraries and ways in ---------------------------------------------------------------------------------------------------


def test_the_recipes_of_the_documentation_run_with_both_libraries(running: Daemon, processes: Both) -> None:
    """One transport serves each request's library in both kinds of code, and passes requests that are no calls."""
    with RawUpstream(response(completion())) as upstream:
        url = f"{upstream.url}/v1"
        for library in (httpx, httpx2):
            with library.Client(transport=SidecardTransport(sidecard=processes[0].sidecard)) as http:
                answer = http.post(f"{url}/chat/completions", json={"model": "m", "messages": HELLO})
                assert answer.json()["choices"][0]["message"]["content"] == "hi"
                assert http.get(f"{url}/models").headers["x-sidecard-source"] == "passed"
                assert isinstance(answer, library.Response)

        with httpx2.Client(transport=SidecardTransport(sidecard=processes[0].sidecard)) as http2:
            chat(openai.OpenAI(base_url=url, api_key="k", http_client=http2))

        async def asynchronous() -> None:
            transport = AsyncSidecardTransport(sidecard=AsyncClient(running.socket))
            async with httpx2.AsyncClient(transport=transport) as http:
                llm = openai.AsyncOpenAI(base_url=url, api_key="k", http_client=http)
                await llm.chat.completions.create(model="m", messages=HELLO)

        anyio.run(asynchronous)
        assert upstream.count == 4  # of two accounts, and twice the list of models


def test_share_keeps_proxies_redirects_and_limits(processes: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """`share()` wraps the transports that a client has, mounted ones as well."""
    with RawUpstream(response(completion())) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        llm = openai.OpenAI(base_url="http://upstream.test/v1", api_key="k", max_retries=0)
        share(llm, sidecard=processes[0].sidecard)
        assert chat(llm).choices[0].message.content == chat(llm).choices[0].message.content == "hi"

    assert proxy.count == 1
    assert proxy.heads[0].startswith(b"POST http://upstream.test/v1/chat/completions ")
    assert llm._client.follow_redirects


def test_share_says_what_it_looked_for() -> None:
    """An object without HTTP clients raises an error that lists what was searched for."""
    with pytest.raises(TypeError, match="httpx"):
        share(object())


# Answers that cannot be judged, and errors inside answers ----------------------------------------------------------------

_UNPROVEN = {
    "an empty finish reason": stream(event("a"), event("", ""), DONE),
    "no finish reason": stream(event("a"), event("b"), DONE),
    "one of two choices": stream(event("a", "stop"), DONE),
    "another content type": stream(event("a", "stop"), DONE, kind=b"text/plain"),
}


@pytest.mark.parametrize("name", _UNPROVEN)
def test_answers_that_cannot_be_proven_never_open_a_breaker(name: str, processes: Both) -> None:
    """A dozen unproven answers reach their callers, and none is stored."""
    with RawUpstream(_UNPROVEN[name]) as upstream:
        llm = processes[0].openai(upstream)
        for number in range(12):
            assert texts(llm, f"{name} {number}", n=2 if "choices" in name else 1)[0] == "a"

        texts(llm, f"{name} 0", n=2 if "choices" in name else 1)
        assert upstream.count == 13


def test_followers_of_an_unproven_stream_end_as_its_holder(processes: Both) -> None:
    """Followers get the pieces and the end that the holder gets."""
    go_on = threading.Event()
    with RawUpstream(stream(event("a"), go_on, event("b"), DONE)) as upstream, ThreadPoolExecutor(2) as threads:
        holder = threads.submit(texts, processes[0].openai(upstream))
        poll(lambda: upstream.count == 1, "no call was made")
        follower = threads.submit(texts, processes[1].openai(upstream))
        poll(lambda: processes[0].sidecard.stats().waiters == 1, "nobody follows")
        go_on.set()
        assert holder.result(SECONDS) == follower.result(SECONDS) == ["a", "b"]
        assert upstream.count == 1


def test_dialects_of_events_are_stored(processes: Both) -> None:
    """Events over several ``data:`` lines and plain-text pings are valid."""
    whole = json.dumps(json.loads(event("a", "stop")[6:]), indent=1).encode()
    lines = b"".join(b"data: " + line + b"\n" for line in whole.split(b"\n")) + b"\n"
    with RawUpstream(stream(b": hello\n\n", lines, DONE)) as upstream:
        assert texts(processes[0].openai(upstream)) == texts(processes[1].openai(upstream)) == ["a"]
        assert upstream.count == 1

    usage = {"input_tokens": 3, "output_tokens": 1}
    begun = json.loads(message(content=[], stop_reason=None, usage=usage))
    ends: dict[str, Any] = {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": usage}
    events: list[tuple[str, Any]] = [("message_start", {"message": begun}), ("ping", "keep-alive")]
    events += [("message_delta", ends), ("message_stop", {})]
    pieces = [
        f"event: {name}\ndata: {fields if isinstance(fields, str) else json.dumps({'type': name} | fields)}\n\n"
        for name, fields in events
    ]
    with RawUpstream(stream(*(piece.encode() for piece in pieces))) as upstream:
        for process in processes:
            process.http().post(
                f"{upstream.url}/v1/messages", json={"model": "m", "max_tokens": 9, "messages": HELLO, "stream": True}
            )

        assert upstream.count == 1


@pytest.mark.parametrize(
    "error",
    [
        {"code": 400, "message": "bad", "type": "BadRequestError"},
        {"code": "context_length_exceeded", "message": "too long", "type": "invalid_request_error"},
        {"type": "request_too_large", "message": "too large"},
    ],
)
def test_errors_of_the_request_inside_answers_never_open_a_breaker(error: dict[str, Any], processes: Both) -> None:
    """Each of a dozen callers gets its error, and the backend counts as healthy."""
    with RawUpstream(response(json.dumps({"error": error}).encode())) as upstream:
        http = processes[0].http()
        for number in range(12):
            assert post(http, upstream, seed=number).json() == {"error": error}

        assert upstream.count == 12


def test_errors_of_the_server_inside_answers_open_a_breaker(processes: Both) -> None:
    """An overloaded backend gets no further calls."""
    body = json.dumps({"error": {"type": "overloaded_error", "message": "Overloaded"}}).encode()
    with RawUpstream(response(body)) as upstream:
        http = processes[0].http()
        statuses = [post(http, upstream, seed=number).status_code for number in range(12)]

    assert statuses == [200] * 10 + [503] * 2


# What a request is: its key, its context, and its effects ----------------------------------------------------------------


def test_echoed_fields_belong_to_the_key(processes: Both) -> None:
    """Each user gets a response with its own values."""
    bodies = [response(answer_of_responses(user=name, metadata={"of": name})) for name in ("alice", "bob")]
    with RawUpstream(*bodies) as upstream:
        for process, name in zip(processes, ("alice", "bob"), strict=True):
            llm = process.openai(upstream)
            for _ in range(2):
                answer = llm.responses.create(model="m", input="hello", user=name, metadata={"of": name})
                assert (answer.user, answer.metadata) == (name, {"of": name})

        assert upstream.count == 2


_EFFECTS: dict[str, tuple[dict[str, Any], str]] = {
    "a conversation": ({"conversation": "conv_1"}, "state"),
    "a background response": ({"background": True}, "state"),
    "a stored response": ({"store": True}, "state"),
    "a container": ({"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, "state"),
    "a server's tool": ({"tools": [{"type": "mcp", "server_label": "mail", "server_url": "http://mail"}]}, "tool"),
}


@pytest.mark.parametrize("name", _EFFECTS)
def test_requests_with_effects_pass_unshared_unless_they_are_to_be_shared(name: str, processes: Both) -> None:
    """Each of three equal requests reaches the server, unless its header asks for sharing."""
    fields, reason = _EFFECTS[name]
    with RawUpstream(response(answer_of_responses())) as upstream:
        llm = processes[0].openai(upstream)
        for _ in range(3):
            raw = llm.responses.with_raw_response.create(model="m", input="continue", **fields)
            assert raw.headers["x-sidecard-source"] == "passed"
            assert raw.headers["x-sidecard-not-stored"] == reason

        assert upstream.count == 3
        for process in processes:
            headers = {"x-sidecard-cache": "on"}
            process.openai(upstream).responses.create(model="m", input="continue", extra_headers=headers, **fields)

        assert upstream.count == 4
        assert all(b"x-sidecard" not in head.lower() for head in upstream.heads)


def test_a_path_alone_is_no_api(processes: Both) -> None:
    """A survey's responses, a chat's messages and a catalog's embeddings are not LLM calls."""
    with RawUpstream(response(b'{"status": "completed"}')) as upstream:
        http = processes[0].http()
        for path, body in {
            "/surveys/7/responses": {"answer": "no", "input": 3},
            "/v1/messages": {"to": "bob", "text": "hello"},
            "/catalog/embeddings": {"items": [1, 2]},
        }.items():
            for _ in range(2):
                answer = http.post(f"{upstream.url}{path}", json=body)
                assert answer.headers["x-sidecard-not-stored"] == "dialect"

        assert upstream.count == 6


def test_a_refused_request_concerns_only_equal_ones(processes: Both) -> None:
    """1. A request with a field outside the key is refused; 2. one without it, which waited, makes its own call."""
    go_on = threading.Event()
    refusal = response(b'{"error": {"message": "unknown user", "code": "bad_user"}}', status=b"400 Bad Request")
    with RawUpstream([go_on, *refusal], response(completion())) as upstream, ThreadPoolExecutor(2) as threads:
        odd = threads.submit(chat, processes[0].openai(upstream), user="odd")
        poll(lambda: upstream.count == 1, "no call was made")
        plain = threads.submit(chat, processes[1].openai(upstream))
        poll(lambda: processes[0].sidecard.stats().waiters == 1, "nobody waits")
        go_on.set()
        with pytest.raises(openai.BadRequestError):
            odd.result(SECONDS)

        assert plain.result(SECONDS).choices[0].message.content == "hi"


def test_hints_to_the_providers_cache_are_not_part_of_the_key(processes: Both) -> None:
    """Hints are left out wherever the API defines them; an argument of the same name counts."""
    marked: Any = [
        {"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]}
    ]
    plain: Any = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
    with RawUpstream(response(message())) as upstream:
        for process, messages in zip(processes, (marked, plain), strict=True):
            process.anthropic(upstream).messages.create(model="m", max_tokens=9, messages=messages)

        assert upstream.count == 1
        tool: Any = {"name": "t", "input_schema": {"type": "object", "properties": {"cache_control": {}}}}
        processes[0].anthropic(upstream).messages.create(model="m", max_tokens=9, messages=plain, tools=[tool])
        assert upstream.count == 2

    with RawUpstream(response(completion())) as upstream:
        for process, hints in zip(
            processes, ({"prompt_cache_key": "a"}, {"prompt_cache_retention": "24h"}), strict=True
        ):
            chat(process.openai(upstream), extra_body=hints)

        assert upstream.count == 1


# Identity ----------------------------------------------------------------------------------------------------------------


def test_cookies_of_proxies_are_no_identity(processes: Both) -> None:
    """A cookie that Cloudflare sets changes nothing; a session's cookie does."""
    infrastructure = response(completion(), b"Set-Cookie: __cf_bm=abc; path=/")
    with RawUpstream(infrastructure) as upstream:
        http = processes[0].http()
        post(http, upstream)
        assert post(http, upstream).headers["x-sidecard-source"] == "cache"
        assert post(processes[1].http(), upstream).headers["x-sidecard-source"] == "cache"
        assert post(http, upstream, {"cookie": "session=bob"}).headers["x-sidecard-source"] == "upstream"


def _token(**claims: Any) -> str:
    parts = ({"alg": "RS256"}, {"iss": "https://login", "sub": "app", "exp": 4_000_000_000} | claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


def test_the_account_is_the_identity_and_not_its_token(processes: Both) -> None:
    """A renewed token of the same account reads its entries, once the upstream has accepted that token; another's does not."""
    tokens = {name: {"authorization": f"Bearer {_token(jti=name)}"} for name in ("first", "renewed")}
    other = {"authorization": f"Bearer {_token(sub='other')}"}
    with RawUpstream(response(completion())) as upstream:
        http = processes[0].http()
        for seed, headers in enumerate(tokens.values()):
            post(http, upstream, headers, seed=seed)  # accepted

        post(http, upstream, tokens["first"], seed=7)
        assert post(http, upstream, tokens["renewed"], seed=7).headers["x-sidecard-source"] == "cache"
        assert post(http, upstream, other, seed=7).headers["x-sidecard-source"] == "upstream"
        # No upstream has accepted it yet, so that it may be forged.
        forged = post(http, upstream, {"authorization": f"Bearer {_token(jti='forged')}"}, seed=7)
        assert forged.headers["x-sidecard-source"] == "upstream"


def test_signatures_of_a_long_lived_id_are_one_account(processes: Both) -> None:
    """Each call has a new signature; a temporary id rotates with its session."""

    def signed(identity: str, signature: str) -> dict[str, str]:
        scope = f"{identity}/20261129/us-east-1/bedrock/aws4_request"
        return {"authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={signature}"}

    with RawUpstream(response(completion())) as upstream:
        http = processes[0].http()
        for identity, source in {"AKIAIOSFODNN7EXAMPLE": "cache", "ASIAIOSFODNN7EXAMPLE": "upstream"}.items():
            post(http, upstream, signed(identity, "a" * 64))
            answer = post(processes[1].http(), upstream, signed(identity, "b" * 64))
            assert answer.headers["x-sidecard-source"] == source


def test_the_app_may_say_who_asks(processes: Both) -> None:
    """A hook identifies callers whose credentials rotate."""
    with RawUpstream(response(completion())) as upstream:
        for number, process in enumerate(processes):
            http = process.http(identity=lambda _: "billing")
            post(http, upstream, {"authorization": f"Bearer opaque-{number}"})

        assert upstream.count == 1


@pytest.mark.parametrize("name", ["OpenAI-Organization", "OpenAI-Project"])
def test_a_refused_organization_does_not_stop_another(name: str, processes: Both) -> None:
    """Each organization has a backend of its own."""
    limited = response(b'{"error": {"message": "slow down"}}', b"Retry-After: 30", status=b"429 Too Many Requests")
    with RawUpstream(limited, response(completion())) as upstream:
        http = processes[0].http()
        assert post(http, upstream, {name: "one"}).status_code == 429
        assert post(http, upstream, {name: "two"}).status_code == 200
        assert post(http, upstream, {name: "one"}).headers["x-sidecard-source"] == "rejected"


@pytest.mark.parametrize(
    "name", ["traceparent", "elastic-apm-traceparent", "newrelic", "x-datadog-trace-id", "sentry-trace"]
)
def test_tracing_headers_are_not_part_of_the_key(name: str, processes: Both) -> None:
    """Tracing headers differ with each request, and reach the upstream."""
    with RawUpstream(response(completion())) as upstream:
        for number, process in enumerate(processes):
            post(process.http(), upstream, {name: f"00-{number}"})

        assert upstream.count == 1
        assert f"{name}: 00-0".encode() in upstream.heads[0]


# Streams -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["unread", "left"])
def test_a_holder_that_does_not_read_delays_no_follower(how: str, processes: Both) -> None:
    """A holder that reads nothing, or leaves its stream unclosed, delays no follower."""
    go_on = threading.Event()
    words = [event(f"w{number}") for number in range(5)]
    with RawUpstream(stream(words[0], go_on, *words[1:], event("", "stop"), DONE)) as upstream:
        held = chat(processes[0].openai(upstream), stream=True)
        if how == "left":
            next(iter(held))

        with ThreadPoolExecutor(1) as threads:
            follower = threads.submit(texts, processes[1].openai(upstream))
            poll(lambda: processes[0].sidecard.stats().waiters == 1, "nobody follows")
            go_on.set()
            assert follower.result(SECONDS) == [f"w{number}" for number in range(5)] + [""]

        assert upstream.count == 1
        held.close()


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asynchronous"])
def test_a_stream_ends_with_its_last_event_and_is_stored(asynchronous: bool, running: Daemon, processes: Both) -> None:
    """The server keeps the connection open afterwards, as proxies do; the SDK does not wait for it."""
    never = threading.Event()
    with RawUpstream([*stream(event("a", "stop"), DONE, ends=False), never]) as upstream:
        started = time.monotonic()
        if asynchronous:

            async def read() -> None:
                llm = openai.AsyncOpenAI(base_url=f"{upstream.url}/v1", api_key="sk-one", max_retries=0)
                async with AsyncClient(running.socket) as sidecard, llm:
                    share(llm, sidecard=sidecard)
                    async for _ in await llm.chat.completions.create(model="m", messages=HELLO, stream=True):
                        pass

            anyio.run(read)
        else:
            texts(processes[0].openai(upstream))

        assert time.monotonic() - started < 5
        assert texts(processes[1].openai(upstream)) == ["a"]
        assert upstream.count == 1
        never.set()


def test_words_in_an_encoding_arrive_one_by_one(processes: Both) -> None:
    """Pieces of an encoded answer arrive live, also if no encoding was requested."""
    flate = zlib.compressobj(wbits=31)
    words = [event("a"), event("b", "stop"), DONE]
    encoded = [flate.compress(word) + flate.flush(zlib.Z_SYNC_FLUSH) for word in words]
    go_on = threading.Event()
    script = stream(encoded[0], go_on, *encoded[1:], flate.flush(), headers=[b"Content-Encoding: gzip"])
    with RawUpstream(script) as upstream:
        chunks = iter(chat(processes[0].openai(upstream), stream=True, extra_headers={"accept-encoding": "identity"}))
        assert next(chunks).choices[0].delta.content == "a"
        go_on.set()
        assert [each.choices[0].delta.content for each in chunks] == ["b"]
        assert texts(processes[1].openai(upstream)) == ["a", "b"]
        assert upstream.count == 1


# Responses ---------------------------------------------------------------------------------------------------------------


def test_names_outside_ascii_are_shared_like_others(processes: Both) -> None:
    """Names of models and headers keep their bytes, in UTF-8 and in Latin-1."""
    headers = [b"X-Model: " + "modèle".encode(code) for code in ("utf-8", "latin-1")]
    with RawUpstream(response(completion(model="modèle"), *headers)) as upstream:
        for process in processes:
            answer = post(process.http(), upstream, model="modèle")
            assert [value for name, value in answer.headers.raw if name == b"X-Model"] == [
                header[9:] for header in headers
            ]

        assert upstream.count == 1


def test_a_response_behaves_like_the_librarys_own(processes: Both) -> None:
    """Elapsed time, hooks, raw bytes and their count work for the own call and for a hit."""
    seen: list[float] = []
    body = gzip.compress(completion())

    def note(answer: httpx2.Response) -> None:
        answer.read()
        seen.append(answer.elapsed.total_seconds())

    with RawUpstream(response(body, b"Content-Encoding: gzip")) as upstream:
        for process in processes:
            raw = process.openai(upstream).chat.completions.with_raw_response.create(model="m", messages=HELLO)
            assert raw.elapsed.total_seconds() >= 0
            post(process.http(event_hooks={"response": [note]}), upstream)
            with process.http().stream(
                "POST", f"{upstream.url}/v1/chat/completions", json={"model": "m", "messages": HELLO, "seed": 1}
            ) as answer:
                assert b"".join(answer.iter_raw()) == body
                assert (answer.num_bytes_downloaded, answer.http_version) == (len(body), "HTTP/1.1")

    assert len(seen) == 2


def test_nothing_of_one_exchange_is_replayed(processes: Both) -> None:
    """Rate limits, dates and cookies are left out, and an answer marked ``no-store`` is not stored."""
    passing = [
        b"x-ratelimit-remaining-requests: 1",
        b"retry-after: 9",
        b"Date: today",
        b"Set-Cookie: a=b",
        b"X-Kept: 1",
    ]
    with RawUpstream(response(completion(), *passing), response(completion(), b"Cache-Control: no-store")) as upstream:
        post(processes[0].http(), upstream)
        hit = post(processes[1].http(), upstream)
        assert (hit.headers["x-sidecard-source"], hit.headers["x-kept"]) == ("cache", "1")
        assert not {"x-ratelimit-remaining-requests", "retry-after", "date", "set-cookie"} & set(hit.headers)
        forbidden = [post(process.http(), upstream, seed=1) for process in processes]
        assert [answer.headers["x-sidecard-not-stored"] for answer in forbidden] == ["policy"] * 2
        assert upstream.count == 3


@pytest.mark.parametrize(
    ("status", "error"),
    [(b"400 Bad Request", openai.BadRequestError), (b"422 Unprocessable Entity", openai.UnprocessableEntityError)],
)
def test_waiters_get_a_refusal_whole(status: bytes, error: Any, processes: Both) -> None:
    """Waiters get the whole body, the status, and the headers that SDKs act on."""
    fields = {"message": "é because " * 300, "code": "scripted", "type": "invalid_request_error", "param": "messages"}
    go_on = threading.Event()
    body = json.dumps({"error": fields}).encode()
    script = response(body, b"x-should-retry: false", b"x-request-id: r-1", status=status)
    with RawUpstream([go_on, *script]) as upstream, ThreadPoolExecutor(2) as threads:
        calls = [threads.submit(chat, processes[0].openai(upstream))]
        poll(lambda: upstream.count == 1, "no call was made")
        calls.append(threads.submit(chat, processes[1].openai(upstream)))
        poll(lambda: processes[0].sidecard.stats().waiters == 1, "nobody waits")
        go_on.set()
        for call in calls:
            with pytest.raises(error) as caught:
                call.result(SECONDS)

            assert caught.value.body == fields
            assert (caught.value.code, caught.value.request_id) == ("scripted", "r-1")
            assert caught.value.response.headers["x-should-retry"] == "false"

        assert upstream.count == 1


def test_all_processes_are_refused_as_the_first_one(processes: Both) -> None:
    """Every process gets the SDK's rate limit exception, with the time to wait."""
    limited = response(b'{"error": {"message": "slow down"}}', b"Retry-After: 30", status=b"429 Too Many Requests")
    with RawUpstream(limited) as upstream:
        for process in processes:
            with pytest.raises(openai.RateLimitError) as caught:
                chat(process.openai(upstream))

            assert 25 < float(caught.value.response.headers["retry-after"]) <= 30

        assert upstream.count == 1


def test_an_answer_that_is_not_stored_says_why(processes: Both) -> None:
    """Answers excluded by policy, and cut answers, name their reason in a header."""
    with RawUpstream(response(message())) as upstream:
        http = processes[0].http(keep="deterministic")
        body = {"model": "m", "max_tokens": 9, "messages": HELLO}
        for _ in range(2):
            answer = http.post(f"{upstream.url}/v1/messages", json=body)
            assert (answer.headers["x-sidecard-source"], answer.headers["x-sidecard-not-stored"]) == (
                "upstream",
                "policy",
            )

    with RawUpstream(response(message(stop_reason="max_tokens"))) as upstream:
        answer = processes[0].http().post(f"{upstream.url}/v1/messages", json=body)
        assert answer.headers["x-sidecard-not-stored"] == "length"


def test_only_the_callers_own_timeout_applies(daemon: Callable[..., Daemon]) -> None:
    """Waiters with Ollama's SDK, which has no timeout, outlast the daemon's limit; a huge timeout is valid."""
    line = {"model": "m", "created_at": "2026-01-01T00:00:01Z", "done": True, "done_reason": "stop"}
    body = json.dumps(line | {"message": {"role": "assistant", "content": "hi"}}).encode()
    impatient = daemon(SIDECARD_FLIGHTS_WAIT_SECONDS="0.2")
    go_on = threading.Event()
    with RawUpstream([go_on, *response(body)]) as upstream, ThreadPoolExecutor(3) as threads:
        calls = []
        with Process(impatient) as first, Process(impatient) as second:
            for process, timeout in ((first, None), (second, None), (second, 10**8)):
                calls.append(threads.submit(process.ollama(upstream, timeout=timeout).chat, "m", HELLO))
                poll(lambda: upstream.count == 1, "no call was made")

            poll(lambda: first.sidecard.stats().waiters == 2, "nobody waits")
            time.sleep(0.5)  # beyond the daemon's own limit
            go_on.set()
            assert [call.result(SECONDS).message.content for call in calls] == ["hi"] * 3
            assert upstream.count == 1


def test_an_upload_is_never_held_in_memory(processes: Both) -> None:
    """Requests that are no LLM calls are sent while the app produces them."""
    with RawUpstream(response(b"{}")) as upstream:

        def arrived(count: int) -> bool:
            return sum(upstream.body_sizes) >= count << 20

        def parts() -> Iterator[bytes]:
            for number in range(8):
                # Each part but the first two is made after an earlier one has arrived.
                poll(partial(arrived, number - 1), "it is held")
                yield bytes(1 << 20)

        answer = processes[0].http().post(f"{upstream.url}/v1/files", content=parts())
        assert answer.headers["x-sidecard-source"] == "passed"
        assert upstream.body_sizes == [8 << 20]
