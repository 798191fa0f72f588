"""The API as users write it. Checked by mypy, never run."""

from typing import Any, Literal, assert_type

from sidecard_client import AsyncClient, CallFailed, CallRejected, Client, Outcome, Usage, share
from sidecard_client.keys.explanation import Difference
from sidecard_client.protocol import wire
from sidecard_client.testing import FakeClient


class Llm:
    """An SDK's client."""

    model: str

    def generate(self, prompt: str, temperature: float = 0) -> str:
        """Answer."""
        return f"{prompt}{temperature}"

    async def agenerate(self, prompt: str) -> str:
        """Answer, asynchronously."""
        return prompt

    def embed_all(self, texts: list[str]) -> list[list[float]]:
        """Embed."""
        return [[float(len(text))] for text in texts]

    async def aembed_all(self, texts: list[str]) -> list[list[float]]:
        """Embed, asynchronously."""
        return self.embed_all(texts)

    def count(self, texts: list[str]) -> int:
        """Count."""
        return len(texts)

    def embed(self, text: str) -> list[float]:
        """Embed."""
        return [float(len(text))]


class Other:
    """Another SDK's client, unrelated to the first."""

    def complete(self, text: str, *, depth: int = 3, stop: str = "") -> str:
        """Answer."""
        return f"{text}{depth}{stop}"


def small(prompt: str) -> str:
    """Answer cheaply."""
    return prompt


def mild(prompt: str, *, temperature: float = 0) -> str:
    """Answer well."""
    return f"{prompt}{temperature}"


def big(prompt: str, *, depth: int = 3) -> str:
    """Answer expensively."""
    return f"{prompt}{depth}"


def strict(prompt: str, words: int) -> str:
    """Answer at length."""
    return prompt * words


def cost(value: Any) -> Usage:
    """Return what a call used."""
    return Usage(prompt_tokens=len(value))


def kind(error: BaseException) -> Literal["transient", "fatal"]:
    """Judge a failure."""
    return "fatal" if isinstance(error, ValueError) else "transient"


def blot(prompt: Any, answer: Any) -> tuple[Any, Any]:
    """Redact the prompt."""
    return "[redacted]", answer


def blocking(llm: Llm) -> None:
    """Use the blocking client."""
    with Client() as sidecard:
        assert_type(sidecard, Client)
        assert_type(sidecard.call(llm.generate, "why?"), str)
        assert_type(
            sidecard.call(llm.embed, "why?", task="rag", ttl=600, wait=30, usage=cost, classify=kind, redact=blot),
            list[float],
        )
        assert_type(sidecard.call({"local": llm.generate, "cloud": llm.generate}, "why?", name="generate"), str)

        outcome = sidecard.outcome(llm.generate, "why?")
        assert_type(outcome, Outcome[str])
        assert_type(outcome.value, str)
        newer: Outcome[str] = outcome.refresh()
        assert_type(newer.value, str)
        assert_type(sidecard.call(llm.generate, "why?", max_age=5, sample=2, valid=str.isalpha), str)
        assert_type(outcome.age_seconds, float)
        assert_type(outcome.source, Literal["upstream", "cache", "stale", "shared", "fallback"])

        shared = sidecard.wrap(llm, task="general")
        assert_type(shared, Llm)
        assert_type(shared.generate("why?", temperature=1), str)
        assert_type(share(llm, sidecard=sidecard, task="rag", ttl=60), Llm)

        assert_type(sidecard.put("k", {"a": 1}, ttl=5, tags=["t"]), bool)
        assert_type(sidecard.delete("k") + sidecard.purge(tag="t", task="rag"), int)
        assert_type(sidecard.call(llm.generate, "why?", normalize=("nfc", "space"), deterministic=True), str)
        explanation = Client(normalize=["nfc"]).explain(llm.generate, "why?")
        assert_type(explanation.key, str | None)
        assert_type(explanation.differences(Client(normalize="task").explain(llm.generate, "why")), list[Difference])
        assert_type(sidecard.normal_forms("rag"), tuple[Literal["nfc", "space", "case"], ...])
        assert_type(sidecard.report().total.hit_rate, float)
        assert_type(sidecard.stats().hits, int)
        assert_type(sidecard.health().reasons, list[str])
        assert_type(sidecard.ping().boot_id, str)

        @sidecard.cached(task="rag", ttl=600)
        def answer(question: str, *, words: int = 10) -> str:
            return question * words

        assert_type(answer("why?", words=3), str)
        answer(3)  # type: ignore[arg-type]  # the decorated function's own types are kept

        try:
            sidecard.call(llm.generate, "why?")
        except CallFailed as error:
            assert_type(error.kind, Literal["transient", "fatal", "ignored", "cancelled"])
        except CallRejected as rejection:
            assert_type(rejection.retry_after_seconds, float | None)
            assert_type(rejection.backends, dict[str, str])


