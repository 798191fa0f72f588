"""Messages that would take long to read, or to keep: refused before that, and the connection goes on."""

from typing import Any

import msgspec
import pytest

from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import BadMessage, RequestReader, frame

MEASUREMENT = {"name": "m", "kind": "counter"}


def refusal(message: dict[Any, Any]) -> BadMessage:
    """Read one message, which is refused."""
    (read,) = RequestReader().feed(frame(msgspec.msgpack.encode(message)))
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
def test_more_of_a_kind_than_may_be_is_refused_by_its_name(fields: dict[str, Any], field: str) -> None:
    """However large the message is, its id is echoed."""
    bad = refusal({"id": 7} | fields)

    assert (bad.id, bad.code) == (7, "bad_request")
    assert bad.message.endswith(f"`$.{field}`")
    assert "length <=" in bad.message


@pytest.mark.parametrize("op", ["x" * 100_000, ["ping"] * 100_000, None, 7])
def test_a_large_message_without_a_readable_op_is_refused(op: object) -> None:
    """Without a look at what else is in it."""
    bad = refusal({"id": 7, "op": op, "padding": "x" * 100_000})
    assert (bad.id, bad.code) == (7, "bad_request")
    assert "op is missing" in bad.message


def test_an_id_that_is_larger_than_a_message_may_be_is_none() -> None:
    """It is not echoed."""
    assert refusal({"id": [1] * 100_000, "op": "nonsense"}) == BadMessage(
        0, "unknown_op", refusal({"op": "nonsense"}).message
    )


def test_as_many_as_may_be_are_read() -> None:
    """A client sends 500 at a time."""
    fields = {"op": "record", "metrics": [MEASUREMENT] * wire.MAX_MEASUREMENTS}
    (read,) = RequestReader().feed(frame(msgspec.msgpack.encode(fields)))
    assert isinstance(read, wire.RecordMetrics)
    assert len(read.metrics) == wire.MAX_MEASUREMENTS
