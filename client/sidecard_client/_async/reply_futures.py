"""Awaitable replies of the async client: one reply, or a queue of them, without a task or cancel scope per call."""

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol

import anyio

from sidecard_client.protocol.wire import AnyReply


class ReplyFuture(Protocol):
    """The last reply to a request, or None if none will arrive."""

    def done(self) -> bool:
        """Return whether the result is set, or the caller is being canceled."""

    def set_result(self, reply: AnyReply | None, /) -> None:
        """Wake the caller."""

    def __await__(self) -> Generator[Any, None, AnyReply | None]: ...


class EventReplyFuture:
    """A `ReplyFuture` for every event loop. On asyncio, `asyncio.Future` is used, which makes a hit a sixth cheaper."""

    __slots__ = ("_event", "_reply")

    def __init__(self) -> None:
        self._event = anyio.Event()
        self._reply: AnyReply | None = None

    def done(self) -> bool:
        """Return whether the result is set."""
        return self._event.is_set()

    def set_result(self, reply: AnyReply | None, /) -> None:
        """Wake the caller."""
        self._reply = reply
        self._event.set()

    def __await__(self) -> Generator[Any, None, AnyReply | None]:
        """Wait for the result."""
        yield from self._event.wait().__await__()
        return self._reply


class Inbox:
    """The replies to the requests of a batch, `Pending` included. ``open`` has the ids of those without a last reply."""

    __slots__ = ("_future", "_new_future", "_replies", "lost", "open")

    def __init__(self, new_future: Callable[[], ReplyFuture]) -> None:
        self.open: set[int] = set()
        self.lost = False
        """A request will get no reply."""
        self._replies: list[AnyReply] = []
        self._new_future = new_future
        self._future: ReplyFuture | None = None  # set while its reader waits

    def put(self, reply: AnyReply | None) -> None:
        """Add a reply, or None for one that will not arrive."""
        if reply is None:
            self.lost = True
        else:
            self._replies.append(reply)

        if self._future is not None and not self._future.done():
            self._future.set_result(reply)

    async def wait(self) -> None:
        """Wait until there is a reply, or none will arrive."""
        if not self._replies and not self.lost:
            self._future = self._new_future()
            try:
                await self._future
            finally:
                self._future = None

    def take(self) -> list[AnyReply]:
        """Return the replies that have arrived."""
        replies, self._replies = self._replies, []
        return replies


class ReplySlot:
    """The place of one request's reply in an inbox, used like a `ReplyFuture` that no caller awaits."""

    __slots__ = ("_request_id", "inbox")

    def __init__(self, inbox: Inbox, request_id: int) -> None:
        self.inbox = inbox
        self._request_id = request_id
        inbox.open.add(request_id)

    def done(self) -> bool:
        """Return whether the last reply has arrived."""
        return self._request_id not in self.inbox.open

    def set_result(self, reply: AnyReply | None, /) -> None:
        """Add the last reply."""
        self.inbox.open.discard(self._request_id)
        self.inbox.put(reply)


class ReplyCallback:
    """Calls ``function`` with a reply; used like a `ReplyFuture` that no caller awaits."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[[AnyReply | None], None]) -> None:
        self._function = function

    def done(self) -> bool:
        """Return False: the result is set once."""
        return False

    def set_result(self, reply: AnyReply | None, /) -> None:
        """Pass the reply on."""
        self._function(reply)


class ReplyQueue:
    """The replies to a request that has many: the chunks of a stream, and the reply that ends it."""

    __slots__ = ("_future", "_new_future", "_replies")

    def __init__(self, new_future: Callable[[], ReplyFuture]) -> None:
        self._replies: deque[AnyReply | None] = deque()
        self._new_future = new_future
        self._future: ReplyFuture | None = None  # set while its reader waits

    def put(self, reply: AnyReply | None) -> None:
        """Add a reply, or None if no more will arrive."""
        self._replies.append(reply)
        if self._future is not None and not self._future.done():
            self._future.set_result(reply)

    async def get(self) -> AnyReply | None:
        """Return the next reply."""
        if not self._replies:
            self._future = self._new_future()
            try:
                await self._future
            finally:
                self._future = None

        return self._replies.popleft()
