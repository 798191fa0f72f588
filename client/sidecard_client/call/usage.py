"""Read the usage that the app's ``usage=`` hook returns, in any of the spellings of `sidecard_client.protocol.usage`."""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from sidecard_client.call.options import Options
from sidecard_client.call.warn import of, warn, warn_once
from sidecard_client.protocol import wire
from sidecard_client.protocol.usage import Counts, counts_of, field_of, fields_of, known_fields

_WITHIN_ANSWERS: Final = ("usage", "usage_metadata", "usageMetadata")
"""Where the answers of SDKs have their usage."""


def read_usage(options: Options, value: Any, function: Callable[..., Any] | None = None) -> wire.Usage | None:
    """Ask the ``usage`` hook. If it fails, warn and return None: the value must not be lost with its price.

    ``function`` made the call; warnings name it. Fields without a meaning cost one warning each, and are left out.
    """
    if options.usage is None:
        return None

    counts = usage = None
    try:
        reported = options.usage(value)
        if reported is not None:
            counts = _counts_of(reported)
            fields = ({"model": options.model} if options.model else {}) | counts.fields
            usage = msgspec.convert(fields, wire.Usage)
            wire.pack(usage)  # text without a UTF-8 form fails here, and not on the way to the daemon

        problem = "" if counts is None else "; ".join(counts.invalid)
    except msgspec.ValidationError as error:
        problem = str(error)
    except Exception as error:  # noqa: BLE001 - the boundary to the user's hook
        problem = type(error).__name__

    if problem:
        warn(
            f"{of('usage=', function)} failed, so the call is booked without its cost ({problem}): return a Usage, a dict of "
            "its fields, a usage of an SDK, or None.",
            function,
        )
        return None

    if counts is None:
        return None

    for name in counts.unknown:
        warn_once(
            f"usage field {name}",
            f"{of('usage=', function)} returned {name!r}, which is not a known field and is ignored: use one of "
            f"{known_fields()}.",
            function,
        )

    for contradiction in counts.contradictions:
        warn(
            f"{of('usage=', function)} contradicts itself: {contradiction}. The larger one counts: return one of them.",
            function,
        )

    return usage


def _counts_of(reported: object) -> Counts:
    """Return the counts of a usage, or of an answer that has one. Raises `TypeError` for anything else."""
    within = next((usage for name in _WITHIN_ANSWERS if (usage := field_of(reported, name)) is not None), None)
    fields = dict(fields_of(reported if within is None else within))
    model = field_of(reported, "model")
    if within is not None and isinstance(model, str):
        fields.setdefault("model", model)

    timings = None if within is None else field_of(reported, "timings")
    if isinstance(timings, dict):
        fields.setdefault("timings", timings)  # llama.cpp's

    if not fields and not hasattr(reported, "keys"):
        raise TypeError(f"a {type(reported).__qualname__} has none of the fields")

    return counts_of(fields)
