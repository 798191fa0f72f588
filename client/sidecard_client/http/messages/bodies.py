"""Bodies of responses, in classes that derive from the app's library: shared bodies, and bodies that were read ahead."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sidecard_client.http.messages.encodings import UndecodableAnswer
from sidecard_client.http.messages.refusals import AnswerNotShared, broken_stream, has_ended
from sidecard_client.http.messages.responses import mark
from sidecard_client.protocol.errors import CallFailed, CallTimeout

if TYPE_CHECKING:
    from sidecard_client._async.streams import AsyncStream
    from sidecard_client._sync.streams import Stream
    from sidecard_client.call.streams import Provenance
    from sidecard_client.http.messages.libraries import Request, Response

Decode = Callable[[bytes], Iterator[bytes]]


def drain(pieces: "Stream[Any]", headers: Any) -> None:
    """Read what is left of an answer that the app has already; complete the ``headers`` of its response."""
    with suppress(AnswerNotShared):
        for _ in pieces:
            pass

    mark_unstored(headers, pieces)


async def adrain(pieces: "AsyncStream[Any]", headers: Any) -> None:
    """Do as `drain` does."""
    with suppress(AnswerNotShared):
        async for _ in pieces:
            pass

    mark_unstored(headers, pieces)


def mark_unstored(headers: Any, facts: "Provenance") -> None:
    """Set the header for an answer that the daemon did not store, at the end of its stream."""
    if headers is not None and facts.not_stored:
        mark(headers, not_stored=facts.not_stored)


def is_read(library: ModuleType, response: "Response") -> bool:
    """Return whether a response has its content already, as those of mock transports do: its stream is never read."""
    try:
        response.content  # noqa: B018 - raises
    except library.ResponseNotRead:
        return False

    return True


@cache
def shared_body_class(library: ModuleType) -> type:
    """Return the class of the library's blocking bodies: ``(request, pieces, decode, headers)``."""

    class SharedBody(library.SyncByteStream):  # type: ignore[name-defined,misc]  # the library is known at run time only
        """The pieces of a stream that sidecard shares; ``decode`` decodes them for a caller that cannot.

        ``headers`` are those of this caller's own call, which are completed at the end.
        """

        def __init__(
            self, request: "Request", pieces: "Stream[Any]", decode: Decode | None = None, headers: Any = None
        ) -> None:
            self._request = request
            self._pieces = pieces
            self._decode = decode
            self._headers = headers

        def __iter__(self) -> Iterator[bytes]:
            try:
                for piece in self._pieces:
                    if self._decode is None:
                        yield piece
                    else:
                        yield from self._decode(piece)

                mark_unstored(self._headers, self._pieces)
            except AnswerNotShared:
                return  # its own caller has received every byte, and its SDK judges them
            except (CallFailed, CallTimeout, UndecodableAnswer) as error:
                if not has_ended(error):
                    raise broken_stream(error, self._request) from None

        def close(self) -> None:
            self._pieces.close()

    return SharedBody


@cache
def async_shared_body_class(library: ModuleType) -> type:
    """Return the class of the library's asynchronous bodies: ``(request, pieces, decode, headers)``."""

    class AsyncSharedBody(library.AsyncByteStream):  # type: ignore[name-defined,misc]  # as above
        """As `SharedBody`."""

        def __init__(
            self, request: "Request", pieces: "AsyncStream[Any]", decode: Decode | None = None, headers: Any = None
        ) -> None:
            self._request = request
            self._pieces = pieces
            self._decode = decode
            self._headers = headers

        async def __aiter__(self) -> AsyncIterator[bytes]:
            try:
                async for piece in self._pieces:
                    if self._decode is None:
                        yield piece
                    else:
                        for part in self._decode(piece):
                            yield part

                mark_unstored(self._headers, self._pieces)
            except AnswerNotShared:
                return
            except (CallFailed, CallTimeout, UndecodableAnswer) as error:
                if not has_ended(error):
                    raise broken_stream(error, self._request) from None

        async def aclose(self) -> None:
            await self._pieces.aclose()

    return AsyncSharedBody


class ReadAhead:
    """A body that is read ahead of the app: its pieces, and its rest or the exception that reading raised."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.error: Exception | None = None
        self._pieces: list[bytes] = []
        self._rest: Any = None

    @property
    def whole(self) -> Sequence[bytes] | None:
        """All pieces; None if the body has more, or broke."""
        return self._pieces if self._rest is None and self.error is None else None

    def read(self, limit: int) -> None:
        """Read at least ``limit`` bytes, or to the end. An interruption closes the body."""
        rest = iter(self.source)
        try:
            for piece in rest:
                self._pieces.append(piece)
                limit -= len(piece)
                if limit <= 0:
                    self._rest = rest
                    return
        except Exception as error:  # noqa: BLE001 - raised again where the app reads
            self.error = error
        except BaseException:
            self.source.close()
            raise

    async def aread(self, limit: int) -> None:
        """Do as `read` does."""
        rest = aiter(self.source)
        try:
            async for piece in rest:
                self._pieces.append(piece)
                limit -= len(piece)
                if limit <= 0:
                    self._rest = rest
                    return
        except Exception as error:  # noqa: BLE001 - as above
            self.error = error
        except BaseException:  # the app has canceled its request
            await self.source.aclose()
            raise

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        if self.error is not None:
            raise self.error

        if self._rest is not None:
            yield from self._rest

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            yield piece

        if self.error is not None:
            raise self.error

        if self._rest is not None:
            async for piece in self._rest:
                yield piece


@cache
def replayed_body_class(library: ModuleType) -> type:
    """Return the class of a body that was read ahead, blocking or asynchronous: ``(ahead)``."""

    class ReplayedBody(library.SyncByteStream, library.AsyncByteStream):  # type: ignore[name-defined,misc]  # as above
        """The bytes that were read ahead, and then the others."""

        def __init__(self, ahead: ReadAhead) -> None:
            self._ahead = ahead

        def __iter__(self) -> Iterator[bytes]:
            return iter(self._ahead)

        def __aiter__(self) -> AsyncIterator[bytes]:
            return aiter(self._ahead)

        def close(self) -> None:
            self._ahead.source.close()

        async def aclose(self) -> None:
            await self._ahead.source.aclose()

    return ReplayedBody
