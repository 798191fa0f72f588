"""Cached functions as frameworks see them: their kind, their signature, their binding, and how they are pickled and copied."""

import asyncio
import copy
import functools
import inspect
import pickle
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options

NOWHERE = "/nowhere/at.all"

blocking = Client(NOWHERE)
awaiting = AsyncClient(NOWHERE)


@blocking.cached()
def plain(question: str, *, loud: bool = False) -> str:
    """Answer."""
    return question.upper() if loud else question


@blocking.cached()
def letters(question: str) -> Iterator[str]:
    """Answer in pieces."""
    yield from question


@awaiting.cached()
async def coroutine(question: str, *, loud: bool = False) -> str:
    """Answer."""
    return question.upper() if loud else question


@awaiting.cached()
def in_thread(question: str) -> str:
    """Answer."""
    return question


@awaiting.cached()
async def pieces(question: str) -> AsyncIterator[str]:
    """Answer in pieces."""
    for letter in question:
        yield letter


class Bot:
    """Methods of all kinds."""

    def __init__(self, name: str) -> None:
        self.name = name

    @blocking.cached()
    def plain(self, question: str) -> str:
        """Answer."""
        return question

    @awaiting.cached()
    async def ask(self, question: str) -> str:
        """Answer."""
        return question

    @classmethod
    @awaiting.cached()
    async def of_class(cls, question: str) -> str:
        """Answer."""
        return f"{cls.__name__} {question}"

    @awaiting.cached()
    @classmethod
    async def around_class(cls, question: str) -> str:
        """Answer."""
        return f"{cls.__name__} {question}"

    @staticmethod
    @awaiting.cached()
    async def static(question: str) -> str:
        """Answer."""
        return question

    @awaiting.cached()
    @staticmethod
    async def around_static(question: str) -> str:
        """Answer."""
        return question

    @awaiting.cached()
    async def pieces(self, question: str) -> AsyncIterator[str]:
        """Answer in pieces."""
        for letter in question:
            yield letter

    half = functools.partialmethod(ask, "q")

    @property
    @awaiting.cached()
    async def of_property(self) -> str:
        """Answer."""
        return self.name

    @functools.cached_property
    @blocking.cached()
    def kept(self) -> str:
        """Answer."""
        return self.name


class Heir(Bot):
    """Has them from its base."""


class Wrapped:
    """An SDK's client."""

    async def ask(self, question: str) -> str:
        """Answer."""
        return question


COROUTINE_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "function": coroutine,
    "plain function": in_thread,
    "partial": functools.partial(coroutine, "q"),
    "method": Bot("a").ask,
    "method of the class": Bot.ask,
    "partial of a method": functools.partial(Bot("a").ask, "q"),
    "partial method": Bot("a").half,
    "class method": Bot.of_class,
    "class method of an instance": Bot("a").of_class,
    "inherited class method": Heir.of_class,
    "around a class method": Bot.around_class,
    "static method": Bot.static,
    "static method of an instance": Bot("a").static,
    "around a static method": Bot.around_static,
    "method of a wrapped object": awaiting.wrap(Wrapped()).ask,
}


@pytest.mark.parametrize("function", COROUTINE_FUNCTIONS.values(), ids=COROUTINE_FUNCTIONS)
def test_functions_of_the_async_client_are_coroutine_functions(function: Callable[..., Any]) -> None:
    """Frameworks await what they take for one, and run everything else in a thread."""
    assert inspect.iscoroutinefunction(function)
    assert asyncio.iscoroutinefunction(function)
    assert not inspect.isasyncgenfunction(function)


@pytest.mark.parametrize("function", [pieces, Bot("a").pieces, Bot.pieces, functools.partial(pieces, "q")])
def test_cached_streams_are_asynchronous_generator_functions(function: Callable[..., Any]) -> None:
    """Frameworks iterate over what they take for one."""
    assert inspect.isasyncgenfunction(function)
    assert not inspect.iscoroutinefunction(function)


@pytest.mark.parametrize("function", [plain, Bot("a").plain, functools.partial(plain, "q"), letters])
def test_functions_of_the_blocking_client_are_plain_functions(function: Callable[..., Any]) -> None:
    """Generator functions stay generator functions."""
    assert not inspect.iscoroutinefunction(function)
    assert not inspect.isasyncgenfunction(function)
    assert inspect.isgeneratorfunction(function) == (function is letters)


@pytest.mark.parametrize("function", [plain, coroutine, letters, pieces, Bot.ask, Bot.around_class, Bot.static])
def test_signature_and_names_are_the_functions(function: Any) -> None:
    """As `functools.wraps` leaves them."""
    original = function.__wrapped__
    parameters = inspect.signature(function).parameters
    assert list(parameters) in ([*inspect.signature(original).parameters], ["question"])
    assert (function.__name__, function.__doc__) == (original.__name__, original.__doc__)
    assert (function.__module__, function.__qualname__) == (original.__module__, original.__qualname__)


