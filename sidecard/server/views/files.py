"""Perform the engine's view effects: keep the files of all views, and send their descriptors to peers."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from sidecard.core.effects import OpenView, RetireView, SendView, ViewEffect
from sidecard.core.events import ViewFailed, ViewReleased
from sidecard.server.deliveries import ReplyWriter
from sidecard.server.scheduler import Schedulable
from sidecard.server.views.delivery import ViewDeliveries
from sidecard.server.views.file import ViewFile, reason_of
from sidecard.server.views.memory import ViewMemory
from sidecard_client.protocol import wire
from sidecard_client.protocol.view import header_for

if TYPE_CHECKING:
    import asyncio

RELEASE_SECONDS: Final = 0.25
"""Poll interval for the release of retired files: the kernel reports nothing when a process unmaps one."""

NewViewMemory = Callable[[OpenView], ViewMemory]


def new_view_memory(boot_id: str, effect: OpenView) -> ViewMemory:
    """Return the memory of a view of the run ``boot_id``. Raises `OSError`."""
    return ViewMemory(header_for(effect.view, effect.size, effect.slot_count, boot_id))


def no_memory(_: OpenView) -> ViewMemory:
    """Raise `OSError`: the memory of views in a server that shares none."""
    raise OSError("this server shares no memory")


class ViewFiles:
    """The files of all views.

    ``new_memory`` makes the memory of one view, and may raise `OSError`. ``writers`` returns a peer's writer. ``enqueue`` requests
    turns. ``handle`` gets the events of files, ``count`` the class of each reply.
    """

    def __init__(
        self,
        loop: "asyncio.AbstractEventLoop",
        clock: Callable[[], float],
        *,
        new_memory: NewViewMemory,
        writers: Callable[[int], ReplyWriter | None],
        enqueue: Callable[[Schedulable], None],
        handle: Callable[[ViewFailed | ViewReleased], None],
        count: Callable[[type[wire.AnyReply]], None],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._new_memory = new_memory
        self._enqueue = enqueue
        self._handle = handle
        self._files: dict[int, ViewFile] = {}
        self._erased: dict[int, ViewFile] = {}
        """Retired and erased files that a process may still have, by number."""
        self._poll: asyncio.TimerHandle | None = None
        self._deliveries = ViewDeliveries(
            loop, writers=writers, open_file=lambda view: self._files[view].open_reader(), count=count
        )

    def perform(self, effect: ViewEffect) -> None:
        """Perform an effect. Effects of a view without a file are ignored: `ViewFailed` is on its way."""
        if isinstance(effect, SendView):
            self._deliveries.send(effect)
        elif isinstance(effect, OpenView):
            self._open(effect)
        elif isinstance(effect, RetireView):
            file = self._files.pop(effect.view, None)
            if file is not None:
                file.retire()
                self._enqueue(file)
        else:
            file = self._files.get(effect.view)
            if file is not None:
                file.change(effect)

    def _open(self, effect: OpenView) -> None:
        number = effect.view

        def fail(error: OSError) -> None:
            self._files.pop(number, None)
            # After the event that opens the view, not within it.
            self._loop.call_soon(self._handle, ViewFailed(number, reason_of(error)))

        def await_release() -> None:
            self._erased[number] = file
            self._release()

        try:
            memory = self._new_memory(effect)
        except OSError as error:
            fail(error)
        else:
            file = self._files[number] = ViewFile(memory, self._clock, on_failed=fail, on_erased=await_release)
            self._enqueue(file)

    def _release(self) -> None:
        """Close the erased files that no process has any more; check the others again later."""
        if self._poll is not None:
            self._poll.cancel()

        released = [number for number, file in self._erased.items() if file.close_if_released()]
        for number in released:
            del self._erased[number]

        self._poll = self._loop.call_later(RELEASE_SECONDS, self._release) if self._erased else None
        for number in released:
            self._handle(ViewReleased(number))
