"""Which normal forms the daemon has for tasks, as a client that is to go by them was last told.

Keys are made in the client, so a client with ``normalize="task"`` must know the setting before it can begin. It asks by an
`wire.Explain` before its first call of a task, and again once what it knows is `KEEP_SECONDS` old. So after a reload two
clients may go by different settings for that long: they make different keys then, which costs sharing and no wrong answer.
Where the daemon cannot say, what it said last counts, and before it has said anything there is no normal form.
"""

from typing import Any, Final

from sidecard_client.keys.normal_form import NORMAL_FORMS, NormalForm, ordered
from sidecard_client.protocol import wire

KEEP_SECONDS: Final = 60.0
"""One further round trip a minute and task."""

MAX_TASKS: Final = 1024


class TaskForms:
    """What was told, by task. ``now`` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[tuple[NormalForm, ...], float]] = {}

    def current(self, task: str, now: float) -> tuple[NormalForm, ...] | None:
        """Return the forms of a task; None where the daemon is to be asked."""
        told = self._told.get(task)
        return None if told is None or now - told[1] >= KEEP_SECONDS else told[0]

    def last(self, task: str) -> tuple[NormalForm, ...]:
        """Return what was told last, however long ago."""
        told = self._told.get(task)
        return () if told is None else told[0]

    def learn(self, task: str, reply: Any, now: float) -> tuple[NormalForm, ...]:
        """Take the daemon's answer, and return what holds now. One that knows no `wire.Explain` has no normal forms."""
        said: Any = ()
        if isinstance(reply, wire.Explained):
            value = reply.policy.get("normalize")
            said = () if value is None else value.value

        forms = ordered(form for form in NORMAL_FORMS if form in said)
        if len(self._told) >= MAX_TASKS:
            self._told.clear()

        self._told[task] = forms, now
        return forms
