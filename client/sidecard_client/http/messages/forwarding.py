"""Requests on their way to the backend: what is left out of them, and when their bodies are read.

A request without headers of sidecard is forwarded as the same object. No body is read but that of an LLM call, and of that at
most `MAX_BODY_BYTES`.
"""

from collections.abc import AsyncIterator, Iterable, Iterator
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Final

from sidecard_client.call.option_checks import MAX_SECONDS
from sidecard_client.http.messages.libraries import library_of

if TYPE_CHECKING:
    from sidecard_client.http.messages.libraries import Request

OWN_PREFIX: Final = b"x-sidecard-"

MAX_BODY_BYTES: Final = 64 * 1024 * 1024
"""Limit of a request's body, above which it passes through: the largest that an LLM API accepts has 50 MB."""

_LENGTH_HEADERS: Final = frozenset({b"content-length", b"transfer-encoding"})


def headers_of(request: "Request") -> dict[str, str]:
    """Return the headers with names in lower case; values of one name are joined, as the library joins them."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers.raw:
        name, value = raw_name.decode("latin-1").lower(), _text_of(raw_value)
        headers[name] = f"{headers[name]}, {value}" if name in headers else value

    return headers


def _text_of(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def without_own_headers(request: "Request") -> "Request":
    """Return the request as the backend receives it: without our headers, and otherwise as it is, byte for byte."""
    headers = [(name, value) for name, value in request.headers.raw if not name.lower().startswith(OWN_PREFIX)]
    if len(headers) == len(request.headers.raw):
        return request

    library = library_of(request)
    copy: Request = library.Request(
        request.method, request.url, headers=headers, stream=request.stream, extensions=request.extensions
    )
    if isinstance(request.stream, library.ByteStream):
        copy.read()  # as the original was: a transport may look at ``content``

    return copy


def with_body(request: "Request", body: bytes) -> "Request":
    """Return the request with another body."""
    headers = [header for header in request.headers.raw if header[0].lower() not in _LENGTH_HEADERS]
    made: Request = library_of(request).Request(
        request.method, request.url, headers=headers, content=body, extensions=request.extensions
    )
    return made


def body_of(request: "Request") -> bytes | None:
    """Read the body. Returns None if it has more than `MAX_BODY_BYTES`; then the request still sends all of it."""
    library = library_of(request)
    if isinstance(request.stream, library.ByteStream):
        return _small(request.read())

    if _announces_too_much(request):
        return None

    pieces: list[bytes] = []
    room, rest = MAX_BODY_BYTES, iter(request.stream)
    for piece in rest:
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            request.stream = _rejoined_class(library)(pieces, rest)
            return None

    return _put_back(request, pieces)


async def abody_of(request: "Request") -> bytes | None:
    """Do as `body_of` does, for an asynchronous request."""
    library = library_of(request)
    if isinstance(request.stream, library.ByteStream):
        return _small(await request.aread())

    if _announces_too_much(request):
        return None

    pieces: list[bytes] = []
    room, rest = MAX_BODY_BYTES, aiter(request.stream)
    async for piece in rest:
        pieces.append(piece)
        room -= len(piece)
        if room < 0:
            request.stream = _async_rejoined_class(library)(pieces, rest)
            return None

    return _put_back(request, pieces)


def read_timeout_of(request: "Request") -> float:
    """Return the request's read timeout in seconds. None means no limit, and so does more than `MAX_SECONDS`, which is sent."""
    timeouts = request.extensions.get("timeout")
    seconds = timeouts.get("read") if isinstance(timeouts, dict) else None
    return max(0.0, float(min(seconds, MAX_SECONDS))) if isinstance(seconds, int | float) else MAX_SECONDS


def _small(body: bytes) -> bytes | None:
    return body if len(body) <= MAX_BODY_BYTES else None


def _announces_too_much(request: "Request") -> bool:
    length = request.headers.get("content-length", "")
    return length.isascii() and length.isdecimal() and int(length) > MAX_BODY_BYTES


def _put_back(request: "Request", pieces: Iterable[bytes]) -> bytes:
    body = b"".join(pieces)
    request.stream = library_of(request).ByteStream(body)
    return body


@cache
def _rejoined_class(library: ModuleType) -> type:
    class RejoinedBody(library.SyncByteStream):  # type: ignore[name-defined,misc]  # the library is known at run time only
        """The pieces that were read, and then those that were not."""

        def __init__(self, read: Iterable[bytes], rest: Iterator[bytes]) -> None:
            self._read = read
            self._rest = rest

        def __iter__(self) -> Iterator[bytes]:
            yield from self._read
            yield from self._rest

    return RejoinedBody


@cache
def _async_rejoined_class(library: ModuleType) -> type:
    class AsyncRejoinedBody(library.AsyncByteStream):  # type: ignore[name-defined,misc]  # as above
        """As `RejoinedBody`."""

        def __init__(self, read: Iterable[bytes], rest: AsyncIterator[bytes]) -> None:
            self._read = read
            self._rest = rest

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in self._read:
                yield piece

            async for piece in self._rest:
                yield piece

    return AsyncRejoinedBody
