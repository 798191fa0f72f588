"""Functions and objects whose calls are sidecard's."""

import math
from typing import Any

import pytest

from sidecard_client.call.call import Call
from sidecard_client.call.options import Options
from sidecard_client.call.wrapping import CachedFunction, SharedMethods, cached_function
from sidecard_client.keys.fingerprint import fingerprint
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol.errors import UnkeyableRequest


class Performer:
    """Makes every call, and remembers them."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, call: Call) -> Any:
        """Run the first function."""
        self.calls.append(call)
        return call.functions[0](*call.args, **call.kwargs)


class Llm:
    """An SDK's client, as SDKs are."""

    kinds = dict

    def __init__(self) -> None:
        self.temperature = 0.5
        self.hook = lambda prompt: prompt
        self.closed = False

    def generate(self, prompt: str, *, task: str = "") -> str:
        """Answer."""
        return f"{prompt}{task}{self.temperature}"

    def embed(self, prompt: str) -> list[float]:
        """Embed."""
        return [float(len(prompt))]

    def close(self) -> None:
        """End."""
        self.closed = True

    def _private(self) -> str:
        return "private"


def wrapped(methods: Any = None, **policy: Any) -> tuple[Any, Llm, Performer]:
    """Wrap an SDK's client."""
    performer, llm = Performer(), Llm()
    return SharedMethods(performer, llm, Options().changed(policy), methods), llm, performer


def test_wrap_shares_public_methods() -> None:
    """All keywords of a method's calls are the method's, ``task`` included."""
    proxy, llm, performer = wrapped(task="rag")
    assert proxy.generate("p", task="t") == "pt0.5"
    (call,) = performer.calls
    assert call.kwargs == {"task": "t"}
    assert call.options.task == "rag"
    assert call.key == fingerprint("rag", None, name_of(llm.generate), ("p",), {"task": "t"})
    assert call.functions == (llm.generate,)
    assert proxy.generate.__name__ == "generate"


def test_wrap_passes_everything_else_through() -> None:
    """Attributes, private methods, classes and ``close`` pass through."""
    proxy, llm, performer = wrapped()
    assert proxy.temperature == 0.5
    proxy.temperature = 1
    assert llm.temperature == 1
    assert proxy._private() == "private"
    assert proxy.kinds is dict
    proxy.close()
    assert llm.closed
    del proxy.temperature
    assert not hasattr(proxy, "temperature")
    assert performer.calls == []
    assert "generate" in dir(proxy)
    assert "Llm" in repr(proxy)


def test_wrap_with_methods_shares_those_alone() -> None:
    """Named methods are shared, even if they would pass through by default."""
    proxy, _, performer = wrapped(["embed"])
    proxy.generate("p")
    assert performer.calls == []
    assert proxy.embed("abc") == [3.0]
    assert len(performer.calls) == 1


def test_wrap_with_a_name_keeps_the_methods_apart() -> None:
    """The name is a prefix of the method: no method gets the answer of another."""
    proxy, _, performer = wrapped(name="fast")
    proxy.generate("p")
    proxy.embed("p")
    keys = [call.key for call in performer.calls]
    assert keys[0] == fingerprint("general", None, "fast.generate", ("p",), {"task": ""})
    assert keys[0] != keys[1]


def test_wrap_a_module() -> None:
    """A module's functions, also those written in C, are its methods."""
    performer = Performer()
    proxy: Any = SharedMethods(performer, math, Options(), None)
    assert proxy.sqrt(4.0) == 2.0
    assert proxy.pi == math.pi
    assert len(performer.calls) == 1


def test_wrap_refuses_invalid_arguments() -> None:
    """The error is raised immediately, not at the first call."""
    with pytest.raises(TypeError, match=r"methods=\['generate'\]"):
        wrapped("generate")

    with pytest.raises(TypeError, match="'temperature', which is not callable"):
        wrapped(["temperature"])

    with pytest.raises(AttributeError, match="nothing"):
        wrapped(["nothing"])

    with pytest.raises(TypeError, match="Use name="):
        wrapped(key="k")


def answer(question: str, *, ttl: int = 0) -> str:
    """Answer."""
    return f"{question}{ttl}"


def test_cached_shares_each_call() -> None:
    """All keywords are the function's, and the decorated function keeps its metadata."""
    performer = Performer()
    function = cached_function(performer, answer, Options(task="rag"), awaits=False)
    assert function("q", ttl=3) == "q3"
    assert performer.calls[0].key == fingerprint("rag", None, name_of(answer), ("q",), {"ttl": 3})
    assert function.__name__ == "answer"
    assert function.__doc__ == "Answer."
    assert "answer" in repr(function)


def test_cached_on_a_method_leaves_self_out_of_the_key() -> None:
    """Two instances share; class and arguments are the key."""
    performer = Performer()

    class Bot:
        @lambda function: cached_function(performer, function, Options(), awaits=False)
        def ask(self, question: str) -> str:
            """Ask."""
            return question

    bot: Any = Bot()
    assert bot.ask("q") == "q"
    assert Bot().ask("q") == "q"
    assert performer.calls[0].key == performer.calls[1].key
    assert performer.calls[0].args == ("q",)
    assert isinstance(Bot.__dict__["ask"], CachedFunction)
    assert Bot.ask is Bot.__dict__["ask"]


def test_cached_needs_a_stable_name_immediately() -> None:
    """A decorator fails where it is applied."""
    with pytest.raises(UnkeyableRequest, match="name="):
        cached_function(Performer(), lambda: 1, Options(), awaits=False)

    cached_function(Performer(), lambda: 1, Options(name="n"), awaits=False)
    cached_function(Performer(), lambda: 1, Options(key=None), awaits=False)


def test_cached_refuses_a_key() -> None:
    """One key would give one answer to all arguments."""
    with pytest.raises(TypeError, match="for one call"):
        cached_function(Performer(), answer, Options(key="k"), awaits=False)


@pytest.mark.parametrize("name", ["close", "aclose"])
def test_wrap_passes_the_end_of_a_client_through(name: str) -> None:
    """Each process must end its own client."""
    performer = Performer()
    proxy: Any = SharedMethods(performer, Ending(), Options(), None)
    assert getattr(proxy, name)() == f"{name} done"
    assert performer.calls == []


class Ending:
    """A client with both ways to end it."""

    def close(self) -> str:
        """End."""
        return "close done"

    def aclose(self) -> str:
        """End."""
        return "aclose done"
