"""Prefixes of prompts, from apps to a real daemon: what becomes warm, who waits for it, and what it saves."""

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import anyio
import httpx
import httpx2
import ollama
import openai
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import SidecardTransport
from sidecard_client.http.request import parse_request, prefixes_of_request
from sidecard_client.keys.prefixes.recipe import PromptPrefixes, prefixes_of_texts
from tests.daemons import Daemon, ask, poll
from tests.llm_servers import ScriptedModel
from tests.raw_upstream import RawUpstream, Step, stream

pytestmark = pytest.mark.usefixtures("patient_clients")

CACHING = (
    "backends.cloud.prefix_affinity=provider",
    "backends.cloud.prefix_min_tokens=16",
    "backends.cloud.prefix_hold_seconds=60",
    "backends.cloud.input_dollars_per_million_tokens=10",
    "backends.cloud.output_dollars_per_million_tokens=0",
    "backends.cloud.cached_input_dollars_per_million_tokens=1",
)


@pytest.fixture(scope="module")
def running(module_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with a provider ``cloud`` that caches prompts."""
    return module_daemon(*(flag for setting in CACHING for flag in ("--set", setting)))


@pytest.fixture
def manual(request: pytest.FixtureRequest) -> str:
    """A prefix of some 1,200 tokens, which no other test has."""
    return f"Answer from the manual of {request.node.name}. " * 100


@pytest.fixture
def client(running: Daemon) -> Iterator[Client]:
    """A client of the daemon, for calls of that provider."""
    with Client(running.socket) as client:
        yield client


def states(daemon: Daemon, prefixes: PromptPrefixes) -> list[str]:
    """Return what the daemon knows of the prefixes on ``cloud``."""
    reply: Any = ask(daemon.socket, {"op": "explain", "prefix": list(prefixes.digests)})
    return list(reply["prefixes"]["cloud"]["states"])


def system(manual: str) -> dict[str, str]:
    """Return the first message of a chat."""
    return {"role": "system", "content": manual}


# Through the transports -------------------------------------------------------------------------------------------


def openai_chat(llm: openai.OpenAI, manual: str, question: str) -> Any:
    """Make a call of OpenAI's chat API."""
    messages: Any = [system(manual), {"role": "user", "content": question}]
    return llm.chat.completions.create(model="m", messages=messages)


def openai_stream(llm: openai.OpenAI, manual: str, question: str) -> Any:
    """Make a streamed call of it."""
    messages: Any = [system(manual), {"role": "user", "content": question}]
    return list(llm.chat.completions.create(model="m", messages=messages, stream=True))


def openai_responses(llm: openai.OpenAI, manual: str, question: str) -> Any:
    """Make a call of the Responses API."""
    return llm.responses.create(model="m", instructions=manual, input=question)


def openai_completions(llm: openai.OpenAI, manual: str, question: str) -> Any:
    """Make a call of the completions API."""
    return llm.completions.create(model="m", prompt=manual + question)


@pytest.mark.parametrize("call", [openai_chat, openai_stream, openai_responses, openai_completions])
def test_a_call_of_openais_sdk_warms_the_prefixes_of_its_prompt(
    running: Daemon, client: Client, manual: str, call: Callable[..., Any]
) -> None:
    """The next question finds it warm. A hit asks for nothing."""
    with (
        ScriptedModel() as model,
        httpx2.Client(transport=SidecardTransport(sidecard=client, backend="cloud"), timeout=60) as http,
    ):
        llm = openai.OpenAI(base_url=f"{model.url}/v1", api_key="k", http_client=http, max_retries=0)
        before = client.stats().prefixes_wanted
        call(llm, manual, "Why?")
        found = seen_by(model)
        assert len(found.digests) >= 2
        assert states(running, found) == ["warm"] * len(found.digests)

        call(llm, manual, "Why?")
        assert (model.count, client.stats().prefixes_wanted) == (1, before + 1)
        call(llm, manual, "Who?")
        assert states(running, seen_by(model)) == ["warm"] * len(found.digests)
        assert seen_by(model).digests[0] == found.digests[0]
        assert client.stats().prefixes_wanted == before + 2


def test_a_call_of_anthropics_sdk_warms_its_marks(running: Daemon, client: Client, manual: str) -> None:
    """What is after the last mark is not kept, so it is no prefix."""
    with (
        ScriptedModel() as model,
        httpx2.Client(transport=SidecardTransport(sidecard=client, backend="cloud"), timeout=60) as http,
    ):
        claude = anthropic.Anthropic(base_url=model.url, api_key="k", http_client=http, max_retries=0)
        system: Any = [{"type": "text", "text": manual, "cache_control": {"type": "ephemeral"}}]
        claude.messages.create(model="m", max_tokens=9, system=system, messages=[{"role": "user", "content": "Why?"}])
        found = seen_by(model)
        assert len(found.digests) == 1
        assert states(running, found) == ["warm"]


def test_a_call_of_ollamas_library_warms_its_prompt(running: Daemon, client: Client, manual: str) -> None:
    """Its transport is httpx's, and it is a slots server that keeps it."""
    with ScriptedModel() as model:
        library = ollama.Client(host=model.url)
        library._client = httpx.Client(
            base_url=model.url, transport=SidecardTransport(sidecard=client, backend="cloud")
        )
        library.chat(model="m", messages=[system(manual), {"role": "user", "content": "Why?"}])
        assert states(running, seen_by(model)) == ["warm", "warm"]
        library._client.close()


def test_a_request_of_gemini_warms_its_prompt(running: Daemon, client: Client, manual: str) -> None:
    """And the tokens that it reports as cached are booked as saved."""
    usage = {
        "promptTokenCount": 1000,
        "cachedContentTokenCount": 900,
        "candidatesTokenCount": 1,
        "totalTokenCount": 1001,
    }
    answer = {
        "candidates": [{"content": {"parts": [{"text": "Yes."}]}, "finishReason": "STOP"}],
        "usageMetadata": usage,
        "modelVersion": "g",
    }
    sent: list[bytes] = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.content)
        return httpx2.Response(200, json=answer)

    url = "https://generativelanguage.googleapis.com/v1beta/models/g:generateContent"
    body = {
        "systemInstruction": {"parts": [{"text": manual}]},
        "contents": [{"role": "user", "parts": [{"text": "Why?"}]}],
    }
    transport = SidecardTransport(httpx2.MockTransport(serve), client, backend="cloud", task="gemini")
    with httpx2.Client(transport=transport) as http:
        assert http.post(url, json=body).json() == answer

    assert states(running, prefixes_in(url, {}, sent[0])) == ["warm", "warm"]
    total = client.report().tasks["gemini"]
    assert total.saved_by_prefix_tokens == 900
    assert total.saved_by_prefix_dollars == pytest.approx(900 * 9e-6)
    assert total.billed_dollars == total.served_dollars == pytest.approx(100 * 1e-5 + 900 * 1e-6)