def backends(sidecard: Client, llm: Llm, other: Other) -> None:
    """Functions of one dict may differ in signature: without a common return type mypy infers Any, not an error."""
    assert_type(sidecard.call({"local": small, "cloud": big}, "why?"), str)
    assert_type(sidecard.call({"local": mild, "cloud": big}, "why?"), str)
    assert_type(sidecard.call({"local": llm.generate, "cloud": big}, "why?"), str)
    assert_type(sidecard.outcome({"local": small, "cloud": big}, "why?"), Outcome[str])
    assert_type(sidecard.call({"local": llm.generate, "cloud": other.complete}, "why?"), Any)
    assert_type(sidecard.call({"local": small, "cloud": strict, "near": llm.embed}, "why?"), Any)
    sidecard.call({"local": 3}, "why?")  # type: ignore[dict-item]  # a wrong one is found

    assert_type(sidecard.call(small, "why?", backend="cloud", route="cheapest", retries=2), str)
    assert_type(sidecard.call(small, "why?", backend="local", prefix="Be brief."), str)
    assert_type(sidecard.call(small, "why?", prefix=["Be brief.", b"x"]), str)
    outcome = sidecard.outcome(small, "why?")
    assert_type((outcome.passed_over, outcome.attempts), tuple[dict[str, str], int])
    assert_type(sidecard.breakers(), wire.Breakers)
    assert_type(sidecard.config(), wire.Settings)
    sidecard.breaker("cloud", "open")
    sidecard.breaker("cloud", "shut")  # type: ignore[arg-type]  # there is no such action
    assert_type(Client(sovereign=True).sovereign, bool)


class Bot:
    """Methods are cached too."""

    sidecard = Client(namespace="bots", daemon_timeout=0.2, on_unavailable="raise")

    @sidecard.cached(ttl=60)
    def ask(self, question: str) -> str:
        """Ask."""
        return question


assert_type(Bot().ask("why?"), str)


def each(sidecard: Client, llm: Llm) -> None:
    """Ask for many inputs: the answers are items of what the function returns."""
    assert_type(sidecard.call_each(llm.embed_all, ["a", "b"], max_batch=10, ttl=60), list[list[float]])
    assert_type(sidecard.call_each({"local": llm.embed_all, "cloud": llm.embed_all}, ["a"]), list[list[float]])
    assert_type(sidecard.outcome_each(llm.embed_all, iter("ab")), list[Outcome[list[float]]])
    sidecard.call_each(llm.count, ["a"])  # type: ignore[arg-type]  # it returns no list
    sidecard.call_each(llm.embed_all, 3)  # type: ignore[arg-type]  # these are no inputs


async def asynchronous(llm: Llm) -> None:
    """Use the asynchronous client: the same names."""
    async with AsyncClient() as sidecard:
        assert_type(await sidecard.call(llm.agenerate, "why?"), str)
        assert_type((await sidecard.outcome(llm.agenerate, "why?")).value, str)
        assert_type(await (await sidecard.outcome(llm.agenerate, "why?")).refresh(), Outcome[str])
        assert_type(await sidecard.call_each(llm.aembed_all, ["a"]), list[list[float]])
        assert_type(await sidecard.call_each(llm.embed_all, ["a"]), list[list[float]])
        assert_type((await sidecard.outcome_each(llm.aembed_all, ["a"]))[0].value, list[float])


def tested(llm: Llm) -> None:
    """Use the client of users' own tests."""
    sidecard = FakeClient(force_miss=True, task="rag")
    assert_type(sidecard.call(llm.generate, "why?"), str)
    assert_type(sidecard.asked[0].backend, str)