def test_a_bound_method_has_no_self() -> None:
    """Neither in its signature nor in its key."""
    assert [*inspect.signature(Bot("a").ask).parameters] == ["question"]
    assert Bot("a").ask.__self__.name == "a"  # type: ignore[attr-defined]  # a method has it


def test_every_kind_of_method_gets_its_own_arguments() -> None:
    """Also those that do not bind by ``__get__``: class methods since Python 3.13, properties, ``Class.method(instance)``."""

    async def values() -> list[str]:
        return [
            await coroutine("q", loud=True),
            await in_thread("q"),
            await Bot("a").ask("q"),
            await Bot("a").half(),
            await Bot.ask(Bot("a"), "q"),
            await Bot("a").of_property,
            Bot("a").kept,
            await Bot.of_class("q"),
            await Heir.of_class("q"),
            await Bot("a").around_class("q"),
            await Bot.static("q"),
            await Bot("a").around_static("q"),
            "".join([piece async for piece in Bot("a").pieces("qs")]),
        ]

    assert anyio.run(values) == ["Q", "q", "q", "q", "q", "a", "a", "Bot q", "Heir q", "Bot q", "q", "q", "qs"]


PICKLED: list[Any] = [plain, coroutine, letters, pieces, Bot.ask, Bot.static, Bot.around_static]


@pytest.mark.parametrize("function", PICKLED)
def test_cached_functions_pickle_by_name_and_copy_to_themselves(function: Any) -> None:
    """As functions do: the other process has its own, with its own client."""
    assert pickle.loads(pickle.dumps(function)) is function  # noqa: S301 - our own
    assert copy.copy(function) is function
    assert copy.deepcopy([function])[0] is function


def test_methods_pickle_with_their_objects() -> None:
    """By the name of the method, and by the value of its object."""
    for name in ("plain", "ask", "pieces"):
        method = pickle.loads(pickle.dumps(getattr(Bot("a"), name)))  # noqa: S301 - our own
        assert method.__self__.name == "a"
        assert method.__func__ is getattr(Bot("b"), name).__func__

    of_class = pickle.loads(pickle.dumps(Heir.of_class))  # noqa: S301 - our own
    assert of_class.__self__ is Heir


def test_a_local_function_does_not_pickle() -> None:
    """As with any local function, the error names it."""

    @blocking.cached()
    def local(question: str) -> str:
        return question

    with pytest.raises((AttributeError, pickle.PicklingError), match="local"):
        pickle.dumps(local)

    assert copy.deepcopy(local) is local


def test_clients_pickle_by_their_arguments() -> None:
    """Another process gets its own client, and a copy of an object that holds a client shares it."""
    for client in (Client(NOWHERE, task="rag", ttl=60), AsyncClient(NOWHERE, namespace="n", sovereign=True)):
        other = pickle.loads(pickle.dumps(client))  # noqa: S301 - our own
        assert type(other) is type(client)
        assert other is not client
        assert other._options == client._options
        assert other._connector.place() == NOWHERE
        assert copy.copy(client) is client
        assert copy.deepcopy({"client": client})["client"] is client

    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(Client(NOWHERE, usage=lambda _: None))


def test_wrapped_objects_pickle_with_what_they_wrap() -> None:
    """Their methods are shared in the other process too."""
    other: Any = pickle.loads(pickle.dumps(awaiting.wrap(Wrapped(), methods=["ask"], task="rag")))  # noqa: S301 - our own
    assert inspect.iscoroutinefunction(other.ask)
    assert isinstance(object.__getattribute__(other, "_sidecard_target"), Wrapped)
    assert object.__getattribute__(other, "_sidecard_options").task == "rag"


def test_a_cached_function_within_a_function_is_part_of_the_key() -> None:
    """By the function that it stands for: neither the client nor the policy has a stable form, nor needs one."""

    def using(helper: Any) -> Callable[[str], Any]:
        def answer(question: str) -> Any:
            return helper(question)

        return answer

    def build(model: str) -> Any:
        @blocking.cached()
        def helper(question: str) -> str:
            return f"{model} {question}"

        return helper

    def key_of(function: Callable[..., Any]) -> str | None:
        return prepare(Options(), function, ("q",), {}).key

    kinds = (plain, letters, build("a"), build("b"))
    keys = {key_of(using(helper)) for helper in kinds} | {key_of(helper) for helper in kinds}
    assert len(keys) == 8
    assert key_of(using(build("a"))) == key_of(using(build("a")))
