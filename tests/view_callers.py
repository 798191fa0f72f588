"""What tests of views ask of a client: whether it holds a view, and what that has."""

import math
from typing import Any

from sidecard_client.view.attachment import Attachment
from tests.callers import Caller
from tests.daemons import ask, poll


def view_of(sidecard: Any, namespace: str = "default") -> Attachment | None:
    """Return the view of a namespace that a client holds."""
    held: Attachment | None = sidecard._connector.views.attached.get(namespace)
    return held


def is_published(sidecard: Any, key: str, namespace: str = "default") -> bool:
    """Return whether a client would read a key from a view. Counts no hit."""
    held = view_of(sidecard, namespace)
    return held is not None and held.reader.read(key, None, None, lambda _: None) is not None


def is_armed(sidecard: Any, namespace: str = "default") -> bool:
    """Return whether a client has hits to report."""
    held = view_of(sidecard, namespace)
    return held is not None and held.armed


def ask_again(sidecard: Any, namespace: str = "default") -> None:
    """Let the next hit over the socket ask for a view, even if the daemon did not answer in time when the last one did."""
    views = sidecard._connector.views
    if math.isfinite(views.ask_at.get(namespace, math.inf)):  # infinite while a view is attached or asked for
        views.ask_at[namespace] = 0.0


def publish(caller: Caller, *keys: str, **policy: Any) -> None:
    """Call until the answers, which are the keys, are in the client's view, and all hits so far are reported."""

    def all_published() -> bool:
        ask_again(caller.sidecard)
        for key in keys:
            if not is_published(caller.sidecard, key):
                caller.outcome(str.upper, key, name="shout", key=key, **policy)

        return all(is_published(caller.sidecard, key) for key in keys)

    def all_reported() -> bool:
        held = view_of(caller.sidecard)
        return held is None or held.report()

    poll(all_published, "the answers are not published")
    # 1. A key is not in a view. 2. The view is attached. 3. The call for the key is a hit of that view.
    poll(all_reported, "hits are not reported")


def counted(path: str, *names: str) -> tuple[Any, ...]:
    """Return counters of the daemon."""
    stats = ask(path, {"op": "stats"})
    return tuple(stats[name] for name in names)
