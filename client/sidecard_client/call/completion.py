"""What a holder reports of its value: packed value, usage, and whether it may be stored. Pure but for the user's hooks.

A failing hook costs a warning, never the call: the value is on its way to its caller and to all waiters.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Raw

from sidecard_client.call.call import Call
from sidecard_client.call.determinism import asks_for_one_answer
from sidecard_client.call.failures import message_of
from sidecard_client.call.keying import held_by
from sidecard_client.call.options import Options
from sidecard_client.call.transcript import MAX_TRANSCRIPT_BYTES, transcript_of
from sidecard_client.call.usage import read_usage
from sidecard_client.call.warn import agrees, name_of_function, place_of, warn_once
from sidecard_client.keys.identity import identity_of
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import UnkeyableRequest, UnshareableValue
from sidecard_client.values.codec import problem_of_annotation
from sidecard_client.values.packing import pack_value

MAX_VALUE_BYTES = wire.MAX_FRAME_BYTES - 64 * 1024
"""Maximum size of a packed value that is sent; the rest of the frame holds lease, usage and tags.
A transcript is sent with values that leave room for it: all but those within 2 MiB of this."""


def complete_or_refuse(
    call: Call, lease: wire.Lease, value: Any, *, valid: bool = True
) -> tuple[wire.Complete | wire.Fail, str | None]:
    """Build the report of ``value``; also return why it cannot be shared, or None."""
    if not valid:
        return reject(call, lease.lease, value), None

    try:
        return complete(call, lease, value), None
    except UnshareableValue as error:
        return refuse_to_share(call, lease.lease, value, error), reason_of(call, error)


def complete(call: Call, lease: wire.Lease, value: Any) -> wire.Complete:
    """Build the message that sends ``value`` to the daemon. Raises `UnshareableValue`."""
    packed = pack_value(value, call.codec)
    if len(packed) > MAX_VALUE_BYTES:
        raise UnshareableValue(f"The value is too large to be shared: {len(packed)} bytes, at most {MAX_VALUE_BYTES}.")

    return complete_packed(call, lease, Raw(packed), value)


def complete_packed(call: Call, lease: wire.Lease, packed: Raw, value: Any) -> wire.Complete:
    """Build the message that sends ``packed``; the hooks receive ``value``."""
    options = call.options
    if call.held is not None:
        _warn_of_changes(call, call.held)

    store = may_be_stored(options, value, call.functions[0])
    logged = lease.log and len(memoryview(packed)) <= MAX_VALUE_BYTES - 2 * MAX_TRANSCRIPT_BYTES
    return wire.Complete(
        lease=lease.lease,
        value=packed,
        usage=None if options.usage is None and call.span is None else usage_of(call, value),
        ttl_seconds=options.ttl_seconds,
        store=store,
        tags=options.tags,
        deterministic=asks_for_one_answer(call.args, call.kwargs, said=options.deterministic),
        spoken=transcript_of(options, call.args, call.kwargs, value, call.functions[0]) if logged else None,
        not_stored="" if store or options.not_stored is None else options.not_stored(),
    )


def refuse_to_share(call: Call, lease: str, value: Any, error: UnshareableValue) -> wire.Fail:
    """Build the message for a value that only its own caller gets: waiters make their own calls.

    The backend has answered nevertheless, which its breaker and the ledger must know.
    """
    return wire.Fail(
        lease=lease,
        kind="ignored",
        message=message_of(error),
        answered=True,
        usage=usage_of(call, value),
        not_stored="unshareable",
    )


def reject(call: Call, lease: str, value: Any) -> wire.Fail:
    """Build the message for a value that its own caller finds invalid: the next waiter makes the call.

    A daemon of an older version lets all waiters make their own calls.
    """
    message = "the caller's valid= rejects the answer"
    return wire.Fail(
        lease=lease,
        kind="ignored",
        message=message,
        answered=True,
        invalid=True,
        usage=usage_of(call, value),
        not_stored="invalid",
    )


def reason_of(call: Call, error: UnshareableValue) -> str:
    """Return why a value is not shared; also why the function's annotation does not help, if that is so."""
    if call.codec is not None or call.options.returns is None:
        return str(error)

    problem = problem_of_annotation(call.functions[0], "piece" if call.stream else "whole")
    return str(error) if problem is None else f"{error} The function's annotation is not used: {problem}."


def warn_unshareable(function: Callable[..., Any], reason: object) -> None:
    """Warn once per function that its values are returned, but neither stored nor shared."""
    warn_once(f"unshareable {place_of(function)}", f"{name_of_function(function)}: {reason}", function)


def _warn_of_changes(call: Call, before: Mapping[str, Any]) -> None:
    """Warn once per function that a call changes what its function holds: the next one has another key."""
    function = call.functions[0]
    try:
        after = held_by(function, identity_of(function), call.options) or {}
    except UnkeyableRequest:
        after = {}

    changed = next((name for name in [*before, *after] if before.get(name) != after.get(name)), None)
    if changed is not None:
        warn_once(
            f"changed {place_of(function)}",
            f"{name_of_function(function)}: {changed!r} is part of its key and changes during the call, so the next call does not share "
            "its answer. Pass name=: then what the function holds is no part of the key.",
            function,
        )


def usage_of(call: Call, value: Any) -> wire.Usage | None:
    """Return the usage of a call that was made, and record it in the call's span."""
    usage = read_usage(call.options, value, call.functions[0])
    if call.span is not None:
        call.span.set_usage(usage)

    return usage


def may_be_stored(options: Options, value: Any, function: Callable[..., Any] | None = None) -> bool:
    """Ask the ``store`` hook. If it fails, warn and do not store."""
    return options.store is None or agrees("store=", options.store, value, function, "not stored")
