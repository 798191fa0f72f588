"""What a holder reports: a call that changes what its function holds."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from msgspec import Raw

from sidecard_client.call import warn
from sidecard_client.call.call import prepare
from sidecard_client.call.completion import complete
from sidecard_client.call.options import Options
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import SidecardWarning

LEASE = wire.Lease(1, "lease", "default", 15.0, 1)


@pytest.fixture(autouse=True)
def warned_of_nothing() -> None:
    """Warn again."""
    warn._warned_of.clear()


def warnings_of(function: Callable[..., Any], times: int = 1, **policy: Any) -> list[str]:
    """Call a function, report its value, and return the warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(times):
            call = prepare(Options().changed(policy), function, ("q",), {})
            assert complete(call, LEASE, function("q")).value == Raw(b"\xa1a")

    assert all(warning.category is SidecardWarning for warning in warned)
    return [str(warning.message) for warning in warned]


def test_a_call_that_changes_what_its_function_captures_warns_once() -> None:
    """A call that changes what its function holds warns, because the next call does not share."""
    asked: list[str] = []
    prefix = "a"

    def answer(question: str) -> str:
        asked.append(question)
        return prefix

    (message,) = warnings_of(answer, 2)
    assert message.startswith(
        "test_a_call_that_changes_what_its_function_captures_warns_once.<locals>.answer: 'asked' is part of its key"
    )
    assert "name=" in message
    assert warnings_of(answer, name="n") == []


def test_a_call_that_changes_its_instance_warns() -> None:
    """A call that changes a text of its instance warns."""

    class Bot:
        last = ""

        def answer(self, question: str) -> str:
            self.last = question
            return "a"

    (message,) = warnings_of(Bot().answer)
    assert "'self.last' is part of its key" in message


def test_a_call_that_changes_nothing_of_this_does_not_warn() -> None:
    """Counters of instances are not part of the key, so their changes cause no warning."""
    prefixes = ["a"]

    class Bot:
        calls = 0
        model = "m"

        def answer(self, _: str) -> str:
            self.calls += 1
            return prefixes[0]

    assert warnings_of(Bot().answer, 2) == []
    assert warnings_of(lambda _: "a", key="k") == []
