"""The daemon's normal forms for tasks, for clients with ``normalize="task"``. Pure.

Clients make the keys, so such a client must know the setting before it sends a begin. It asks by `wire.Explain` before its
first call of a task, and again after `KEEP_SECONDS`. For that long after a reload, two clients may use different settings:
their keys then differ, which costs sharing but never gives a wrong answer. If the daemon cannot be asked, the client uses
its last reply, and before any reply no normal form.
"""

from typing import Any, Final

from sidecard_client.keys.normal_form import NORMAL_FORMS, NormalForm, ordered
from sidecard_client.protocol import wire

KEEP_SECONDS: Final = 60.0
"""The cost is one more round trip per minute and task."""

MAX_TASKS: Final = 1024


class TaskForms:
    """The daemon's replies, by task. ``now`` is in monotonic seconds."""

    def __init__(self) -> None:
        self._reported: dict[str, tuple[tuple[NormalForm, ...], float]] = {}

    def current(self, task: str, now: float) -> tuple[NormalForm, ...] | None:
        """Return the forms of a task; None if the daemon must be asked."""
        reported = self._reported.get(task)
        return None if reported is None or now - reported[1] >= KEEP_SECONDS else reported[0]

    def last(self, task: str) -> tuple[NormalForm, ...]:
        """Return the last reported forms, however old."""
        reported = self._reported.get(task)
        return () if reported is None else reported[0]

    def learn(self, task: str, reply: Any, now: float) -> tuple[NormalForm, ...]:
        """Record the daemon's reply and return its forms. A daemon without `wire.Explain` has none."""
        names: Any = ()
        if isinstance(reply, wire.Explained):
            value = reply.policy.get("normalize")
            names = () if value is None else value.value

        forms = ordered(form for form in NORMAL_FORMS if form in names)
        if len(self._reported) >= MAX_TASKS:
            self._reported.clear()

        self._reported[task] = forms, now
        return forms
