"""Prompts and answers as redacted JSON."""

import io
import json
import re
from typing import Any

import msgspec
import pytest

from sidecard.observe.call_log.redaction_process import MAX_PACKED_BYTES, redacted_json, serve, truncation_marker

pack = msgspec.msgpack.Encoder().encode


def kept(value: Any, *patterns: str, max_bytes: int = 10_000) -> Any:
    """Return what is kept of a value."""
    return json.loads(redacted_json(pack(value), [re.compile(pattern) for pattern in patterns], max_bytes))


@pytest.mark.parametrize(
    "value", [None, True, 1, -1.5, "é\0\n", [], {}, {"args": ["a", [1]], "kwargs": {"b": {"c": None}}}]
)
def test_json_values_are_unchanged(value: Any) -> None:
    """All types that JSON has."""
    assert kept(value) == value


def test_bytes_are_marked_as_bytes() -> None:
    """Under a name of their own."""
    assert kept([b"\xff\0"]) == [{"$bytes": "/wA="}]
    assert kept(msgspec.msgpack.Ext(3, b"\xff\0")) == {"$bytes": "/wA="}


def test_names_of_other_types_become_texts() -> None:
    """JSON has no other names."""
    assert kept({1: "a", None: "b", b"c": "d"}) == {"1": "a", "None": "b", "c": "d"}


def test_matches_are_redacted_everywhere() -> None:
    """In every text, in names, and in bytes that are text."""
    said = {"args": ["call 0151-2345", ["0151-2345"]], "kwargs": {"0151-1": b"x 0151-9"}}
    assert kept(said, r"0151-\d+") == {
        "args": ["call [redacted]", ["[redacted]"]],
        "kwargs": {"[redacted]": {"$bytes": "eCBbcmVkYWN0ZWRd"}},
    }


def test_patterns_match_the_text_not_its_json() -> None:
    """A newline is one character, and quotes have no backslash."""
    assert kept('a "b"\nc', '"b"\n') == "a [redacted]c"


def test_an_empty_match_redacts_nothing() -> None:
    """There is an empty match between all characters."""
    assert kept("abc", "x*") == "abc"


def test_a_long_text_is_marked_as_truncated() -> None:
    """It is cut after the redaction: half a secret would not be found."""
    secret = "s3cr3t"
    for length in range(20):
        cut = kept("a" * length + secret + "b" * 100, secret, max_bytes=20)
        assert cut["bytes"] == length + 100 + len("[redacted]") + 2
        assert "s3" not in cut["$truncated"]


def test_a_cut_within_a_character_leaves_valid_text() -> None:
    """The incomplete character is dropped."""
    assert kept("€" * 100, max_bytes=10)["$truncated"] == '"€€€'


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\xd9\xff", b"\xa1\xff", b"\x91" * 5000 + b"\xc0"])
def test_undecodable_bytes_are_marked(packed: bytes) -> None:
    """Also those nested deeper than any stack."""
    assert json.loads(redacted_json(packed, [])) == {"$unreadable": len(packed)}


def test_a_text_too_large_to_decode_is_marked() -> None:
    """With its size."""
    assert json.loads(redacted_json(truncation_marker(b"x" * (MAX_PACKED_BYTES + 1)), [])) == {
        "$truncated": "",
        "bytes": MAX_PACKED_BYTES + 1,
    }


def test_the_process_answers_each_request_until_its_input_ends() -> None:
    """One answer for each request."""
    messages = [pack((["x"], 100)), pack((pack("axb"), None)), pack((None, pack(1)))]
    source = io.BytesIO(b"".join(len(message).to_bytes(4, "big") + message for message in messages))
    target = io.BytesIO()
    serve(source, target)
    written = target.getvalue()
    first = int.from_bytes(written[:4], "big")
    assert msgspec.msgpack.decode(written[4 : 4 + first]) == ['"a[redacted]b"', None]
    assert msgspec.msgpack.decode(written[8 + first :]) == [None, "1"]