def prefixes_in(url: str, headers: dict[str, str], body: bytes) -> PromptPrefixes:
    """Return the prefixes of a request as its server received it."""
    found = parse_request("POST", url, list(headers.items()), body)
    assert found is not None
    return prefixes_of_request(found)


def seen_by(model: ScriptedModel) -> PromptPrefixes:
    """Return the prefixes of the last request that a server received."""
    asked = model.asked[-1]
    return prefixes_in(f"{model.url}{asked.path}", asked.headers, json.dumps(asked.body).encode())


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
CHOICE = b'{"id":"c","object":"chat.completion","model":"m","choices":[{"index":0,"finish_reason":"stop",'
REST = b'"message":{"role":"assistant","content":"Yes."}}]}'


def chunk(data: bytes) -> bytes:
    """Write one chunk of a body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_others_wait_for_the_first_text_of_a_body_that_is_read_whole(
    running: Daemon, client: Client, manual: str
) -> None:
    """Not for its head and the blank lines that keep its connection open, nor for its end."""
    begun, ended = threading.Event(), threading.Event()
    first: list[Step] = [HEAD + chunk(b"\n\n"), begun, chunk(CHOICE), ended, chunk(REST) + b"0\r\n\r\n"]
    at_once = [HEAD + chunk(CHOICE + REST) + b"0\r\n\r\n"]
    with (
        RawUpstream(first, at_once) as upstream,
        httpx2.Client(transport=SidecardTransport(sidecard=client, backend="cloud"), timeout=60) as http,
        ThreadPoolExecutor() as pool,
    ):

        def post(question: str) -> Any:
            messages = [system(manual), {"role": "user", "content": question}]
            return http.post(f"{upstream.url}/v1/chat/completions", json={"model": "m", "messages": messages}).json()

        try:
            leading = pool.submit(post, "Why?")
            poll_for(lambda: upstream.count == 1)
            following = [pool.submit(post, question) for question in ("Who?", "How?")]
            poll_for(lambda: held(running) == 2)
            assert upstream.count == 1
            begun.set()
            answers = [one.result(timeout=20) for one in following]
            assert not leading.done()
            assert held(running) == 0
        finally:
            begun.set()
            ended.set()

        assert answers == [leading.result(timeout=20)] * 2


CHAT: tuple[str, dict[str, Any]] = ("chat/completions", {"model": "m", "stream": True})
RESPONSES: tuple[str, dict[str, Any]] = ("responses", {"model": "m", "stream": True, "store": False})
CREATED = b'data: {"type":"response.created","response":{"status":"in_progress","model":"m"}}\n\n'
DELTA = b'data: {"type":"response.output_text.delta","delta":"Yes."}\n\n'
COMPLETED = b'data: {"type":"response.completed","response":{"status":"completed","model":"m","output":[]}}\n\n'
COMMENT = b": OPENROUTER PROCESSING\n\n"
FIRST = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":"Yes."},"finish_reason":null}]}\n\n'
LAST = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("api", "received", "output", "rest"),
    [(RESPONSES, CREATED, DELTA, COMPLETED), (CHAT, COMMENT, FIRST, LAST)],
    ids=["an event that says created", "a comment"],
)
def test_others_wait_for_the_models_output_and_not_for_what_precedes_it(
    running: Daemon,
    client: Client,
    manual: str,
    api: tuple[str, dict[str, Any]],
    received: bytes,
    output: bytes,
    rest: bytes,
) -> None:
    """A provider's cache has no prompt that it has only received. Callers of the same request get all pieces at once."""
    begun, ended = threading.Event(), threading.Event()
    path, fields = api
    with (
        RawUpstream(stream(received, begun, output, ended, rest), stream(received, output, rest)) as upstream,
        httpx2.Client(transport=SidecardTransport(sidecard=client, backend="cloud"), timeout=60) as http,
        ThreadPoolExecutor() as pool,
    ):

        def asking(question: str) -> Any:
            messages = [system(manual), {"role": "user", "content": question}]
            asked = fields | {"messages" if path == CHAT[0] else "input": messages}
            return http.stream("POST", f"{upstream.url}/v1/{path}", json=asked)

        def read(question: str) -> bytes:
            with asking(question) as response:
                return bytes(response.read())

        try:
            with asking("Why?") as leading:
                pieces = leading.iter_raw()
                assert next(pieces) == received
                held_one = pool.submit(read, "Who?")
                poll_for(lambda: held(running) == 1)
                with asking("Why?") as same:
                    # The daemon passes a piece on in the same step in which it would release others.
                    followed = same.iter_raw()
                    assert next(followed) == received
                    assert (upstream.count, held(running)) == (1, 1)
                    begun.set()
                    assert held_one.result(timeout=20) == received + output + rest
                    assert next(pieces) == next(followed) == output
                    ended.set()
                    assert [*pieces] == [*followed] == [rest]
        finally:
            begun.set()
            ended.set()

        assert upstream.count == 2


