"""Sovereign mode of the client: which backends may be called without a daemon's lease.

With a daemon, the daemon decides: it knows which backends are local. Without one, only the backends that `wire.is_local`
accepts count as local; any other name proves nothing.
"""

from collections.abc import Mapping

from sidecard_client.call.warn import warn

VARIABLES = ("SIDECARD_SOVEREIGN_ENABLED", "SOVEREIGN_MODE")
"""The daemon's variables; the first non-empty one counts."""

WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
"""Values of flags, as the daemon reads them."""


def sovereign_by(environ: Mapping[str, str]) -> bool:
    """Return whether the environment turns sovereign mode on.

    An unknown word counts as on, with a warning: a misspelling must not let calls leave the host. The daemon does not
    start with it.
    """
    for variable in VARIABLES:
        text = environ.get(variable)
        if text:
            flag = WORDS.get(text.strip().lower())
            if flag is None:
                words = ", ".join(WORDS)
                message = f"{variable} is {text!r}, which counts as true; set it to one of {words}."
                warn(message)

            return flag is not False

    return False
