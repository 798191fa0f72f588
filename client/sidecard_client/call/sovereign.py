"""Sovereign mode of the client: which backends may be called while no daemon decides.

The daemon knows the backends' localities. Without it, or for an unleased call, every backend may be remote except those
that `wire.is_local` names: a name that cannot be looked up proves nothing.
"""

import warnings
from collections.abc import Mapping

from sidecard_client.protocol.errors import SidecardWarning

VARIABLES = ("SIDECARD_SOVEREIGN_ENABLED", "SOVEREIGN_MODE")
"""The daemon's own; the first non-empty one counts."""

WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
"""Words for flags, as the daemon reads them."""


def sovereign_by(environ: Mapping[str, str]) -> bool:
    """Return whether the environment turns sovereign mode on.

    An unknown word counts as on, with a warning: the daemon refuses to start with it, and a misspelling must not let
    calls leave the host.
    """
    for variable in VARIABLES:
        text = environ.get(variable)
        if text:
            flag = WORDS.get(text.strip().lower())
            if flag is None:
                words = ", ".join(WORDS)
                message = f"{variable} is {text!r}, which counts as true here; it should be one of {words}."
                warnings.warn(message, SidecardWarning, stacklevel=3)

            return flag is not False

    return False
