"""The asynchronous client as users write it. Checked by mypy, never run."""

import asyncio
from typing import Any, Literal, assert_type

from sidecard_client import AsyncClient, Outcome
from sidecard_client.http import AsyncSidecardTransport
from sidecard_client.keys.explanation import Explanation
from sidecard_client.protocol import wire
from sidecard_client.protocol.wire import FailureKind


class Llm:
    """An SDK's client."""

    async def generate(self, prompt: str, *, temperature: float = 0.0) -> str:
        """Answer."""
        return f"{prompt}{temperature}"


async def small(prompt: str) -> str:
    """Answer cheaply."""
    return prompt


async def big(prompt: str) -> str:
    """Answer expensively."""
    return prompt


async def strict(prompt: str, words: int) -> str:
    """Answer at length."""
    return prompt * words


async def deep(prompt: str, *, depth: int = 3) -> str:
    """Answer expensively."""
    return f"{prompt}{depth}"


def blocking(prompt: str) -> list[int]:
    """Answer from a thread."""
    return [len(prompt)]


def classify(error: BaseException) -> FailureKind:
    """Classify an exception."""
    return "fatal" if isinstance(error, ValueError) else "transient"


async def calls(llm: Llm) -> None:
    """Values have the function's types; asynchronous functions are awaited by the client."""
    async with AsyncClient("/run/sidecard/sidecard.sock", daemon_timeout=0.2, classify=classify) as sidecard:
        assert_type(sidecard, AsyncClient)
        assert_type(await sidecard.call(llm.generate, "why?", temperature=0.2), str)
        assert_type(await sidecard.call(blocking, "why?"), list[int])
        assert_type(await sidecard.call({"local": small, "cloud": big}, "why?", task="rag", ttl=600, wait=30), str)
        assert_type(await sidecard.outcome(llm.generate, "why?"), Outcome[str])
        assert_type(await sidecard.outcome(blocking, "why?"), Outcome[list[int]])
        assert_type((await sidecard.outcome(small, "why?")).saved_dollars, float)


async def backends(sidecard: AsyncClient) -> None:
    """Functions of one dict may differ in signature: without a common return type mypy infers Any, not an error."""
    assert_type(await sidecard.call({"local": small, "cloud": deep}, "why?"), str)
    assert_type(await sidecard.call({"local": small, "cloud": strict}, "why?"), Any)
    assert_type(await sidecard.call(small, "why?", backend="cloud", route="fastest", retries=1), str)
    assert_type(await sidecard.call(small, "why?", backend="local", prefix="Be brief."), str)


async def wrappers(sidecard: AsyncClient, llm: Llm) -> None:
    """Decorated and wrapped things keep their parameters."""

    @sidecard.cached(task="rag", ttl=600)
    async def answer(question: str, *, loud: bool = False) -> str:
        return question.upper() if loud else question

    @sidecard.cached()
    def count(question: str) -> int:
        return len(question)

    assert_type(await answer("why?", loud=True), str)
    assert_type(await count("why?"), int)
    await answer(5)  # type: ignore[arg-type]  # a wrong argument is found
    assert_type(asyncio.run(count("why?")), int)  # which takes a coroutine, and no other awaitable
    assert_type(sidecard.wrap(llm, task="general"), Llm)
    assert_type(await sidecard.wrap(llm).generate("why?"), str)


async def the_rest(sidecard: AsyncClient) -> None:
    """Entries, and replies about the daemon's state."""
    assert_type(await sidecard.put("k", {"a": [1, 2]}, ttl=5, tags=["t"], namespace="n"), bool)
    assert_type(await sidecard.delete("k"), int)
    assert_type(await sidecard.purge(tag="t", task="rag"), int)
    assert_type(await AsyncClient(normalize="task").explain(str, 1), Explanation)
    assert_type(await sidecard.normal_forms("rag"), tuple[Literal["nfc", "space", "case"], ...])
    assert_type(await sidecard.report(), wire.Report)
    assert_type(await sidecard.stats(), wire.Stats)
    assert_type(await sidecard.health(), wire.Health)
    assert_type(await sidecard.ping(), wire.Pong)
    assert_type(await sidecard.breakers(), wire.Breakers)
    assert_type(await sidecard.config(), wire.Settings)
    await sidecard.breaker("cloud", "auto")
    assert_type(AsyncClient(sovereign=True).sovereign, bool)
    await sidecard.aclose()
    AsyncSidecardTransport()
    AsyncSidecardTransport(None, sidecard, ttl=60)
