"""Requests that are meant to have one answer."""

from typing import Any

import pytest

from sidecard_client.call.determinism import asks_for_one_answer, is_deterministic


@pytest.mark.parametrize(
    ("fields", "one"),
    [
        ({"temperature": 0}, True),
        ({"temperature": 0.0}, True),
        ({"seed": 7}, True),
        ({"options": {"temperature": 0}}, True),
        ({"options": {"seed": 0}}, True),
        ({}, False),
        ({"temperature": 0.1}, False),
        ({"temperature": False}, False),
        ({"temperature": "0"}, False),
        ({"seed": True}, False),
        ({"seed": None}, False),
        ({"options": "temperature"}, False),
    ],
)
def test_temperature_0_or_a_seed_asks_for_one_answer(fields: dict[str, Any], one: bool) -> None:
    """At the top, or in Ollama's options; a boolean is no number."""
    assert is_deterministic(fields) is one
    assert asks_for_one_answer((), fields, said=None) is one
    assert asks_for_one_answer((fields,), {}, said=None) is one


def test_the_callers_own_word_decides() -> None:
    """Whatever the arguments are."""
    assert asks_for_one_answer((), {"temperature": 0}, said=False) is False
    assert asks_for_one_answer((), {}, said=True) is True
