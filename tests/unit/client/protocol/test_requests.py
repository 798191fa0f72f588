"""Limits of the fields of requests, in both encodings."""

import json
import math
from base64 import b64encode
from typing import Any

import msgspec
import pytest

from sidecard.server.json_lines.text import payload_of_line
from sidecard_client.protocol import wire

FAULTS = (msgspec.MsgspecError, ValueError)

WRONG: dict[str, list[Any]] = {
    "max_age_seconds": [math.nan, math.inf, -math.inf, -1, 1e300, 2**63, "5", True, [1], {}],
    "batch": [-1, 2**63, True, 1.5, "1", [1], None],
    "sample": [-1, 2**31, True, 1.5, "1", [1], None],
    "signature": [b"", b"x" * 8193, "text", [1], 1],
}


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
@pytest.mark.parametrize(
    ("field", "value"),
    [(field, value) for field, values in WRONG.items() for value in values],
    ids=lambda value: str(value)[:20],
)
def test_begin_with_a_wrong_value_is_refused(encoding: str, field: str, value: Any) -> None:
    """Before the engine sees it: numbers that are none, negative or huge ones, and other types."""
    with pytest.raises(FAULTS):
        wire.unpack_request(_message(encoding, op="begin", key="k", **{field: value}))


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
@pytest.mark.parametrize("value", [math.nan, -1, "5", True])
def test_get_with_a_wrong_age_is_refused(encoding: str, value: Any) -> None:
    """As a begin with one."""
    with pytest.raises(FAULTS):
        wire.unpack_request(_message(encoding, op="get", key="k", max_age_seconds=value))


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_begin_with_the_greatest_values_is_read(encoding: str) -> None:
    """The limits themselves are allowed."""
    fields = {"max_age_seconds": 366 * 86400.0, "batch": 2**63 - 1, "sample": 2**31 - 1, "signature": bytes(8192)}
    begin = wire.unpack_request(_message(encoding, op="begin", key="k", **fields))
    assert {name: getattr(begin, name) for name in fields} == fields


@pytest.mark.parametrize("encoding", ["msgpack", "json"])
def test_a_chunk_is_output_unless_it_says_otherwise(encoding: str) -> None:
    """As it is for clients and daemons that do not know the field: it is sent only if it is false."""
    chunk: Any = "piece" if encoding == "json" else msgspec.Raw(msgspec.msgpack.encode("piece"))
    for fields, expected in (({}, True), ({"output": True}, True), ({"output": False}, False)):
        message = wire.unpack_request(_message(encoding, op="append", lease="l", chunk=chunk, **fields))
        assert isinstance(message, wire.Append)
        assert message.output is expected
        assert b"output" in wire.pack(message) or expected
        assert wire.unpack_request(wire.pack(message)) == message

    assert wire.pack(wire.Append("l", msgspec.Raw(b"\xa1x"))) == b"\x83\xa2op\xa6append\xa5lease\xa1l\xa5chunk\xa1x"
    wrong_values: list[Any] = [None, 0, "false", []]
    for wrong in wrong_values:
        with pytest.raises(FAULTS):
            wire.unpack_request(_message(encoding, op="append", lease="l", chunk=chunk, output=wrong))


def _message(encoding: str, **fields: Any) -> bytes:
    """Return a request's msgpack bytes; of a JSON line, what the daemon makes of it."""
    if encoding == "msgpack":
        return msgspec.msgpack.encode(fields)

    texts = {
        name: {"$bytes": b64encode(value).decode()} if isinstance(value, bytes) else value
        for name, value in fields.items()
    }
    return payload_of_line(json.dumps(texts).encode())
