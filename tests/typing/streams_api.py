"""Streams and transports as users write them. Checked by mypy, never run."""

from collections.abc import AsyncIterator, Iterator
from typing import Literal, assert_type

import anthropic
import httpx
import httpx2
import ollama
import openai

from sidecard_client import AsyncClient, AsyncStream, Client, Stream
from sidecard_client.http import AsyncSidecardTransport, SidecardTransport
from sidecard_client.testing import FakeClient, FakeStream


def words(prompt: str, *, count: int = 3) -> Iterator[str]:
    """Answer in pieces."""
    yield from [prompt] * count


def numbers(prompt: str) -> list[int]:
    """Return the pieces as a list."""
    return [len(prompt)]


async def awords(prompt: str) -> AsyncIterator[str]:
    """Answer in pieces, asynchronously."""
    yield prompt


async def opened(prompt: str) -> AsyncIterator[bytes]:
    """Return something to iterate over, as SDKs do."""

    async def pieces() -> AsyncIterator[bytes]:
        yield prompt.encode()

    return pieces()


def blocking(sidecard: Client) -> None:
    """Iterate, or close early."""
    assert_type(sidecard.stream(words, "why?", task="rag", ttl=60, wait=5, prefix="Be brief."), Stream[str])
    assert_type(sidecard.stream(numbers, "why?"), Stream[int])
    assert_type(sidecard.stream({"local": words, "cloud": words}, "why?", name="words"), Stream[str])
    with sidecard.stream(words, "why?", store=bool) as pieces:
        for piece in pieces:
            assert_type(piece, str)

        assert_type(pieces.source, Literal["upstream", "cache", "stale", "shared", "fallback"] | None)
        assert_type(pieces.age_seconds, float)

    @sidecard.cached(ttl=60)
    def answer(question: str) -> Iterator[str]:
        yield question

    assert_type(answer("why?"), Iterator[str])
    assert_type(FakeClient().stream(words, "why?"), FakeStream[str])


async def asynchronous(sidecard: AsyncClient) -> None:
    """The same with ``async``."""
    assert_type(sidecard.stream(awords, "why?"), AsyncStream[str])
    assert_type(sidecard.stream(words, "why?"), AsyncStream[str])
    assert_type(sidecard.stream(opened, "why?"), AsyncStream[bytes])
    async with sidecard.stream(awords, "why?") as pieces:
        async for piece in pieces:
            assert_type(piece, str)

    @sidecard.cached(ttl=60)
    async def answer(question: str) -> AsyncIterator[str]:
        yield question

    assert_type(answer("why?"), AsyncIterator[str])


def sdks(sidecard: Client) -> None:
    """Transports are accepted in place of the SDKs' own."""
    transport = SidecardTransport(
        httpx2.HTTPTransport(), sidecard, task="rag", keep={"rag": "deterministic"}, normalize=("nfc",)
    )
    openai.OpenAI(http_client=httpx2.Client(transport=transport))
    anthropic.Anthropic(http_client=httpx2.Client(transport=SidecardTransport()))
    ollama.Client(host="http://127.0.0.1:11434", transport=SidecardTransport(httpx.HTTPTransport(), sidecard))


def async_sdks(sidecard: AsyncClient) -> None:
    """As above."""
    transport = AsyncSidecardTransport(sidecard=sidecard, keep="never", ttl=60.0)
    openai.AsyncOpenAI(http_client=httpx2.AsyncClient(transport=transport))
