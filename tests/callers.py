"""A client of either kind, called by blocking, so that a test is written once for all of them."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from anyio.from_thread import BlockingPortal, start_blocking_portal

from sidecard_client import AsyncClient, Client, Outcome

KINDS = ["sync", "asyncio", "trio"]
"""The blocking client, and the asynchronous one on each event loop, whose calls a portal makes."""


class Caller:
    """A client of either kind, called by blocking."""

    def __init__(self, sidecard: Any, portal: BlockingPortal | None) -> None:
        self.sidecard = sidecard
        self.portal = portal

    def outcome(self, *args: Any, **kwargs: Any) -> Outcome[Any]:
        """Make a call."""
        outcome: Outcome[Any] = self.ask("outcome", *args, **kwargs)
        return outcome

    def ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call any method."""
        bound = partial(getattr(self.sidecard, method), *args, **kwargs)
        return bound() if self.portal is None else self.portal.call(bound)

    def begin(self, *args: Any, **kwargs: Any) -> "Future[Outcome[Any]]":
        """Start a call beside the test."""
        future: Future[Outcome[Any]] = Future()

        def run() -> None:
            try:
                future.set_result(self.outcome(*args, **kwargs))
            except Exception as error:  # noqa: BLE001 - it is the future's
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future


@contextmanager
def connecting(kind: str, socket_path: str) -> Iterator[Callable[..., Caller]]:
    """Make clients of one of `KINDS`: the function takes their arguments."""
    with ExitStack() as stack:

        def make(**arguments: Any) -> Caller:
            if kind == "sync":
                return Caller(stack.enter_context(Client(socket_path, **arguments)), None)

            backend, options = ("asyncio", {"use_uvloop": True}) if kind == "uvloop" else (kind, {})
            portal = stack.enter_context(start_blocking_portal(backend, options))
            sidecard = portal.call(partial(AsyncClient, socket_path, **arguments))
            return Caller(stack.enter_context(portal.wrap_async_context_manager(sidecard)), portal)

        yield make
