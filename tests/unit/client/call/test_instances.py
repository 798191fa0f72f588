"""Instances that look different: a warning, and keys that tell them apart."""

import enum
import gc
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import ref

import pytest

from sidecard_client.call import warn
from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options
from sidecard_client.keys import identity
from sidecard_client.protocol.errors import SidecardWarning


class Size(enum.Enum):
    """An attribute."""

    SMALL = 1
    BIG = 2


class Bot:
    """A client of a model."""

    def __init__(self, model: Any = "a", **attributes: Any) -> None:
        self.model = model
        vars(self).update(attributes)

    def answer(self, question: str) -> str:
        """Answer."""
        return f"{self.model}{question}"


class Slotted:
    """One that nothing can refer to weakly."""

    __slots__ = ("model",)

    def __init__(self, model: str) -> None:
        self.model = model

    def answer(self, question: str) -> str:
        """Answer."""
        return self.model + question


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Begin and end without instances."""
    warn._warned_of.clear()
    identity._kept.clear()
    yield
    warn._warned_of.clear()
    identity._kept.clear()


def ask(*bots: Any, **policy: Any) -> list[str]:
    """Call each; return the warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for bot in bots:
            prepare(Options().changed(policy), bot.answer, ("q",), {})

    assert all(issubclass(warning.category, SidecardWarning) for warning in warned)
    return [str(warning.message) for warning in warned]


def key_of(bot: Any, **policy: Any) -> Any:
    """Return the key of a call."""
    return prepare(Options().changed(policy), bot.answer, ("q",), {}).key


def test_instances_of_two_models_warn_once_and_do_not_share_from_then_on() -> None:
    """The warning names the method and the attribute, says what to write, and shows no value: it may be a secret."""
    one, other, third = Bot("one"), Bot("other"), Bot("third")
    (message,) = ask(one, other, third, one)
    assert message.startswith("Bot.answer: instances differ in 'model', so this process does not share their answers")
    assert "model= or name=" in message
    assert "third" not in message
    assert len({key_of(one), key_of(other), key_of(third)}) == 3
    assert key_of(one) == key_of(Bot("one"))
    assert key_of(one, model="m") == key_of(other, model="m")
    assert key_of(one, name="n") == key_of(other, name="n")


def test_instances_that_are_gone_have_been_seen() -> None:
    """Apps make one for a call, too."""
    (message,) = ask(Bot("one"), Bot("other"))
    assert "'model'" in message
    assert len(ask(Slotted("one"), Slotted("other"))) == 1
    assert key_of(Slotted("one")) != key_of(Slotted("other"))


def bot_of_a_class_of_its_own(model: str, *, by_value: bool = False) -> Any:
    """Return an instance of a class that is defined in a function, as notebooks and tests do."""

    class LocalBot(Bot):
        pass

    @dataclass
    class LocalValue:
        model: str

        def answer(self, question: str) -> str:
            return self.model + question

    return LocalValue(model) if by_value else LocalBot(model)


def test_instances_of_a_class_that_is_defined_in_a_function_differ_too() -> None:
    """Its attributes are part of the key already, but not those of its instances."""
    one = bot_of_a_class_of_its_own("one")
    other = type(one)("other")
    (message,) = ask(one, other)
    assert "instances differ in 'model'" in message
    assert key_of(one) != key_of(other)


def test_instances_that_compare_by_value_do_not_warn() -> None:
    """Their fields are part of the key anyway."""
    one = bot_of_a_class_of_its_own("one", by_value=True)
    other = type(one)("other")
    assert ask(one, other) == []
    assert key_of(one) != key_of(other)


def test_members_of_an_enumeration_differ_too() -> None:
    """They are configuration as well."""
    assert len(ask(Bot(Size.SMALL), Bot(Size.BIG))) == 1
    assert key_of(Bot(Size.SMALL)) != key_of(Bot(Size.BIG))


@pytest.mark.parametrize(
    ("one", "other", "policy"),
    [
        (Bot(), Bot(), {}),
        (Bot(calls=1, seen=["a"], client=object()), Bot(calls=2, seen=["b"], client=object()), {}),
        (Bot("a"), Bot("b"), {"name": "n"}),
        (Bot("a"), Bot("b"), {"model": "m"}),
        (Bot("a"), Bot("b"), {"key": "k"}),
        (Bot("a"), Bot(None), {}),
        (Slotted("a"), Slotted("a"), {}),
    ],
)
def test_instances_that_may_share_do_not_warn(one: Any, other: Any, policy: dict[str, Any]) -> None:
    """Counters and connections differ between all instances."""
    assert ask(one, other, one, **policy) == []
    assert key_of(one, **policy) == key_of(other, **policy)


def test_an_instance_is_not_kept_alive() -> None:
    """Nor are its texts."""
    bot = Bot("a")
    gone = ref(bot)
    assert ask(bot) == []
    del bot
    gc.collect()
    assert gone() is None


def test_one_instance_that_changes_shares_with_itself() -> None:
    """As long as it is the only one."""
    bot = Bot("a")
    before = key_of(bot)
    bot.model = "b"
    assert key_of(bot) == before
