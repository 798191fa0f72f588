"""As much of httpx's interface as the transport uses, for HTTP libraries with an interface of their own.

An adapter makes a `Request` from the other library's, gives it to a transport, and makes the other library's response from the
`Response` that comes back. It translates this module's exceptions as well. Only blocking code is served.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class SyncByteStream:
    """A body in pieces."""

    def __iter__(self) -> Iterator[bytes]:
        yield b""

    def close(self) -> None:
        """Release what the body holds."""


class AsyncByteStream:
    """The base class of asynchronous bodies, which do not occur."""


class ByteStream(SyncByteStream):
    """A body in one piece."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content


class Headers:
    """Headers in order, with case-insensitive names."""

    def __init__(self, headers: "Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]" = ()) -> None:
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        self.raw: list[tuple[bytes, bytes]] = [(_bytes(name), _bytes(value)) for name, value in pairs]

    def items(self) -> list[tuple[str, str]]:
        """Return names in lower case, with the values of one name joined."""
        joined: dict[str, str] = {}
        for raw_name, raw_value in self.raw:
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
            joined[name] = f"{joined[name]}, {value}" if name in joined else value

        return list(joined.items())

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a name."""
        return dict(self.items()).get(name.lower(), default)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __setitem__(self, name: str, value: str) -> None:
        lower = _bytes(name.lower())
        self.raw = [*(pair for pair in self.raw if pair[0].lower() != lower), (_bytes(name), _bytes(value))]


class PlainRequest:
    """A request with its whole body."""

    def __init__(
        self, method: str, url: Any, *, headers: Any, stream: SyncByteStream, extensions: dict[str, Any]
    ) -> None:
        self.method = method
        self.url = url
        self.headers = Headers(headers)
        self.stream = stream
        self.extensions = extensions

    def read(self) -> bytes:
        """Return the body."""
        return b"".join(self.stream)


class PlainResponse:
    """A response whose body its receiver reads."""

    def __init__(self, status_code: int, *, headers: Any, stream: SyncByteStream, extensions: dict[str, Any]) -> None:
        self.status_code = status_code
        self.headers = Headers(headers)
        self.stream = stream
        self.extensions = extensions

    @property
    def content(self) -> bytes:
        """Raise `ResponseNotRead`: there is only the stream."""
        raise ResponseNotRead

    def close(self) -> None:
        """Release what the body holds."""
        self.stream.close()


class ResponseNotRead(Exception):
    """A response has no content but its stream."""


class _Failed(Exception):
    def __init__(self, message: str, *, request: PlainRequest) -> None:
        self.request = request
        super().__init__(message)


class ReadTimeout(_Failed):
    """Another caller's answer took longer than this caller waits."""


class ReadError(_Failed):
    """Another caller's stream broke, after this caller had received a part of it."""


class RemoteProtocolError(_Failed):
    """Another caller's call failed without a response."""


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


Request = PlainRequest
Response = PlainResponse
"""As httpx calls them."""
