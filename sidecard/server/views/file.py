"""One view through its life: allocated in turns, changed, erased in turns."""

import errno
from collections.abc import Callable, Iterator
from typing import Final

from sidecard.core.effects import Publish, Withdraw, WithdrawAll
from sidecard.server.scheduler import TURN_SECONDS
from sidecard.server.views.memory import ViewMemory
from sidecard_client.protocol import view
from sidecard_client.protocol.view import Store

ViewChange = Publish | Withdraw | WithdrawAll

_ADVICE: Final = {
    errno.ENOMEM: "lower cache.view_bytes, or raise the memory limit of the daemon",
    errno.ENOSPC: "lower cache.view_bytes, or raise the memory limit of the daemon",
    errno.EFBIG: "lower cache.view_bytes, or raise the limit on the size of files (LimitFSIZE=, ulimit -f)",
    errno.EMFILE: "raise the limit on open files (LimitNOFILE=, ulimit -n)",
}
_OTHER_ADVICE: Final = "views need Linux 5.3 and memfd_create(2), which a system call filter may forbid; cache.view_bytes = 0 disables them"


class ViewFile:
    """A view's memory and its pending work. Calls ``on_failed`` if there is no memory, ``on_erased`` at the end."""

    def __init__(
        self,
        memory: ViewMemory,
        clock: Callable[[], float],
        *,
        on_failed: Callable[[OSError], None],
        on_erased: Callable[[], None],
    ) -> None:
        self._memory = memory
        self._clock = clock
        self._on_failed = on_failed
        self._on_erased = on_erased
        self._work: Iterator[None] = memory.allocate()
        self._changes: list[ViewChange] = []
        """The changes that were made before the memory was allocated."""
        self._ready = False
        self._retired = False

    def change(self, change: ViewChange) -> None:
        """Make a change, or keep it until the memory is allocated."""
        if self._ready:
            self._make(change)
        else:
            self._changes.append(change)

    def open_reader(self) -> int | None:
        """Return a new descriptor for a peer, to be closed once it is passed; None during allocation. Raises `OSError`."""
        return self._memory.open_reader() if self._ready else None

    def retire(self) -> None:
        """Withdraw everything now. The caller requests turns, in which the memory is erased."""
        self._retired = True
        if self._ready:
            self._memory.store(((view.GENERATION_AT, view.RETIRED),))
            self._work = self._memory.erase()
        else:
            # No peer has received it.
            self._work = iter(())

    def close_if_released(self) -> bool:
        """Close an erased file, unless a process may still have it. Return whether it is closed."""
        if self._memory.is_held():
            return False

        self._memory.close()
        return True

    def serve_turn(self) -> bool:
        """Allocate or erase for one turn. Return whether more is to be done."""
        until = self._clock() + TURN_SECONDS
        try:
            for _ in self._work:
                if self._clock() > until:
                    return True
        except OSError as error:
            self._memory.close()
            self._on_failed(error)
            return False

        if self._retired:
            self._on_erased()
        else:
            self._ready = True
            for change in self._changes:
                self._make(change)

            self._changes.clear()

        return False

    def _make(self, change: ViewChange) -> None:
        memory = self._memory
        if isinstance(change, Publish):
            memory.store(self._published(change))
        elif isinstance(change, Withdraw):
            for slot in change.slots:
                memory.store(view.withdraw_stores(slot, memory.word(view.slot_offset(slot))))
        else:
            memory.store(((view.GENERATION_AT, change.generation),))

    def _published(self, publish: Publish) -> tuple[Store, ...]:
        sequence = self._memory.word(view.slot_offset(publish.slot))
        return view.publish_stores(
            publish.slot,
            sequence,
            publish.digest,
            publish.offset,
            publish.expires_at,
            publish.generation,
            publish.record,
        )


def reason_of(error: OSError) -> str:
    """Return why a view's memory cannot be allocated, and what to change."""
    return f"the memory file cannot be made: {error.strerror or error}: {_ADVICE.get(error.errno or 0, _OTHER_ADVICE)}"
