"""Bodies that are read before the app reads them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
import httpx2
import pytest

from sidecard_client.http.messages.bodies import ReadAhead, replayed_body_class, shared_body_class
from sidecard_client.http.messages.encodings import decoder_for


class Source(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """Sends two pieces, and then ends or fails."""

    def __init__(self, failure: BaseException | None = None) -> None:
        self._failure = failure
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        yield b"ab"
        yield b"cd"
        if self._failure is not None:
            raise self._failure

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    def close(self) -> None:
        """Count."""
        self.closed += 1

    async def aclose(self) -> None:
        """Count."""
        self.closed += 1


@pytest.mark.parametrize(("limit", "whole"), [(1, None), (2, None), (3, None), (5, [b"ab", b"cd"])])
def test_the_app_reads_what_was_read_ahead_and_the_rest(limit: int, whole: list[bytes] | None) -> None:
    """The app reads each byte once."""
    source = Source()
    ahead = ReadAhead(source)
    ahead.read(limit)
    assert ahead.whole == whole
    response = httpx2.Response(400, stream=replayed_body_class(httpx2)(ahead))
    assert response.read() == b"abcd"
    assert source.closed == 1

    async def asynchronous() -> None:
        ahead = ReadAhead(Source())
        await ahead.aread(limit)
        assert ahead.whole == whole
        response = httpx2.Response(400, stream=replayed_body_class(httpx2)(ahead))
        assert await response.aread() == b"abcd"

    anyio.run(asynchronous)


def test_what_reading_raised_is_raised_where_the_app_reads() -> None:
    """The exception follows the bytes that arrived before it."""
    ahead = ReadAhead(Source(httpx2.ReadError("reset")))
    ahead.read(99)
    assert ahead.whole is None
    got = []
    with pytest.raises(httpx2.ReadError, match="reset"):
        got.extend(replayed_body_class(httpx2)(ahead))

    assert got == [b"ab", b"cd"]


def test_an_interruption_closes_the_body() -> None:
    """No other code can close it: the app does not have the response yet."""
    source = Source(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        ReadAhead(source).read(99)

    assert source.closed == 1

    async def asynchronous() -> None:
        source = Source(KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            await ReadAhead(source).aread(99)

        assert source.closed == 1

    anyio.run(asynchronous)


def test_a_followed_body_that_cannot_be_decoded_is_a_broken_stream() -> None:
    """For a caller that does not decode by itself."""
    decoder = decoder_for(["gzip"])
    assert decoder is not None
    pieces: Any = Pieces([b"not gzip"])
    body = shared_body_class(httpx2)(httpx2.Request("GET", "http://h"), pieces, decoder.decode)
    with pytest.raises(httpx2.ReadError, match="cannot be decoded"):
        list(body)


class Pieces(list[bytes]):
    """The pieces of a followed stream."""

    not_stored = ""
