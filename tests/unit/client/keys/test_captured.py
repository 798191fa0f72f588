"""What a function holds besides its arguments."""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options
from sidecard_client.keys.captured import captured_by
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol.errors import UnkeyableRequest


def build(model: Any) -> Callable[[str], Any]:
    """Make a function that captures a variable."""

    def answer(question: str) -> Any:
        return f"{model} {question}"

    return answer


def decorated(prefix: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return prefix + function(*args)

    return wrapper


def plain(question: str) -> str:
    """Capture nothing."""
    return question


@dataclass
class Template:
    """A callable object with a state."""

    text: str

    def __call__(self, question: str) -> str:
        """Answer."""
        return self.text + question


class Slotted:
    """A callable object without a dict."""

    __slots__ = ("text", "unset")

    def __init__(self, text: str) -> None:
        self.text = text

    def __call__(self, question: str) -> str:
        """Answer."""
        return self.text + question


def build_object(model: str) -> Any:
    """Return an object that is called, of a class that captures a variable."""

    class Answerer:
        def __call__(self, question: str) -> str:
            return model + question

    return Answerer()


def key_of(function: Any, **policy: Any) -> Any:
    """Return the key of a call."""
    return prepare(Options(), function, ("q",), policy).key


PAIRS: list[tuple[Any, Any]] = [
    (build("a"), build("b")),
    (build(1), build(1.0)),
    (build(["a"]), build(["b"])),
    (build({"a": 1}), build({"a": 2})),
    (build(build("a")), build(build("b"))),
    (build(build), build(plain)),
    (build(math), build(json)),
    (build(dict), build(list)),
    (build(functools.partial(plain, "a")), build(functools.partial(plain, "b"))),
    (decorated("a", plain), decorated("b", plain)),
    (decorated("a", build("a")), decorated("a", build("b"))),
    (functools.lru_cache(build("a")), functools.lru_cache(build("b"))),
    (functools.partial(plain, "a"), functools.partial(plain, "b")),
    (Template("a"), Template("b")),
    (Slotted("a"), Slotted("b")),
    (build_object("a"), build_object("b")),
]


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_functions_that_differ_by_what_they_hold_do_not_share(one: Any, other: Any) -> None:
    """The name is the same, and so are the arguments."""
    assert name_of(one) == name_of(other)
    assert key_of(one) != key_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (build("a"), build("a")),
        (Template("a"), Template("a")),
        (Slotted("a"), Slotted("a")),
        (build_object("a"), build_object("a")),
    ],
)
def test_functions_that_hold_the_same_share(one: Any, other: Any) -> None:
    """As in two processes."""
    assert key_of(one) == key_of(other)


@pytest.mark.parametrize("function", [plain, Template.__call__, len, Template])
def test_most_functions_hold_nothing(function: Any) -> None:
    """A method's instance, and what a name stands for, do not count."""
    assert captured_by(function) is None


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (build(object()), "'model' of build.<locals>.answer is a builtins.object"),
        (build([object()]), r"'model' of build.<locals>.answer\[0\] is a builtins.object"),
        (build({object()}), "a member of 'model' .* is a builtins.object"),
        (build([].append), "builtin_function"),
        (build(SimpleNamespace()), "SimpleNamespace"),
        (build(lambda: None), "no stable name"),
        (build(build(object())), "builtins.object"),
        (Template(object()), "'text' of a Template"),  # type: ignore[arg-type]  # something without a stable form
        (MagicMock(), "MagicMock"),
        (itemgetter("a"), "cannot be read"),
    ],
)
def test_a_state_without_a_stable_form_asks_for_a_name(function: Any, words: str) -> None:
    """The error says what it is. With a name there is none."""
    with pytest.raises(UnkeyableRequest, match=f"{words}.*name="):
        key_of(function)

    assert key_of(function, name="n") == key_of(plain, name="n")


def test_a_function_may_capture_itself_and_what_is_not_assigned_yet() -> None:
    """As recursive functions do, alone and in pairs."""

    def count(n: int) -> int:
        return n and count(n - 1)

    def even(n: int) -> bool:
        return not n or odd(n - 1)

    assert captured_by(even) is None

    def odd(n: int) -> bool:
        return bool(n) and even(n - 1)

    assert captured_by(count) == {"count": {"around": 0}}
    assert captured_by(even) == {"odd": {"function": name_of(odd), "captured": {"even": {"around": 0}}}}


def test_functions_within_each_other_without_end_are_an_error() -> None:
    """No key takes long."""
    function: Any = plain
    for _ in range(100):
        function = build(function)

    with pytest.raises(UnkeyableRequest, match="name="):
        captured_by(function)


def test_a_captured_variable_counts_as_it_is_at_the_call() -> None:
    """It may change between two calls."""
    level = 1

    def answer(question: str) -> str:
        return f"{question}{level}"

    before = key_of(answer)
    level = 2
    assert key_of(answer) != before
