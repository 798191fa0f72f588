"""What was stored, as events and replies show it, and which of it may be served."""

from collections.abc import Callable
from dataclasses import dataclass

from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.records import Place, stale_seconds_of, ttl_seconds_of

_REMEMBERED = 8
"""Answers per key."""


@dataclass(eq=False)
class Kept:
    """A stored answer."""

    value: bytes
    tags: tuple[str, ...]
    stored_at: float
    ttl_seconds: float
    stale_seconds: float
    window_seconds: float
    servable: bool = True


class StoredAnswers:
    """The latest stored answers of each key."""

    def __init__(self) -> None:
        self._kept: dict[Place, list[Kept]] = {}

    def keep(
        self,
        settings: EngineSettings,
        place: Place,
        value: bytes,
        request: wire.Complete | wire.Put,
        begin: wire.Begin | None,
        now: float,
    ) -> None:
        """Remember an answer of a begin's call, or one that was put."""
        asked_ttl, asked_stale = (None, None) if begin is None else (begin.ttl_seconds, begin.stale_seconds)
        task = wire.DEFAULT_TASK if begin is None else begin.task
        kept = self._kept.setdefault(place, [])
        kept.append(
            Kept(
                value,
                request.tags,
                now,
                ttl_seconds_of(settings, task, request.ttl_seconds, asked_ttl),
                stale_seconds_of(settings, task, asked_stale),
                0.0 if begin is None else settings.sharing_window_seconds,
            )
        )
        del kept[:-_REMEMBERED]

    def drop(self, place: Place) -> None:
        """Forget a key whose newer answer was not stored."""
        self._kept.pop(place, None)

    def remove(self, reaches: Callable[[Place], bool], tag: str | None) -> None:
        """Forbid the answers that a delete or a purge removes."""
        for place, kept in self._kept.items():
            if reaches(place):
                for one in kept:
                    one.servable &= tag is not None and tag not in one.tags

    def check(self, place: Place, reply: wire.Hit | wire.Shared, now: float) -> None:
        """Check that a served answer is the one stored last under its key, in its time, and not removed since."""
        kept = [one for one in self._kept.get(place, ()) if one.value == bytes(reply.value)]
        assert kept, "an answer was served that was never stored there"
        last = kept[-1]
        assert last.servable, "an answer was served that was removed"
        assert last is self._kept[place][-1], "an answer was served though a newer one was stored"
        age_seconds = now - last.stored_at
        if isinstance(reply, wire.Shared):
            limit_seconds = last.window_seconds
        else:
            limit_seconds = last.ttl_seconds + (last.stale_seconds if reply.stale else 0.0)

        assert age_seconds <= limit_seconds, f"an answer was served that is {age_seconds} s old"
