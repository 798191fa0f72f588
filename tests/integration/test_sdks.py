"""Real SDKs with the transports as their ``http_client``: answers are shared and replayed, and never truncated."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anthropic
import anyio
import httpx
import httpx2
import ollama
import openai
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import AsyncSidecardTransport, SidecardTransport
from tests.daemons import Daemon, ask, poll, until
from tests.llm_servers import Cut, RealModel, Refusal, ScriptedModel, real_model

pytestmark = pytest.mark.usefixtures("patient_clients")

HELLO: Any = [{"role": "user", "content": "hello"}]
SECONDS = 20.0

ON_ASYNCIO = pytest.mark.parametrize("anyio_backend", ["asyncio"])
"""OpenAI's SDK leaves generators unfinished, which trio reports. The transport itself is tested on both backends."""


@pytest.fixture
def running(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon whose breakers open after few failures."""
    return daemon()


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    """A model without calls."""
    with ScriptedModel() as model:
        yield model


@pytest.fixture
def client(running: Daemon) -> Iterator[Client]:
    """A client of the daemon."""
    with Client(running.socket) as client:
        yield client


@contextmanager
def openai_of(
    model: ScriptedModel | RealModel, client: Client, key: str = "sk-one", **policy: Any
) -> Iterator[openai.OpenAI]:
    """Make an OpenAI client as an app would."""
    retries = policy.pop("max_retries", 0)
    transport = SidecardTransport(httpx2.HTTPTransport(), client, **policy)
    with httpx2.Client(transport=transport, timeout=60) as http_client:
        yield openai.OpenAI(base_url=f"{model.url}/v1", api_key=key, http_client=http_client, max_retries=retries)


def chat(llm: openai.OpenAI, text: str = "hello", **fields: Any) -> Any:
    """Make a chat call without streaming."""
    return llm.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], **fields)


def stream(llm: openai.OpenAI, text: str = "hello", **fields: Any) -> list[Any]:
    """Make a chat call with streaming and read all of it."""
    chunks = llm.chat.completions.create(model="m", messages=[{"role": "user", "content": text}], stream=True, **fields)
    return [chunk.model_dump() for chunk in chunks]


def source(llm: openai.OpenAI, headers: dict[str, str] | None = None, text: str = "hello", **fields: Any) -> str:
    """Make a chat call and return the source of its answer."""
    raw = llm.chat.completions.with_raw_response.create(
        model="m", messages=[{"role": "user", "content": text}], extra_headers=headers, **fields
    )
    raw.parse()
    return str(raw.headers["x-sidecard-source"])


# Each API, twice -----------------------------------------------------------------------------------------------------


def test_openai_is_called_once(model: ScriptedModel, client: Client) -> None:
    """Chat, completions, responses and embeddings are replayed equal in every field, with and without streaming."""
    with openai_of(model, client) as llm:
        questions: list[Callable[[], Any]] = [
            lambda: chat(llm).model_dump(),
            lambda: stream(llm),
            lambda: stream(llm, stream_options={"include_usage": True}),
            lambda: llm.completions.create(model="m", prompt="hello").model_dump(),
            lambda: [one.model_dump() for one in llm.completions.create(model="m", prompt="hello", stream=True)],
            lambda: llm.responses.create(model="m", input="hello").model_dump(),
            lambda: [one.model_dump() for one in llm.responses.create(model="m", input="hello", stream=True)],
            lambda: llm.embeddings.create(model="m", input="hello").model_dump(),
            lambda: llm.embeddings.create(model="m", input=["a", "b"], encoding_format="float").model_dump(),
        ]
        for number, question in enumerate(questions, 1):
            first = question()
            assert model.count == number
            assert question() == first
            assert model.count == number

        assert "answer 1 to hello" in chat(llm).choices[0].message.content
        assert chat(llm)._request_id == "id-1"


def test_anthropic_is_called_once(model: ScriptedModel, client: Client) -> None:
    """Messages are replayed, with and without streaming, and through the stream helper."""
    transport = SidecardTransport(httpx2.HTTPTransport(), client)
    with httpx2.Client(transport=transport) as http_client:
        llm = anthropic.Anthropic(base_url=model.url, api_key="k", http_client=http_client, max_retries=0)

        def whole() -> Any:
            return llm.messages.create(model="m", max_tokens=9, messages=HELLO).model_dump()

        def events() -> Any:
            made = llm.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True)
            return [event.model_dump() for event in made]

        def text() -> str:
            with llm.messages.stream(model="m", max_tokens=8, messages=HELLO) as made:
                return "".join(made.text_stream)

        for number, question in enumerate((whole, events, text), 1):
            assert question() == question()
            assert model.count == number

        assert text() == "answer 3 to hello word0 word1"


def test_ollama_is_called_once(model: ScriptedModel, client: Client) -> None:
    """Chat, generate and embed are replayed, through httpx."""
    llm = ollama.Client(host=model.url, transport=SidecardTransport(httpx.HTTPTransport(), client))
    questions: list[Callable[[], Any]] = [
        lambda: llm.chat("m", HELLO).model_dump(),
        lambda: [one.model_dump() for one in llm.chat("m", HELLO, stream=True)],
        lambda: llm.generate("m", "hello").model_dump(),
        lambda: [one.model_dump() for one in llm.generate("m", "hello", stream=True)],
        lambda: llm.embed("m", "hello").model_dump(),
    ]
    for number, question in enumerate(questions, 1):
        assert question() == question()
        assert model.count == number

    llm._client.close()


@pytest.mark.anyio
@ON_ASYNCIO
async def test_async_sdks_are_called_once(model: ScriptedModel, running: Daemon) -> None:
    """OpenAI and Anthropic through httpx2, and Ollama through httpx, share one connection to the daemon."""
    async with AsyncClient(running.socket) as sidecard:
        transport = AsyncSidecardTransport(httpx2.AsyncHTTPTransport(), sidecard=sidecard)
        async with httpx2.AsyncClient(transport=transport) as http_client:
            llm = openai.AsyncOpenAI(base_url=f"{model.url}/v1", api_key="k", http_client=http_client, max_retries=0)
            claude = anthropic.AsyncAnthropic(base_url=model.url, api_key="k", http_client=http_client, max_retries=0)
            llama = ollama.AsyncClient(
                host=model.url, transport=AsyncSidecardTransport(httpx.AsyncHTTPTransport(), sidecard=sidecard)
            )

            async def whole() -> Any:
                return (await llm.chat.completions.create(model="m", messages=HELLO)).model_dump()

            async def streamed() -> Any:
                made = await llm.chat.completions.create(model="m", messages=HELLO, stream=True)
                return [chunk.model_dump() async for chunk in made]

            async def embedded() -> Any:
                return (await llm.embeddings.create(model="m", input="x")).model_dump()

            async def messages() -> Any:
                made = await claude.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True)
                return [event.model_dump() async for event in made]

            async def chatted() -> Any:
                return [one.model_dump() async for one in await llama.chat("m", HELLO, stream=True)]

            for number, question in enumerate((whole, streamed, embedded, messages, chatted), 1):
                assert await question() == await question()
                assert model.count == number

            await llama._client.aclose()


def test_both_clients_and_both_libraries_share_one_answer(
    model: ScriptedModel, running: Daemon, client: Client
) -> None:
    """Equal requests of the sync and the async client share an answer."""

    async def ask_async() -> Any:
        async with AsyncClient(running.socket) as sidecard:
            transport = AsyncSidecardTransport(httpx2.AsyncHTTPTransport(), sidecard=sidecard)
            async with httpx2.AsyncClient(transport=transport) as http_client:
                llm = openai.AsyncOpenAI(base_url=f"{model.url}/v1", api_key="sk-one", http_client=http_client)
                return (await llm.chat.completions.create(model="m", messages=HELLO)).model_dump()

    with openai_of(model, client) as llm:
        assert chat(llm).model_dump() == anyio.run(ask_async)

    assert model.count == 1


@pytest.mark.anyio
async def test_the_async_transport_streams_on_asyncio_and_trio(model: ScriptedModel, running: Daemon) -> None:
    """A replayed stream has the same bytes, status and headers."""
    body = {"model": "m", "messages": HELLO, "stream": True}
    got: list[tuple[int, str, bytes]] = []
    async with AsyncClient(running.socket) as sidecard:
        transport = AsyncSidecardTransport(httpx2.AsyncHTTPTransport(), sidecard=sidecard)
        async with httpx2.AsyncClient(transport=transport) as http_client:
            for _ in range(2):
                async with http_client.stream("POST", f"{model.url}/v1/chat/completions", json=body) as response:
                    pieces = [piece async for piece in response.aiter_raw()]
                    got.append((response.status_code, response.headers["content-type"], b"".join(pieces)))
                    assert response.headers["x-request-id"] == "id-1"

    assert got[0] == got[1]
    assert model.count == 1


# What is part of the key ----------------------------------------------------------------------------------------------


def test_requests_with_different_answers_are_not_shared(model: ScriptedModel, client: Client) -> None:
    """Prompt, parameters, model, account and streaming belong to the key; the user and the field order do not."""
    with openai_of(model, client) as llm, openai_of(model, client, "sk-two") as other:
        chat(llm)
        for question in (
            lambda: chat(llm, "other"),
            lambda: chat(llm, temperature=0.5),
            lambda: chat(other),
            lambda: stream(llm),
            lambda: llm.chat.completions.create(model="m2", messages=HELLO),
            lambda: chat(llm, extra_headers={"openai-beta": "x"}),
        ):
            before = model.count
            question()
            assert model.count == before + 1

        before = model.count
        chat(llm, user="someone", extra_headers={"x-request-id": "7", "user-agent": "me"})
        assert model.count == before

    with openai_of(model, client, "sk-a", share_credentials=True) as one:
        chat(one, "shared")

    with openai_of(model, client, "sk-b", share_credentials=True) as two:
        assert source(two, text="shared") == "cache"


def test_requests_of_other_paths_pass_through(model: ScriptedModel, client: Client, running: Daemon) -> None:
    """The list of models is not shared."""
    with openai_of(model, client) as llm:
        assert [one.id for one in llm.models.list()] == ["m"]

    assert ask(running.socket, {"op": "stats"})["begins"] == 0


# Headers of an app ------------------------------------------------------------------------------------------------------


def test_headers_control_a_call_and_report_its_source(model: ScriptedModel, client: Client, running: Daemon) -> None:
    """Request headers apply to one call, and none of them reaches the backend."""
    with openai_of(model, client) as llm:
        assert source(llm) == "upstream"
        assert source(llm) == "cache"
        assert source(llm, {"x-sidecard-cache": "refresh"}) == "upstream"
        assert source(llm, {"x-sidecard-cache": "off"}) == "upstream"
        assert source(llm, {"x-sidecard-cache": "only"}) == "cache"
        with pytest.raises(openai.APIStatusError) as refused:
            source(llm, {"x-sidecard-cache": "only"}, "never asked")

        assert refused.value.status_code == 504
        assert source(llm, {"x-sidecard-task": "rag", "x-sidecard-ttl": "0"}) == "upstream"
        raw = llm.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        assert float(raw.headers["x-sidecard-age"]) >= 0
        assert raw.headers["x-sidecard-backend"].startswith(f"{model.url.removeprefix('http://')}/m#")

    assert not [name for one in model.asked for name in one.headers if name.startswith("x-sidecard")]
    tasks = ask(running.socket, {"op": "report"})["tasks"]
    assert "rag" in tasks  # type: ignore[operator]  # a map


@pytest.mark.parametrize(
    ("keep", "temperature", "expected"),
    [
        ("always", 1, ["upstream", "cache"]),
        ("deterministic", 1, ["upstream", "upstream"]),
        ("deterministic", 0, ["upstream", "cache"]),
        ("never", 0, ["upstream", "upstream"]),
        ({"general": "never"}, 0, ["upstream", "upstream"]),
        ({"rag": "never"}, 0, ["upstream", "cache"]),
    ],
)
def test_keep_selects_the_answers_that_are_stored(
    model: ScriptedModel, client: Client, keep: Any, temperature: int, expected: list[str]
) -> None:
    """``keep=`` applies to all tasks, or by task."""
    with openai_of(model, client, keep=keep) as llm:
        assert [source(llm, temperature=temperature) for _ in expected] == expected


def test_truncated_answers_are_not_stored_by_default(model: ScriptedModel, client: Client) -> None:
    """Answers cut at their maximum length are stored with ``keep_length`` only."""
    model.finish = "length"
    with openai_of(model, client) as llm:
        assert [source(llm), source(llm)] == ["upstream", "upstream"]
        assert stream(llm) != stream(llm)

    with openai_of(model, client, keep_length=True) as llm:
        assert [source(llm, text="kept"), source(llm, text="kept")] == ["upstream", "cache"]


@pytest.mark.parametrize("pieces", [0, 2, 4])
@pytest.mark.parametrize("cleanly", [True, False])
def test_a_broken_stream_is_not_stored(model: ScriptedModel, client: Client, pieces: int, cleanly: bool) -> None:
    """A stream that is reset, or ends in ``[DONE]`` without a finish reason, is fetched again."""
    model.next = [Cut(pieces, cleanly=cleanly)]
    with openai_of(model, client) as llm:
        if cleanly:
            assert len(stream(llm)) == 1 + pieces
        else:
            with pytest.raises((openai.APIConnectionError, httpx2.ReadError, httpx2.RemoteProtocolError)):
                stream(llm)

        assert model.count == 1
        whole = stream(llm)
        assert model.count == 2
        assert whole[-1]["choices"][0]["finish_reason"] == "stop"
        assert stream(llm) == whole
        assert model.count == 2


# Failures ---------------------------------------------------------------------------------------------------------------


def test_a_failure_reaches_its_caller_unchanged(model: ScriptedModel, client: Client) -> None:
    """The SDK raises the same exception as without sidecard."""
    model.next = [Refusal(400, type="invalid_request_error"), Refusal(429, {"retry-after": "1"}), Refusal(500)]
    with openai_of(model, client) as llm:
        with pytest.raises(openai.BadRequestError, match="scripted") as bad:
            chat(llm, "a")

        assert bad.value.code == "invalid_request_error"
        with pytest.raises(openai.RateLimitError) as limited:
            chat(llm, "b")

        assert limited.value.response.headers["retry-after"] == "1"

    with openai_of(model, client, "sk-other") as llm, pytest.raises(openai.InternalServerError):
        stream(llm, "c")


def test_an_sdks_own_retry_gets_a_complete_answer(model: ScriptedModel, client: Client) -> None:
    """A retry is a call of its own, and its answer is stored."""
    model.next = [Refusal(500)]
    with openai_of(model, client, max_retries=2) as llm:
        assert "answer 2 to hello" in chat(llm).choices[0].message.content
        assert source(llm) == "cache"

    assert model.count == 2


def test_each_backend_has_its_own_breaker(model: ScriptedModel, daemon: Callable[..., Daemon]) -> None:
    """An open breaker of one account does not affect another account."""
    running = daemon(SIDECARD_BACKENDS="{}")
    with Client(running.socket) as client, openai_of(model, client) as llm:
        model.next = [Refusal(500) for _ in range(10)]
        for number in range(10):
            with pytest.raises(openai.InternalServerError):
                chat(llm, str(number))

        with pytest.raises(openai.InternalServerError) as refused:
            chat(llm, "more")

        assert refused.value.status_code == 503
        assert refused.value.response.headers["x-sidecard-source"] == "rejected"
        assert model.count == 10
        with openai_of(model, client, "sk-other") as other:
            assert source(other) == "upstream"


def test_without_a_daemon_calls_are_made(model: ScriptedModel, client: Client, running: Daemon) -> None:
    """Their source is ``fallback``."""
    with openai_of(model, client) as llm:
        running.kill()
        assert source(llm) == "fallback"
        assert len(stream(llm)) == 6


# Shared in flight -------------------------------------------------------------------------------------------------------


class StreamThread:
    """Reads a stream of an SDK in a thread."""

    def __init__(self, llm: openai.OpenAI, stop_after: int = 99) -> None:
        self.texts: list[str] = []
        self.error: Exception | None = None
        self._llm = llm
        self._stop_after = stop_after
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            with self._llm.chat.completions.create(model="m", messages=HELLO, stream=True) as chunks:
                for chunk in chunks:
                    self.texts.append(chunk.choices[0].delta.content or "")
                    if len(self.texts) == self._stop_after:
                        break
        except Exception as error:  # noqa: BLE001 - the test inspects it
            self.error = error

    def has(self, count: int) -> None:
        """Wait until so many chunks were read."""
        poll(lambda: len(self.texts) >= count or self.error is not None, f"{count} chunks did not arrive: {self.texts}")

    def ends(self) -> str:
        """Wait for the end and return the text."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

        return "".join(self.texts)


def waits(running: Daemon, count: int) -> None:
    """Wait until so many callers wait for an answer."""
    poll(lambda: ask(running.socket, {"op": "stats"})["waiters"] == count, f"no {count} callers wait")


def test_a_stream_in_flight_is_shared_piece_by_piece(model: ScriptedModel, client: Client, running: Daemon) -> None:
    """A follower receives each piece while the holder's stream is running."""
    model.permits = threading.Semaphore(0)
    with openai_of(model, client) as llm, openai_of(model, client) as other:
        holder = StreamThread(llm)
        poll(lambda: model.count == 1, "the model was not called")
        follower = StreamThread(other)
        waits(running, 1)
        model.lets(2)
        holder.has(3)
        follower.has(3)
        assert holder.texts == follower.texts
        model.lets(2)
        assert holder.ends() == follower.ends() == "answer 1 to hello word0 word1"

    assert model.count == 1


def test_a_holder_that_closes_early_finishes_for_its_follower(
    model: ScriptedModel, client: Client, running: Daemon
) -> None:
    """The holder's process reads the stream to its end in the background."""
    model.permits = threading.Semaphore(0)
    with openai_of(model, client) as llm, openai_of(model, client) as other:
        holder = StreamThread(llm, stop_after=2)
        poll(lambda: model.count == 1, "the model was not called")
        follower = StreamThread(other)
        waits(running, 1)
        model.lets(1)
        follower.has(2)
        assert holder.ends() == "answer 1 "
        model.lets(3)
        assert follower.ends() == "answer 1 to hello word0 word1"

    assert model.count == 1


def test_waiters_of_a_fatal_failure_get_its_response(model: ScriptedModel, client: Client, running: Daemon) -> None:
    """Status and body of a 400 reach all callers of the request."""
    seen: list[openai.BadRequestError] = []
    model.next = [Refusal(400, message="no such thing"), Refusal(400, message="no such thing")]
    block = threading.Event()

    class Slow(httpx2.HTTPTransport):
        """Returns the answer when ``block`` is set."""

        def handle_request(self, request: httpx2.Request) -> httpx2.Response:
            """Return the answer late."""
            response = super().handle_request(request)
            assert block.wait(SECONDS)
            return response

    def read(llm: openai.OpenAI) -> None:
        try:
            chat(llm)
        except openai.BadRequestError as error:
            seen.append(error)

    with httpx2.Client(transport=SidecardTransport(Slow(), client)) as http_client:
        llm = openai.OpenAI(base_url=f"{model.url}/v1", api_key="k", http_client=http_client, max_retries=0)
        threads = [threading.Thread(target=read, args=(llm,)) for _ in range(3)]
        for thread in threads:
            thread.start()

        waits(running, 2)
        block.set()
        for thread in threads:
            thread.join(SECONDS)

    assert model.count == 1
    assert [str(error.body["message"]) for error in seen] == ["no such thing"] * 3  # type: ignore[index]  # as sent
    assert sorted(error.response.headers["x-sidecard-source"] for error in seen) == ["shared", "shared", "upstream"]


@pytest.mark.anyio
@ON_ASYNCIO
async def test_a_canceled_request_with_waiters_continues(model: ScriptedModel, running: Daemon) -> None:
    """A waiter gets the complete answer although the holder was canceled."""
    model.permits = threading.Semaphore(0)
    texts: list[str] = []
    async with AsyncClient(running.socket) as sidecard:
        transport = AsyncSidecardTransport(httpx2.AsyncHTTPTransport(), sidecard=sidecard)
        async with httpx2.AsyncClient(transport=transport) as http_client:
            llm = openai.AsyncOpenAI(base_url=f"{model.url}/v1", api_key="k", http_client=http_client, max_retries=0)

            async def read() -> None:
                async for chunk in await llm.chat.completions.create(model="m", messages=HELLO, stream=True):
                    texts.append(chunk.choices[0].delta.content or "")  # noqa: PERF401 - read while it grows

            async with anyio.create_task_group() as tasks:
                async with anyio.create_task_group() as holder:
                    holder.start_soon(read)
                    await until(lambda: model.count == 1)
                    tasks.start_soon(read)
                    await until(lambda: ask(running.socket, {"op": "stats"})["waiters"] == 1)
                    holder.cancel_scope.cancel()

                texts.clear()
                model.lets(4)

    assert "".join(texts).endswith("answer 1 to hello word0 word1")
    assert model.count == 1


# A real model -----------------------------------------------------------------------------------------------------------


@pytest.mark.model
def test_a_real_models_answers_are_shared(running: Daemon, client: Client) -> None:
    """Answers of llama.cpp's server are replayed through the unchanged SDK."""
    question: Any = {"model": "m", "messages": HELLO, "max_tokens": 12, "temperature": 0, "seed": 1}
    with real_model() as model, openai_of(model, client, keep_length=True) as llm:
        first = llm.chat.completions.create(**question)
        second = llm.chat.completions.create(**question)
        assert first.choices[0].message.content
        assert second.model_dump() == first.model_dump()
        assert model.count == 1
        made = [chunk.model_dump() for chunk in llm.chat.completions.create(**question, stream=True)]
        replayed = [chunk.model_dump() for chunk in llm.chat.completions.create(**question, stream=True)]
        assert replayed == made
        assert model.count == 2
        assert len(made) > 5

        async def ask_async() -> list[Any]:
            async with AsyncClient(running.socket) as sidecard:
                transport = AsyncSidecardTransport(httpx2.AsyncHTTPTransport(), sidecard=sidecard)
                async with httpx2.AsyncClient(transport=transport) as http_client:
                    llm = openai.AsyncOpenAI(base_url=f"{model.url}/v1", api_key="sk-one", http_client=http_client)
                    chunks = await llm.chat.completions.create(**question, stream=True)
                    return [chunk.model_dump() async for chunk in chunks]

        # ``keep_length`` is not part of the key.
        assert anyio.run(ask_async) == made
        assert model.count == 2


@pytest.mark.model
def test_a_real_models_embeddings_are_shared(client: Client) -> None:
    """Embeddings are replayed, as lists and as base64."""
    with real_model(embedding=True) as model, openai_of(model, client) as llm:
        first = llm.embeddings.create(model="m", input="hello").model_dump()
        assert llm.embeddings.create(model="m", input="hello").model_dump() == first
        assert len(first["data"][0]["embedding"]) > 100
        assert model.count == 1
