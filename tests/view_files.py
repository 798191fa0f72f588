"""The files of views, in plain memory: what the server does with the engine's effects, and what readers find there."""

from collections.abc import Collection
from typing import Any, NamedTuple

from sidecard.core.effects import (
    OpenView,
    Publish,
    RetireView,
    SendView,
    ViewEffect,
    Withdraw,
    WithdrawAll,
)
from sidecard.core.events import ViewReleased
from sidecard_client.protocol import wire
from sidecard_client.protocol.view import (
    GENERATION_AT,
    RETIRED,
    Slot,
    Store,
    decode_slot,
    encode_header,
    header_for,
    publish_stores,
    slot_offset,
    withdraw_stores,
)
from tests.host import Actor, Host
from tests.plain_view import PlainView

BOOT_ID = "0123456789abcdef"


class ViewFiles:
    """The files of all views that a host's engine has opened. `perform` brings them up to date."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.memory: dict[int, bytearray] = {}
        """By number of the view, retired ones included."""
        self.sizes: dict[int, int] = {}
        """Of the files that a process has."""
        self.retired: set[int] = set()
        self.effects: list[ViewEffect] = []
        """All that were performed."""

    def perform(self) -> list[ViewEffect]:
        """Perform the effects since the last time, and return them. `SendView` delivers the reply."""
        effects, self.host.view_effects = self.host.view_effects, []
        for effect in effects:
            self._perform(effect)

        self.effects += effects
        return effects

    def _perform(self, effect: ViewEffect) -> None:
        match effect:
            case OpenView(view, size, slot_count):
                assert view not in self.memory
                self.sizes[view] = size
                self.memory[view] = bytearray(size)
                self.memory[view][: len(self.header(view, size, slot_count))] = self.header(view, size, slot_count)
            case SendView(peer_id, reply, view):
                assert view in self.memory
                if peer_id in self.host.actors:
                    self.host.actors[peer_id].inbox.append(reply)
            case Publish(view, slot, digest, offset, expires_at, generation, record):
                self._store(
                    view,
                    publish_stores(
                        slot, self.slot(view, slot).sequence, digest, offset, expires_at, generation, record
                    ),
                )
            case Withdraw(view, slots):
                assert len(set(slots)) == len(slots)
                for slot in slots:
                    assert self.slot(view, slot).length, "only what is published is withdrawn"
                    self._store(view, withdraw_stores(slot, self.slot(view, slot).sequence))
            case WithdrawAll(view, generation):
                assert generation == self.generation(view) + 1
                self._store(view, [(GENERATION_AT, generation)])
            case RetireView(view):
                self._store(view, [(GENERATION_AT, RETIRED)])
                self.retired.add(view)

    def release_retired(self, held: Collection[int] = ()) -> None:
        """Let no process have the retired files any more, but for those that are ``held``."""
        for view in self.retired & self.sizes.keys() - set(held):
            del self.sizes[view]
            self.host.happens(ViewReleased(view))

    def generation(self, view: int) -> int:
        """Return a view's generation."""
        return int.from_bytes(self.memory[view][GENERATION_AT : GENERATION_AT + 8], "little")

    def slot(self, view: int, slot: int) -> Slot:
        """Return a slot of a view."""
        return decode_slot(self.memory[view], slot_offset(slot))

    def read(self, view: int, key: str, task: str | None = None) -> dict[str, Any] | str:
        """Read as a client does; return a record's fields, or why the socket must answer."""
        if view in self.retired:
            return "retired"

        return PlainView(self.memory[view]).read(key, self.host.now, task)

    def _store(self, view: int, stores: "tuple[Store, ...] | list[Store]") -> None:
        assert view not in self.retired, "a retired view is never written again"
        for offset, data in stores:
            content = data.to_bytes(8, "little") if isinstance(data, int) else data
            assert offset + len(content) <= len(self.memory[view])
            self.memory[view][offset : offset + len(content)] = content

    @staticmethod
    def header(view: int, size: int, slot_count: int) -> bytes:
        """Return the header of a new view."""
        return encode_header(header_for(view, size, slot_count, BOOT_ID))


class Reader(NamedTuple):
    """A peer that has received a view."""

    files: ViewFiles
    actor: Actor
    namespace: str
    reply: wire.View

    def finds(self, key: str, task: str | None = "general") -> dict[str, Any] | str:
        """Read a key; return its record, or why the socket must answer."""
        self.files.perform()
        return self.files.read(self.reply.view, key, task)

    def reports(self, *hits: wire.HitItem, **fields: Any) -> None:
        """Report hits."""
        self.actor.asks(wire.RecordHits(id=901, namespace=self.namespace, hits=hits, **fields))


def reader_of(files: ViewFiles, actor: Actor, namespace: str = "default") -> Reader:
    """Let a peer ask for a view, and expect that it receives one."""
    actor.asks(wire.GetView(id=900, namespace=namespace))
    files.perform()
    return Reader(files, actor, namespace, actor.gets(wire.View))
