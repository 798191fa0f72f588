"""Warnings: once for each subject, in bounded memory, and at a place of the app."""

import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from sidecard_client.call import warn
from sidecard_client.protocol.errors import SidecardWarning


@pytest.fixture(autouse=True)
def forgotten() -> Any:
    """Begin and end without subjects."""
    warn._warned_of.clear()
    yield
    warn._warned_of.clear()


def test_a_subject_is_warned_of_once() -> None:
    """A second warning of one subject is not issued, whatever the filters are."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for subject in ("a", "b", "a"):
            warn.warn_once(subject, f"about {subject}")

    assert [str(warning.message) for warning in warned] == ["about a", "about b"]


def test_many_subjects_take_bounded_memory() -> None:
    """Beyond the limit of subjects, the oldest one is forgotten."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for number in range(warn.MAX_WARNED + 1):
            warn.warn_once(str(number), "much")

        warn.warn_once(str(warn.MAX_WARNED), "much")
        warn.warn_once("0", "much")

    assert len(warned) == warn.MAX_WARNED + 2
    assert len(warn._warned_of) == warn.MAX_WARNED


def test_two_functions_of_one_name_are_two_subjects() -> None:
    """Two functions of one name are two subjects: each is at another line."""

    def one() -> None:
        """Have a name."""

    def other() -> None:
        """Have the same."""

    other.__qualname__ = one.__qualname__
    assert warn.place_of(one) != warn.place_of(other)
    assert warn.place_of(len) == "len"


def within(module: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls another one as if it was in a module of that name."""

    def call() -> Any:
        return function()

    return FunctionType(call.__code__, {"__name__": module}, closure=call.__closure__)


@pytest.mark.parametrize(
    "module", ["sidecard_client.call.x", "anyio.from_thread", "asyncio.tasks", "httpx._client", "contextlib"]
)
def test_packages_between_the_app_and_the_call_are_passed_through(module: str) -> None:
    """The place is where this test calls."""
    place = within(module, warn.place_of_caller)()
    assert place.file == __file__
    assert place.variables["__name__"] == __name__


def test_below_an_event_loop_the_function_is_the_place() -> None:
    """Below an event loop the place is the function, and without a function the loop."""

    def answer() -> None:
        """Be called."""

    function = FunctionType(answer.__code__, {"__name__": "app"}, "answer")
    place = within("asyncio.events", _of_client(function))()
    assert place[1:] == (__file__, answer.__code__.co_firstlineno)
    assert place.variables["__name__"] == "app"
    assert within("asyncio.events", _of_client(None))().variables["__name__"] == "asyncio.events"


def _of_client(function: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return a function that asks for the place as one of sidecard's would."""

    def call() -> Any:
        return warn.place_of_caller(function)

    return FunctionType(call.__code__, {"__name__": "sidecard_client.x", "warn": warn}, closure=call.__closure__)


def test_a_line_repeats_no_text() -> None:
    """Python's default filter shows a text once for each line."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default", SidecardWarning)
        for _ in range(3):
            warn.warn("repeated")

        warn.warn("repeated")

    assert len(warned) == 2
