"""Sovereign mode in the client: which backends may be called where no daemon decides.

With a daemon the daemon decides, who knows the backends' localities.
Without one, or on the caller's own account, every backend may be remote but those that `wire.is_local` names:
a name that nobody can look up is no proof.
"""

import warnings
from collections.abc import Mapping

from sidecard_client.protocol.errors import SidecardWarning

VARIABLES = ("SIDECARD_SOVEREIGN_ENABLED", "SOVEREIGN_MODE")
"""The daemon's own, of which the first that is not empty counts."""

WORDS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
"""Words for flags, which the daemon reads too."""


def sovereign_by(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment switches sovereign mode on.

    A word that means neither counts as on, with a warning: the daemon refuses to start with it,
    and whoever wrote it must not have calls leave the host by a slip of the pen.
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
