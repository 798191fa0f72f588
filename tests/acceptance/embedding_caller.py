"""A worker process that asks for the embeddings of many lists of texts, and counts the texts that it sends upstream."""

import json
import random
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
from msgspec import Struct

from sidecard_client import AsyncClient, Client
from sidecard_client.http import AsyncSidecardTransport, SidecardTransport
from tests.worker_process import PATIENCE_SECONDS, Ledger, follow

WORDS = [
    "river",
    "stone",
    "cloud",
    "paper",
    "green",
    "seven",
    "light",
    "table",
    "music",
    "winter",
    "horse",
    "bread",
    "copper",
    "window",
    "salt",
]


class EmbeddingPlan(Struct, frozen=True):
    """``lists`` of ``length`` texts, from ``texts`` by a power law; ``kind`` is ``function``, ``sync`` or ``async``."""

    socket: str
    url: str
    ledger: str
    kind: str
    lists: int
    length: int
    texts: int


class Embedded(Struct, frozen=True):
    """The texts that were asked for, and a digest of each one's vector."""

    vectors: dict[str, float]
    wrong: list[str]


def text_of(number: int) -> str:
    """Return a short text."""
    return f"{WORDS[number % 15]} {WORDS[number // 15 % 15]} {number // 225}".removesuffix(" 0")


def lists_of(plan: EmbeddingPlan, seed: int) -> list[list[str]]:
    """Draw the lists of one process."""
    draw = random.Random(seed)
    weights = [1 / rank for rank in range(1, plan.texts + 1)]
    numbers = draw.choices(range(plan.texts), weights, k=plan.lists * plan.length)
    texts = [text_of(number) for number in numbers]
    return [texts[start : start + plan.length] for start in range(0, len(texts), plan.length)]


class Counting(httpx2.BaseTransport, httpx2.AsyncBaseTransport):
    """Writes the texts of each upstream request into the ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._sync = httpx2.HTTPTransport()
        self._async = httpx2.AsyncHTTPTransport()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it."""
        self._count(request)
        return self._sync.handle_request(request)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send it."""
        self._count(request)
        return await self._async.handle_async_request(request)

    def _count(self, request: httpx2.Request) -> None:
        for text in json.loads(request.content)["input"]:
            self._ledger.write(text)


def embed(plan: EmbeddingPlan) -> Embedded:
    """Ask for all lists; a text's vector must be the same in each of them."""
    counting = Counting(Ledger(plan.ledger))
    lists = lists_of(plan, random.SystemRandom().randrange(2**32))
    embedded = Embedded({}, [])

    def check(texts: list[str], vectors: list[list[float]]) -> None:
        assert len(texts) == len(vectors)
        for text, vector in zip(texts, vectors, strict=True):
            if embedded.vectors.setdefault(text, sum(vector[:8])) != sum(vector[:8]):
                embedded.wrong.append(text)

    def body(texts: list[str]) -> bytes:
        return json.dumps({"model": "m", "input": texts, "encoding_format": "float"}).encode()

    url = f"{plan.url}/v1/embeddings"
    if plan.kind == "async":
        anyio.run(_embed_async, plan, lists, counting, body, check)
        return embedded

    with Client(plan.socket, daemon_timeout=PATIENCE_SECONDS) as sidecard:
        transport = counting if plan.kind == "function" else SidecardTransport(counting, sidecard)
        with httpx2.Client(transport=transport, timeout=60) as http:

            def post(texts: list[str]) -> list[list[float]]:
                return vectors_of(http.post(url, content=body(texts)))

            for texts in lists:
                check(texts, sidecard.call_each(post, texts, name="post") if plan.kind == "function" else post(texts))

    return embedded


async def _embed_async(
    plan: EmbeddingPlan,
    lists: list[list[str]],
    counting: Counting,
    body: Callable[..., bytes],
    check: Callable[..., None],
) -> None:
    async with AsyncClient(plan.socket, daemon_timeout=PATIENCE_SECONDS) as sidecard:
        transport = AsyncSidecardTransport(counting, sidecard=sidecard)
        async with httpx2.AsyncClient(transport=transport, timeout=60) as http:
            for start in range(0, len(lists), 8):
                async with anyio.create_task_group() as tasks:

                    async def ask(texts: list[str]) -> None:
                        response = await http.post(f"{plan.url}/v1/embeddings", content=body(texts))
                        check(texts, vectors_of(response))

                    for texts in lists[start : start + 8]:
                        tasks.start_soon(ask, texts)


def vectors_of(response: httpx2.Response) -> list[list[float]]:
    """Return the vectors of an answer, whose indices must be in order."""
    response.raise_for_status()
    data: list[dict[str, Any]] = response.json()["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    return [item["embedding"] for item in data]


if __name__ == "__main__":
    follow(EmbeddingPlan, embed)
