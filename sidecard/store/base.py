"""What the daemon needs of a store."""

from collections.abc import Callable
from typing import Protocol

from sidecard.core.effects import StoreEffect
from sidecard.core.events import StoreAnswered, StoreEvent

Tell = Callable[[StoreEvent], None]
"""Where a store's events go. To be called in the event loop's thread, and never from within `Store.perform`."""


class Store(Protocol):
    """A place that keeps entries. Whatever happens to it, the daemon serves on: nothing here raises, nothing here waits."""

    shared: bool
    """Whether other hosts use it too: then it grants claims, and has news."""

    def perform(self, effect: StoreEffect) -> StoreAnswered | None:
        """Begin to do what the engine wants, and return the answer where it is known at once.

        Every ticket is answered once, here or, within a bounded time, by a `StoreAnswered` that is told.
        """

    async def run(self, tell: Tell) -> None:
        """Do it, until cancelled. Where the store cannot be opened, this goes on trying."""

    async def close(self) -> None:
        """Write what is pending, within a bounded time, and let go. After `run` has ended."""
