"""Which answers a caller accepts: young enough for its own limits, and valid by its ``valid=``. Pure but for that hook.

The daemon applies the limits too. A client checks what it gets once more: a daemon of an older version does not know all of them.
"""

from typing import Any

from sidecard_client.call.call import Call
from sidecard_client.call.options import Options
from sidecard_client.call.warn import of, warn


def bound_of(options: Options) -> float | None:
    """Return the age in seconds from which an answer is too old for a caller; None if it sets no limit."""
    ttl_seconds, max_age_seconds = options.ttl_seconds, options.max_age_seconds
    if ttl_seconds is None or max_age_seconds is None:
        return max_age_seconds if ttl_seconds is None else ttl_seconds

    return min(ttl_seconds, max_age_seconds)


def accepts(call: Call, value: Any, age_seconds: float, waited_seconds: float, *, stale: bool = False) -> bool:
    """Return whether an answer of another caller's call is one for this caller."""
    return accepts_age(call, age_seconds, waited_seconds, stale=stale) and is_valid(call, value)


def accepts_age(call: Call, age_seconds: float, waited_seconds: float, *, stale: bool = False) -> bool:
    """Return whether an answer is young enough. One that arrived while its caller waited always is."""
    if stale and call.renews:
        return False

    options = call.options
    bound = bound_of(options)
    if bound is None or age_seconds <= waited_seconds:
        return True

    return age_seconds < (bound + (options.stale_seconds or 0.0) if stale else bound)


def is_valid(call: Call, value: Any) -> bool:
    """Ask the ``valid`` hook. If it fails, warn: what it cannot judge is neither stored nor shared."""
    valid = call.options.valid
    if valid is None:
        return True

    try:
        return bool(valid(value))
    except Exception as error:  # noqa: BLE001 - the boundary to the user's hook
        problem = type(error).__name__

    function = call.functions[0]
    warn(
        f"{of('valid=', function)} failed ({problem}), so the answer is neither stored nor shared: return True or False for any value.",
        function,
    )
    return False
