"""Texts of a method's instance tell two models apart; connections and counters do not."""

import enum
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import pytest

from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options


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

    @cached_property
    def title(self) -> str:
        """A text that is computed of another."""
        return f"Bot {self.model}"


class Slotted:
    """One without a dict."""

    __slots__ = ("calls", "model")

    def __init__(self, model: str) -> None:
        self.model = model

    def answer(self, question: str) -> str:
        """Answer."""
        return self.model + question


class Both(Slotted):
    """One with slots and a dict."""

    def __init__(self, model: str, language: str) -> None:
        super().__init__(model)
        self.language = language


def key_of(bot: Any, **policy: Any) -> Any:
    """Return the key of a call."""
    return prepare(Options().changed(policy), bot.answer, ("q",), {}).key


def local_bot(model: str, *, by_value: bool = False) -> Any:
    """Return an instance of a class that is defined in a function, as notebooks and tests do."""

    class LocalBot(Bot):
        pass

    @dataclass
    class LocalValue:
        model: str

        def answer(self, question: str) -> str:
            return self.model + question

    return LocalValue(model) if by_value else LocalBot(model)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Bot("a"), Bot("b")),
        (Bot("a"), Bot(None)),
        (Bot(Size.SMALL), Bot(Size.BIG)),
        (Bot(Size.SMALL), Bot("SMALL")),
        (Slotted("a"), Slotted("b")),
        (Both("a", "en"), Both("b", "en")),
        (Both("a", "en"), Both("a", "de")),
        (local_bot("a"), local_bot("b")),
        (local_bot("a", by_value=True), local_bot("b", by_value=True)),
    ],
)
def test_instances_with_different_texts_do_not_share(one: Any, other: Any) -> None:
    """Also in two processes that have one of them each: the key depends on nothing but the instance."""
    assert key_of(one) != key_of(other)


@pytest.mark.parametrize(
    ("one", "other", "policy"),
    [
        (Bot(), Bot(), {}),
        (Bot(calls=1, seen=["a"], client=object()), Bot(calls=2, seen=["b"], client=object()), {}),
        (Bot("a"), Bot("b"), {"name": "n"}),
        (Bot("a"), Bot("b"), {"model": "m"}),
        (Bot("a"), Bot("b"), {"key": "k"}),
        (Slotted("a"), Slotted("a"), {}),
    ],
)
def test_instances_with_equal_texts_share(one: Any, other: Any, policy: dict[str, Any]) -> None:
    """Counters and connections differ between all instances; ``model=`` and ``name=`` say what counts."""
    assert key_of(one, **policy) == key_of(other, **policy)


def test_the_text_at_the_time_of_the_call_counts() -> None:
    """A client may be switched to another model."""
    bot = Bot("a")
    before = key_of(bot)
    bot.model = "b"
    assert key_of(bot) == key_of(Bot("b")) != before


def test_a_text_that_is_computed_later_does_not_count() -> None:
    """A cached property is computed from other attributes, so it is not part of the key."""
    bot = Bot("a")
    before = key_of(bot)
    assert bot.title
    assert key_of(bot) == before


def test_a_partial_of_a_method_has_its_texts() -> None:
    """A partial of a method has the texts of the method's instance in its key."""
    keys = {prepare(Options(), partial(Bot(model).answer, "q"), (), {}).key for model in "ab"}
    assert len(keys) == 2
