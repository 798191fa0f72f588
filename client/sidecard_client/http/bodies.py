"""Streamed response bodies for httpx and httpx2, whose clients insist on their own base classes."""

from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sidecard_client.http.interception import IncompleteAnswer, InterceptedCall
from sidecard_client.http.translation import broken_stream
from sidecard_client.protocol.errors import CallFailed, CallTimeout

if TYPE_CHECKING:
    from sidecard_client._async.streams import AsyncStream
    from sidecard_client._sync.streams import Stream


def drain(pieces: "Stream[Any]") -> None:
    """Read an answer to its end after all that has a meaning: OpenAI's SDK closes at ``[DONE]``.

    Closed at that point, the stream would count as a call that its caller gave up.
    """
    with suppress(Exception):
        for _ in pieces:
            pass


async def adrain(pieces: "AsyncStream[Any]") -> None:
    """Do as `drain` does."""
    with suppress(Exception):
        async for _ in pieces:
            pass


@cache
def body_class(library: ModuleType) -> type:
    """Return the class of the library's synchronous bodies: ``(call, pieces)``."""

    class Body(library.SyncByteStream):  # type: ignore[name-defined,misc]  # the library is known at run time only
        def __init__(self, call: InterceptedCall, pieces: "Stream[Any]") -> None:
            self._call = call
            self._pieces = pieces

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield from self._pieces
            except IncompleteAnswer:
                return  # its own caller received all there was, and its SDK judges that
            except (CallFailed, CallTimeout) as error:
                raise broken_stream(error, self._call.request) from None

        def close(self) -> None:
            if self._call.is_over:
                drain(self._pieces)

            self._pieces.close()

    return Body


@cache
def async_body_class(library: ModuleType) -> type:
    """Return the class of the library's asynchronous bodies: ``(call, pieces)``."""

    class AsyncBody(library.AsyncByteStream):  # type: ignore[name-defined,misc]  # as above
        def __init__(self, call: InterceptedCall, pieces: "AsyncStream[Any]") -> None:
            self._call = call
            self._pieces = pieces

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for piece in self._pieces:
                    yield piece
            except IncompleteAnswer:
                return
            except (CallFailed, CallTimeout) as error:
                raise broken_stream(error, self._call.request) from None

        async def aclose(self) -> None:
            if self._call.is_over:
                await adrain(self._pieces)

            await self._pieces.aclose()

    return AsyncBody
