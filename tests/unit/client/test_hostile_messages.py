"""Messages that would be expensive to decode or to keep are rejected early, and the connection stays open."""

from typing import Any

import msgspec
import pytest

from sidecard.server.reader import BadMessage
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.readers import WholeReader

MEASUREMENT = {"name": "m", "kind": "counter"}


def rejection_of(message: dict[Any, Any]) -> BadMessage:
    """Read one message, which is rejected."""
    (read,) = WholeReader().feed(frame(msgspec.msgpack.encode(message)))
    assert isinstance(read, BadMessage), read
    return read


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"op": "record", "metrics": [MEASUREMENT] * 2049}, "metrics"),
        ({"op": "record", "metrics": [MEASUREMENT] * 100_000}, "metrics"),
        ({"op": "record", "metrics": [MEASUREMENT | {"counts": [1] * 1_000_000}]}, "metrics[0].counts"),
        ({"op": "record", "metrics": [MEASUREMENT | {"bounds": [1.0] * 1_000_000}]}, "metrics[0].bounds"),
        (
            {"op": "record", "metrics": [MEASUREMENT | {"labels": {str(n): "x" for n in range(33)}}]},
            "metrics[0].labels",
        ),
        ({"op": "begin", "key": "k", "vector": [0.5] * 1_000_000}, "vector"),
        ({"op": "complete", "lease": "l", "value": 1, "tags": ["t"] * 100_000}, "tags"),
        ({"op": "begin", "key": "k", "backends": ["b"] * 100_000}, "backends"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_too_many_elements_are_rejected_by_field(fields: dict[str, Any], field: str) -> None:
    """The error names the field and echoes the id, however large the message is."""
    bad = rejection_of({"id": 7} | fields)

    assert (bad.id, bad.code) == (7, "bad_request")
    assert bad.message.endswith(f"`$.{field}`")
    assert "length <=" in bad.message


@pytest.mark.parametrize("op", ["x" * 100_000, ["ping"] * 100_000, None, 7])
def test_a_large_message_without_an_op_is_rejected(op: object) -> None:
    """Its other fields are not decoded."""
    bad = rejection_of({"id": 7, "op": op, "padding": "x" * 100_000})
    assert (bad.id, bad.code) == (7, "bad_request")
    assert "op is missing" in bad.message


def test_an_oversized_id_is_not_echoed() -> None:
    """The error has id 0."""
    assert rejection_of({"id": [1] * 100_000, "op": "nonsense"}) == BadMessage(
        0, "unknown_op", rejection_of({"op": "nonsense"}).message
    )


def test_the_maximum_of_measurements_is_accepted() -> None:
    """A message with `MAX_MEASUREMENTS` is decoded. The client sends 500."""
    fields = {"op": "record", "metrics": [MEASUREMENT] * wire.MAX_MEASUREMENTS}
    (read,) = WholeReader().feed(frame(msgspec.msgpack.encode(fields)))
    assert isinstance(read, wire.RecordMetrics)
    assert len(read.metrics) == wire.MAX_MEASUREMENTS
