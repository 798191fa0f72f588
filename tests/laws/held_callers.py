"""Which callers may wait beside a backend that is free: those whose prompt shares a prefix with a call in progress there.

A second, simplest implementation of the bound, from the documentation: it keeps neither queues nor prompts that are processed. It
says when a caller must not wait, and not when it must.
"""

from sidecard.core.settings import BackendSettings
from tests.laws.observed import Asked, Held, Who

_HOLD_SECONDS = {"slots": 30.0, "provider": 10.0}


class HeldCallers:
    """What decides how long callers may be held."""

    def __init__(self) -> None:
        self.with_output: set[str] = set()
        """Leases whose call has had an output."""
        self._since: dict[Who, float] = {}
        """By caller: since when it has had to wait for a prompt, at whichever backend."""

    def may_wait(
        self, asked: Asked, name: str, settings: BackendSettings, held: dict[str, Held], now: float, *, starts: bool
    ) -> bool:
        """Return whether a caller may wait for a prompt at a backend.

        With ``starts``, it does although the backend would take its call, so its time begins, unless it has begun already.
        """
        if settings.prefix_affinity == "off" or not any(
            one.backend == name
            and (settings.prefix_affinity == "slots" or lease not in self.with_output)
            and _scope(one.asked) == _scope(asked)
            and set(one.begin.prefix) & set(asked.begin.prefix)
            for lease, one in held.items()
        ):
            return False

        who = asked.peer.id, asked.reply_id
        since = self._since.setdefault(who, now) if starts else self._since.get(who, now)
        hold_seconds = settings.prefix_hold_seconds
        if hold_seconds is None:
            hold_seconds = _HOLD_SECONDS[settings.prefix_affinity]

        return now - since < min(hold_seconds, (asked.deadline - since) / 2)


def _scope(asked: Asked) -> str:
    """Return whose prompts a caller may wait for; trials of backends have no shared namespaces."""
    return f"{asked.peer.uid}:{asked.begin.namespace}"
