"""Dividing a body into what makes the key and what stays outside."""

import copy
from typing import Any

import pytest

from sidecard_client.http.request_bodies.outside import divided_at, places

TREE = places(["user", "hints.id", "messages[].content[].mark", "messages[].mark", "[].x"])


@pytest.mark.parametrize(
    ("body", "kept", "outside"),
    [
        ({"user": "u", "a": 1}, {"a": 1}, {"user": "u"}),
        ({"user": None}, {}, {"user": None}),
        ({"hints": {"id": 1, "b": 2}}, {"hints": {"b": 2}}, {"hints.id": 1}),
        ({"hints": "id"}, {"hints": "id"}, {}),
        ({"hints": None}, {"hints": None}, {}),
        (
            {"messages": [{"mark": 1, "content": "mark"}, {"content": [{"mark": {}, "text": "a"}, "mark"]}, "mark"]},
            {"messages": [{"content": "mark"}, {"content": [{"text": "a"}, "mark"]}, "mark"]},
            {"messages[0].mark": 1, "messages[1].content[0].mark": {}},
        ),
        # Elsewhere the same names count.
        (
            {"messages": [{"content": [{"input": {"mark": 1, "user": 2}}]}], "tools": [{"mark": 1}]},
            {"messages": [{"content": [{"input": {"mark": 1, "user": 2}}]}], "tools": [{"mark": 1}]},
            {},
        ),
        ({"messages": {"mark": 1}}, {"messages": {"mark": 1}}, {}),
    ],
)
def test_fields_are_left_out_at_their_places_only(
    body: dict[str, Any], kept: dict[str, Any], outside: dict[str, Any]
) -> None:
    """Fields are removed by name and place, and the body itself is unchanged."""
    before = copy.deepcopy(body)
    assert divided_at(body, TREE) == (kept, outside)
    assert body == before
