"""What ``POST /v1/metrics`` takes: one call that an app has made by itself, in the words of the blueprint's client."""

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sidecard_client.protocol.wire import DEFAULT_TASK, Measurement, RecordMetrics

MAX_BODY_BYTES = 64 * 1024
"""The blueprint's client cuts prompts at 1,000 characters, so that a body of its has at most some 12 KB."""

MAX_TASK_CHARACTERS = 128
"""As the protocol's names; what is longer is cut."""

Amount = Annotated[float, Meta(ge=0, le=1e12)]


class PostedCall(Struct, frozen=True):
    """One call. Every field may be left out; numbers may be written as text; unknown fields are ignored.

    There is no field for the prompt, nor for the client's ``timestamp``, which is of its own monotonic clock:
    what is not decoded cannot be kept.
    """

    task_type: str | None = None
    success: bool = True
    latency_ms: Amount | None = None
    response_length: Amount | None = None
    """In characters."""
    cost: Amount | None = None
    """In dollars."""


def parse(body: bytes) -> PostedCall:
    """Return what a body says. Raises `ValueError` with a sentence that does not repeat the body."""
    try:
        return msgspec.json.decode(body, type=PostedCall, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"The body is not a call as /v1/metrics takes it: {error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError("The body is not JSON: send one JSON object.") from error


def measurements(call: PostedCall) -> RecordMetrics:
    """Return a call as measurements, which the daemon exposes with those of its own clients."""
    task = {"task": (call.task_type or DEFAULT_TASK)[:MAX_TASK_CHARACTERS]}
    counted = {**task, "success": "true" if call.success else "false"}
    metrics = [
        Measurement(name="openpipe_calls", kind="counter", labels=counted, help="Calls that apps reported over HTTP.")
    ]
    if call.latency_ms is not None:
        metrics.append(
            Measurement(
                name="openpipe_latency_seconds",
                kind="histogram",
                value=call.latency_ms / 1000,
                labels=task,
                help="How long the calls took that apps reported over HTTP.",
            )
        )

    if call.cost is not None:
        metrics.append(
            Measurement(
                name="openpipe_cost_dollars",
                kind="counter",
                value=call.cost,
                labels=task,
                help="What the calls cost that apps reported over HTTP.",
            )
        )

    if call.response_length is not None:
        metrics.append(
            Measurement(
                name="openpipe_response_characters",
                kind="counter",
                value=call.response_length,
                labels=task,
                help="How long the answers were that apps reported over HTTP.",
            )
        )

    return RecordMetrics(metrics=tuple(metrics), acknowledge=True)
