"""Similar requests through the transports: the last user message may be worded otherwise, and nothing else may differ."""

from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import AsyncSidecardTransport, SidecardTransport
from tests.daemons import Daemon
from tests.llm_servers import ScriptedModel

pytestmark = pytest.mark.usefixtures("patient_clients")

EMBED = {"constant": lambda _: [1.0, 0.0]}
"""All texts are near each other: what keeps them apart is the guard, and the rest of the request."""

FRANCE = "What is the capital of France?"
POLITE = "Please tell me what the capital of France is."
SPAIN = "What is the capital of Spain?"


@pytest.fixture
def running(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon that serves similar requests."""
    return daemon("--set", "tasks.faq.similar=true")


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    """A model without calls."""
    with ScriptedModel() as model:
        yield model


def headers_of(response: Any) -> tuple[str, str | None]:
    """Return source and similarity of a response."""
    return response.headers["x-sidecard-source"], response.headers.get("x-sidecard-similarity")


def chat(text: str, *, stream: bool = False, **fields: Any) -> dict[str, Any]:
    """Return a chat request's body."""
    return {"model": "m", "messages": [{"role": "user", "content": text}], "stream": stream} | fields


def posting(http: httpx2.Client, model: ScriptedModel) -> Callable[[dict[str, Any]], tuple[str, str | None]]:
    """Return a function that posts a body to the chat endpoint, and returns source and similarity."""

    def post(body: dict[str, Any]) -> tuple[str, str | None]:
        return headers_of(http.post(f"{model.url}/v1/chat/completions", json=body))

    return post


@pytest.mark.parametrize("stream", [False, True])
def test_last_message_may_be_worded_otherwise(model: ScriptedModel, running: Daemon, stream: bool) -> None:
    """The response names the similarity; another meaning, another earlier message or another field is another call."""
    system = {"role": "system", "content": "Be brief."}
    with (
        Client(running.socket, task="faq") as sidecard,
        httpx2.Client(transport=SidecardTransport(sidecard=sidecard, task="faq", embed=EMBED)) as http,
    ):
        post = posting(http, model)
        assert post(chat(FRANCE, stream=stream)) == ("upstream", None)
        assert post(chat(POLITE, stream=stream)) == ("cache", "1.0000")
        assert post(chat(FRANCE, stream=stream)) == ("cache", None)
        assert model.count == 1
        assert post(chat(SPAIN, stream=stream)) == ("upstream", None)
        assert post(chat(POLITE, stream=not stream)) == ("upstream", None)
        assert post(chat(POLITE, stream=stream, temperature=0.5)) == ("upstream", None)
        messages = [system, {"role": "user", "content": POLITE}]
        assert post(chat("", stream=stream, messages=messages)) == ("upstream", None)
        assert sidecard.report().tasks["faq"].similar_hits == 1
        assert sidecard.stats().similar_refused == {"subject": 1}


def test_request_that_does_not_end_in_a_user_text_has_no_similar_one(model: ScriptedModel, running: Daemon) -> None:
    """After a tool's result, the last message is not the user's question; a transport without ``embed=`` has none at all."""
    with Client(running.socket, task="faq", embed=EMBED) as sidecard:
        with httpx2.Client(transport=SidecardTransport(sidecard=sidecard, task="faq", embed=EMBED)) as http:
            post = posting(http, model)
            for text in (FRANCE, POLITE):
                tool = {"role": "tool", "tool_call_id": "1", "content": text}
                assert post(chat("", messages=[tool])) == ("upstream", None)

        with httpx2.Client(transport=SidecardTransport(sidecard=sidecard, task="faq")) as http:
            assert [posting(http, model)(chat(text)) for text in (FRANCE, POLITE)] == [("upstream", None)] * 2

        assert sidecard.stats().vectors_wanted == 2


def test_sdks_get_similar_answers(model: ScriptedModel, running: Daemon) -> None:
    """OpenAI's and Anthropic's SDKs, with texts as strings, as parts, and as the input of a response."""
    with (
        Client(running.socket) as sidecard,
        httpx2.Client(transport=SidecardTransport(sidecard=sidecard, task="faq", embed=EMBED)) as http,
    ):
        llm = openai.OpenAI(base_url=f"{model.url}/v1", api_key="k", http_client=http)
        claude = anthropic.Anthropic(base_url=model.url, api_key="k", http_client=http)

        def parts(text: str) -> Any:
            return [{"role": "user", "content": [{"type": "text", "text": "Context."}, {"type": "text", "text": text}]}]

        asking: list[Callable[[str], Any]] = [
            lambda text: llm.chat.completions.create(model="m", messages=parts(text)).model_dump(),
            lambda text: llm.completions.create(model="m", prompt=text).model_dump(),
            lambda text: llm.responses.create(model="m", input=text).model_dump(),
            lambda text: claude.messages.create(model="m", max_tokens=9, messages=parts(text)).model_dump(),
        ]
        for number, ask in enumerate(asking, 1):
            assert ask(FRANCE) == ask(POLITE)
            assert model.count == number

        first, second = (llm.embeddings.create(model="m", input=text).usage for text in (FRANCE, POLITE))
        assert (first, model.count) == (second, len(asking) + 2)


@pytest.mark.anyio
async def test_async_transport_does_the_same(model: ScriptedModel, running: Daemon) -> None:
    """With an asynchronous embedder too."""

    async def embed(_: str) -> list[float]:
        return [1.0, 0.0]

    async with AsyncClient(running.socket) as sidecard:
        transport = AsyncSidecardTransport(sidecard=sidecard, task="faq", embed={"constant": embed})
        async with httpx2.AsyncClient(transport=transport) as http:
            seen = [
                headers_of(await http.post(f"{model.url}/v1/chat/completions", json=chat(text)))
                for text in (FRANCE, POLITE, SPAIN)
            ]

    assert seen == [("upstream", None), ("cache", "1.0000"), ("upstream", None)]
