"""Answers to similar requests as users write them. Checked by mypy, never run."""

from typing import Any, assert_type

from sidecard_client import AsyncClient, Client, Outcome
from sidecard_client.testing import FakeClient


class Sentences:
    """An embedding library."""

    def encode(self, text: str) -> list[float]:
        """Embed."""
        return [float(len(text))]

    async def aencode(self, text: str) -> bytes:
        """Embed on another host."""
        return text.encode()


def generate(prompt: str) -> str:
    """Answer."""
    return prompt


def blocking(sentences: Sentences, numbers: Any) -> None:
    """``embed=`` is a function or a named one; ``vector=`` a vector or None."""
    with Client(embed=sentences.encode, task="faq") as sidecard:
        outcome = sidecard.outcome(generate, "why?")
        assert_type(outcome, Outcome[str])
        assert_type(outcome.similarity, float | None)
        sidecard.call(generate, "why?", embed={"all-MiniLM-L6-v2": sentences.encode})
        sidecard.call(generate, "why?", vector=[0.5, 0.5])
        sidecard.call(generate, "why?", vector=numbers)
        sidecard.call(generate, "why?", embed=None)
        assert_type(sidecard.stream(generate, "why?").similarity, float | None)

    FakeClient(similar_threshold=0.9, embed=sentences.encode).call(generate, "why?")


async def asynchronous(sentences: Sentences) -> None:
    """The embedder may be asynchronous."""
    async with AsyncClient(embed={"all-MiniLM-L6-v2": sentences.aencode}) as sidecard:
        assert_type(await sidecard.outcome(generate, "why?"), Outcome[str])
