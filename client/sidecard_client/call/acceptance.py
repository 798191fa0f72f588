"""Which answers a caller accepts: younger than its bound, and valid by its ``valid=``. Pure but for that hook.

The daemon applies the bound too. The client checks each answer once more, because an older daemon does not know ``max_age``.
"""

from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from sidecard_client.call.call import UNKEYED, Call, keyed
from sidecard_client.call.option_checks import MAX_SECONDS
from sidecard_client.call.warn import agrees
from sidecard_client.protocol.values import bound_of


def accepts(call: Call, value: Any, age_seconds: float, waited_seconds: float, *, stale: bool = False) -> bool:
    """Return whether this caller accepts the answer of another caller's call."""
    return accepts_age(call, age_seconds, waited_seconds, stale=stale) and is_valid(call, value)


def accepts_age(call: Call, age_seconds: float, waited_seconds: float, *, stale: bool = False) -> bool:
    """Return whether an answer is within the bound. An answer that arrived while its caller waited always is."""
    if stale and call.renews:
        return False

    options = call.options
    bound = bound_of(options)
    if bound is None or age_seconds <= waited_seconds:
        return True

    return age_seconds < (bound + (options.stale_seconds or 0.0) if stale else bound)


def is_valid(call: Call, value: Any) -> bool:
    """Ask the ``valid`` hook. If the hook fails, warn and return False: the answer is neither stored nor shared."""
    valid = call.options.valid
    return valid is None or agrees("valid=", valid, value, call.functions[0], "neither stored nor shared")


# What is asked for instead of it ----------------------------------------------------------------------------------------------


def refreshed(call: Call) -> Call:
    """Return the call with ``mode="refresh"``: stored answers are ignored."""
    options = replace(call.options, mode="refresh")
    return replace(call, options=options, refreshes=call.refreshes + 1)


def newer(call: Call, age_seconds: float) -> Call:
    """Return the call that asks for an answer newer than one of that age, even if another caller has made it."""
    options = call.options
    max_age_seconds = min(age_seconds, MAX_SECONDS if options.max_age_seconds is None else options.max_age_seconds)
    options = replace(options, max_age_seconds=max_age_seconds)
    return replace(call, options=options, renews=True, refreshes=call.refreshes + 1)


def renewed(call: Call, age_seconds: float) -> Call:
    """Return the call that its caller makes again later, for an answer that is `newer` than one of that age.

    The answer to a similar request is not accepted. The key is computed again: the arguments may have changed.
    """
    call = newer(call, age_seconds)
    call.similar, call.refreshes = None, 0
    options = call.options
    if options.mode == "refresh":
        options = call.options = replace(options, mode="use")

    if options.key is UNSET and call.key is not None:
        call.key = UNKEYED
        return call if isinstance(options.normalize, str) else keyed(call, options.normalize)

    return call
