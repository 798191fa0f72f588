"""The body of ``POST /v1/metrics``: one call that an app made itself, with the field names of OpenPipe clients."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sidecard_client.protocol.wire import DEFAULT_TASK, Measurement, MetricKind, RecordMetrics

MAX_BODY_BYTES = 64 * 1024
"""Such clients cut prompts at 1,000 characters, so their bodies have at most about 12 KB."""

MAX_TASK_CHARACTERS = 128
"""The limit of names in the protocol; a longer task is truncated."""

_shallow = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

Amount = Annotated[float, Meta(ge=0, le=1e12)]


class PostedCall(Struct, frozen=True):
    """One call. Every field is optional; numbers may be text; unknown fields are ignored.

    There is no field for the prompt, so it is never decoded, nor for ``timestamp``, which is of the client's monotonic clock.
    """

    task_type: str | None = None
    success: bool = True
    latency_ms: Amount | None = None
    response_length: Amount | None = None
    """In characters."""
    cost: Amount | None = None
    """In dollars."""


def parse(body: bytes) -> PostedCall:
    """Return the call in a body. Raises `ValueError` with a sentence that does not repeat the body."""
    try:
        # Only the last of repeated fields, and no unknown ones: 64 KiB of numbers such as 1e308 take 90 ms to decode.
        fields = _shallow(body)
        known = {name: fields[name] for name in PostedCall.__struct_fields__ if name in fields}
        return msgspec.json.decode(msgspec.json.encode(known), type=PostedCall, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"The body is not a valid call: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("The body is not JSON: send one JSON object.") from error


def measurements(call: PostedCall) -> RecordMetrics:
    """Return a call as measurements, which the daemon exposes with those of its own clients."""
    task = {"task": (call.task_type or DEFAULT_TASK)[:MAX_TASK_CHARACTERS]}
    success = {"success": "true" if call.success else "false"}
    seconds = None if call.latency_ms is None else call.latency_ms / 1000
    values: tuple[tuple[str, MetricKind, float | None, dict[str, str], str], ...] = (
        ("openpipe_calls", "counter", 1.0, task | success, "Calls that apps reported over HTTP."),
        ("openpipe_latency_seconds", "histogram", seconds, task, "Duration of calls that apps reported over HTTP."),
        ("openpipe_cost_dollars", "counter", call.cost, task, "Cost of calls that apps reported over HTTP."),
        (
            "openpipe_response_characters",
            "counter",
            call.response_length,
            task,
            "Length of answers that apps reported over HTTP.",
        ),
    )
    return RecordMetrics(
        metrics=tuple(
            Measurement(name=name, kind=kind, value=value, labels=labels, help=text)
            for name, kind, value, labels, text in values
            if value is not None
        ),
        acknowledge=True,
    )
