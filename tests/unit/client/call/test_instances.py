"""A warning for instances that share answers although they look different."""

import enum
import gc
import warnings
from collections.abc import Iterator
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


def test_instances_of_two_models_warn_once() -> None:
    """The warning names the method and the attribute, says what to write, and shows no value: it may be a secret."""
    bots = [Bot("one"), Bot("other"), Bot("third")]
    (message,) = ask(*bots, *bots)
    assert message.startswith("Bot.answer: two instances share answers, and differ in 'model'.")
    assert "model= or name=" in message
    assert "third" not in message
    assert "'other'" not in message


def test_members_of_an_enumeration_differ_too() -> None:
    """They are configuration as well."""
    assert len(ask(Bot(Size.SMALL), kept := Bot(Size.BIG), kept)) == 1


@pytest.mark.parametrize(
    ("one", "other", "policy"),
    [
        (Bot(), Bot(), {}),
        (Bot(calls=1, seen=["a"], client=object()), Bot(calls=2, seen=["b"], client=object()), {}),
        (Bot("a"), Bot("b"), {"name": "n"}),
        (Bot("a"), Bot("b"), {"model": "m"}),
        (Bot("a"), Bot("b"), {"key": "k"}),
        (Bot("a"), Bot(None), {}),
        (Slotted("a"), Slotted("b"), {}),
    ],
)
def test_instances_that_may_share_do_not_warn(one: Any, other: Any, policy: dict[str, Any]) -> None:
    """Counters and connections differ between all instances."""
    assert ask(one, other, one, **policy) == []


def test_an_instance_is_not_kept_alive() -> None:
    """One that is gone is not compared."""
    bot = Bot("a")
    gone = ref(bot)
    assert ask(bot) == []
    del bot
    gc.collect()
    assert gone() is None
    assert ask(Bot("b")) == []