def held(daemon: Daemon) -> int:
    """Return how many callers wait for the first output of another call."""
    reply: Any = ask(daemon.socket, {"op": "breakers"})
    return int(reply["backends"]["cloud"]["held"])


def poll_for(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    poll(condition, "the condition never held")


# Of plain functions -----------------------------------------------------------------------------------------------


def answer(question: str) -> str:
    """Answer a question."""
    return f"{question} Yes."


def pieces(question: str) -> Iterator[str]:
    """Answer a question in pieces."""
    yield from (question, "Yes.")


def answers(questions: list[str]) -> list[str]:
    """Answer questions."""
    return [f"{question} Yes." for question in questions]


class Assistant:
    """A client of a library."""

    def ask(self, question: str) -> str:
        """Answer a question."""
        return f"{question} Yes."


async def aanswer(question: str) -> str:
    """Answer a question."""
    return f"{question} Yes."


async def apieces(question: str) -> AsyncIterator[str]:
    """Answer a question in pieces."""
    yield question
    yield "Yes."


async def aanswers(questions: list[str]) -> list[str]:
    """Answer questions."""
    return [f"{question} Yes." for question in questions]


class AsyncAssistant:
    """A client of an asynchronous library."""

    async def ask(self, question: str) -> str:
        """Answer a question."""
        return f"{question} Yes."


WAYS = ["call", "outcome", "stream", "cached", "wrap", "call_each"]


@pytest.mark.parametrize("way", WAYS)
def test_prefix_is_a_keyword_of_every_call(running: Daemon, client: Client, manual: str, way: str) -> None:
    """Blocking."""
    policy: dict[str, Any] = {"backend": "cloud", "prefix": [manual, way], "model": "small"}
    match way:
        case "call":
            client.call(answer, manual, **policy)
        case "outcome":
            client.outcome(answer, manual, **policy)
        case "stream":
            assert list(client.stream(pieces, manual, **policy)) == [manual, "Yes."]
        case "cached":
            client.cached(**policy)(answer)(manual)
        case "wrap":
            client.wrap(Assistant(), **policy).ask(manual)
        case _:
            assert client.call_each(answers, [manual, "Who?"], **policy) == [f"{manual} Yes.", "Who? Yes."]

    assert states(running, prefixes_of_texts("small", [manual, way])) == ["warm", "warm"]
    assert states(running, prefixes_of_texts("small", [manual, "other"])) == ["warm", "cold"]
    assert states(running, prefixes_of_texts("large", [manual])) == ["cold"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.anyio
async def test_prefix_is_a_keyword_of_every_asynchronous_call(running: Daemon, manual: str, way: str) -> None:
    """As in the blocking client."""
    policy: dict[str, Any] = {"backend": "cloud", "prefix": [manual, way], "model": "small"}
    async with AsyncClient(running.socket) as client:
        match way:
            case "call":
                await client.call(aanswer, manual, **policy)
            case "outcome":
                await client.outcome(aanswer, manual, **policy)
            case "stream":
                assert [piece async for piece in client.stream(apieces, manual, **policy)] == [manual, "Yes."]
            case "cached":
                await client.cached(**policy)(aanswer)(manual)
            case "wrap":
                await client.wrap(AsyncAssistant(), **policy).ask(manual)
            case _:
                assert await client.call_each(aanswers, [manual], **policy) == [f"{manual} Yes."]

    asked = prefixes_of_texts("small", [manual, way])
    assert await anyio.to_thread.run_sync(states, running, asked) == ["warm", "warm"]


def test_calls_with_a_common_prefix_wait_for_the_first_one(running: Daemon, client: Client, manual: str) -> None:
    """Then they proceed together; what they waited is in their outcomes. Another prompt waits for nobody."""
    entered, proceed = threading.Semaphore(0), threading.Event()

    def slow(question: str) -> str:
        entered.release()
        assert proceed.wait(20)
        return question

    def outcome(question: str, prefix: str = manual) -> Any:
        return client.outcome(slow, question, name="slow", backend="cloud", prefix=prefix)

    with ThreadPoolExecutor() as pool:
        try:
            leading = pool.submit(outcome, "first")
            assert entered.acquire(timeout=20)
            following = [pool.submit(outcome, question) for question in ("second", "third")]
            poll_for(lambda: held(running) == 2)
            other = pool.submit(outcome, "other", "Another manual. " * 100)
            assert entered.acquire(timeout=20)
            assert not entered.acquire(blocking=False)
        finally:
            proceed.set()

        assert leading.result(20).value == "first"
        assert other.result(20).waited_seconds < min(one.result(20).waited_seconds for one in following)
