"""Share the calls that a client of boto3 or botocore makes to Amazon Bedrock (``bedrock-runtime``).

::

    bedrock = share(boto3.client("bedrock-runtime"))
    bedrock.converse(modelId=..., messages=[...])          # made once for all processes of the host

A handler of the client's event ``before-send`` answers each request: with a stored answer, another caller's, or the
upstream's. A call is made by the client's own endpoint, with its connections, proxies and certificates. Signing, retries and
parsing stay botocore's: each attempt is a call of its own. Neither httpx nor httpx2 is needed.
"""

from collections.abc import Iterator
from copy import copy
from threading import Lock
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import WeakKeyDictionary, ref

from sidecard_client.call.warn import warn
from sidecard_client.http.messages import plain
from sidecard_client.http.sharing.libraries import BEDROCK
from sidecard_client.http.transports import SidecardTransport

if TYPE_CHECKING:
    from sidecard_client._async.client import AsyncClient
    from sidecard_client._sync.client import Client

_EVENT: Final = f"before-send.{BEDROCK}"
_OWN_PREFIX: Final = "x-sidecard-"
_SIGNED_REQUEST: Final = "sidecard.botocore.request"

_lock: Final = Lock()
_shared: Final["WeakKeyDictionary[Any, tuple[ref[SidecardTransport], dict[str, Any]]]"] = WeakKeyDictionary()
"""The clients that are shared, each with its transport, which lives as long as it does, and the policy."""


def share_client(client: Any, sidecard: "Client | AsyncClient", policy: dict[str, Any], *, given: bool) -> None:
    """Let a transport answer the requests of a client. A shared one uses another ``sidecard`` if the app has ``given`` it."""
    with _lock:
        known = _shared.get(client)
        if known is None:
            endpoint = _Endpoint(client._endpoint, client.meta.config.read_timeout)  # noqa: SLF001 - the only place for it
            transport = SidecardTransport(endpoint, sidecard, **policy)
            client.meta.events.register_last(_EVENT, _BeforeSend(transport, endpoint), unique_id="sidecard")
            _shared[client] = ref(transport), policy
            return

        used, first_policy = known[0](), known[1]
        if given and used is not None:
            used.use(sidecard)

        if policy and policy != first_policy:
            warn(
                f"share() with {', '.join(f'{keyword}=' for keyword in policy)} changed nothing: this client of {BEDROCK} is "
                "shared already, with another policy. Make one client for each policy."
            )


class _Endpoint:
    """The inner transport: botocore's own endpoint."""

    def __init__(self, endpoint: Any, read_timeout: Any) -> None:
        self._endpoint = endpoint
        self._read_timeout = read_timeout

    def handle_request(self, request: plain.PlainRequest) -> plain.PlainResponse:
        """Send a request as botocore signed it, without our own headers."""
        signed = request.extensions[_SIGNED_REQUEST]
        own = [name for name in signed.headers if name.lower().startswith(_OWN_PREFIX)]
        if own:
            signed = copy(signed)
            signed.headers = signed.headers.copy()
            for name in own:
                del signed.headers[name]

        response = self._endpoint._send(signed)  # noqa: SLF001 - what botocore calls if no handler answers
        headers = [(name, value) for name, value in response.headers.items() if isinstance(value, str)]
        stream = _ReceivedBody(response) if signed.stream_output else plain.ByteStream(response.content)
        return plain.PlainResponse(response.status_code, headers=headers, stream=stream, extensions={})

    def timeout_of(self, signed: Any) -> float | None:
        """Return the read timeout of a request in seconds; None if it has none."""
        context = getattr(signed, "context", None) or {}
        seconds = context.get("read_timeout") or self._read_timeout
        return float(seconds) if isinstance(seconds, int | float) else None


class _ReceivedBody(plain.SyncByteStream):
    """The body of a response of urllib3, which botocore lets its caller read."""

    def __init__(self, response: Any) -> None:
        self._raw = response.raw

    def __iter__(self) -> Iterator[bytes]:
        # Not by size: a read of a stream would wait until that many bytes have arrived.
        return iter(self._raw.stream())

    def close(self) -> None:
        """Give the connection back, or close it if the body was not read to its end."""
        self._raw.close()


class _BeforeSend:
    """The handler of ``before-send``."""

    def __init__(self, transport: SidecardTransport, endpoint: _Endpoint) -> None:
        self._transport = transport
        self._endpoint = endpoint

    def __call__(self, request: Any, **_: Any) -> Any:
        """Return the response, an ``AWSResponse``; None for a body that can be read only once, which botocore sends itself."""
        from botocore import awsrequest, exceptions  # noqa: PLC0415 - an optional dependency, which called this

        body = request.body or b""
        if not isinstance(body, bytes | bytearray | str):
            return None

        asked = plain.PlainRequest(
            request.method,
            request.url,
            headers=[(name.encode(), _bytes(value)) for name, value in request.headers.items()],
            stream=plain.ByteStream(body.encode() if isinstance(body, str) else bytes(body)),
            extensions={_SIGNED_REQUEST: request, "timeout": {"read": self._endpoint.timeout_of(request)}},
        )
        try:
            response = self._transport.handle_request(asked)
        except plain.ReadTimeout as error:
            raise exceptions.ReadTimeoutError(endpoint_url=request.url, error=error) from None
        except (plain.ReadError, plain.RemoteProtocolError) as error:
            raise exceptions.ConnectionClosedError(error=error, request=request, endpoint_url=request.url) from None

        answer = awsrequest.AWSResponse(request.url, response.status_code, {}, _Body(response, request.url))
        if not request.stream_output:
            answer.content  # noqa: B018 - it reads the body, as botocore's own session does

        answer.headers.update(response.headers.items())  # with the reason for not storing it, if that is known
        return answer


class _Body:
    """A body with the methods of urllib3's that botocore calls."""

    def __init__(self, response: plain.PlainResponse, url: str) -> None:
        length = response.headers.get("content-length", "")
        self._stream = response.stream
        self._url = url
        self._expected_bytes = int(length) if length.isascii() and length.isdecimal() else 0
        self._pieces = iter(response.stream)
        self._rest = b""
        self._read_bytes = 0
        self.closed = False

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """Yield the body in pieces as they arrive. Raises urllib3's exceptions."""
        while piece := self._next():
            self._read_bytes += len(piece)
            yield piece

    def read(self, size: int | None = None, **_: Any) -> bytes:
        """Return the next ``size`` bytes, or fewer at the end. Without a size, return the rest; raise if it is incomplete."""
        if size is not None and size <= 0:
            return b""

        parts: list[bytes] = []
        found = 0
        while (size is None or found < size) and (piece := self._next()):
            parts.append(piece)
            found += len(piece)

        data = b"".join(parts)
        if size is not None:
            data, self._rest = data[:size], data[size:]

        self._read_bytes += len(data)
        if size is None and self._read_bytes < self._expected_bytes:
            raise _urllib3_exceptions().ProtocolError(
                f"{self._read_bytes} bytes of {self._expected_bytes} were received"
            )

        return data

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, and return how much was read."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readlines(self) -> list[bytes]:
        """Return all lines."""
        return self.read().splitlines(keepends=True)

    def readable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return how many bytes were read."""
        return self._read_bytes

    def close(self) -> None:
        """Stop reading: a call that others wait for goes on."""
        self.closed = True
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _next(self) -> bytes:
        """Return the next piece; nothing at the end."""
        if self._rest:
            piece, self._rest = self._rest, b""
            return piece

        if self.closed:
            return b""

        try:
            return next((piece for piece in self._pieces if piece), b"")
        except plain.ReadTimeout as error:
            raise _urllib3_exceptions().ReadTimeoutError(None, self._url, str(error)) from None  # without a pool
        except plain.ReadError as error:
            raise _urllib3_exceptions().ProtocolError(str(error)) from None


def _urllib3_exceptions() -> Any:
    from urllib3 import exceptions  # noqa: PLC0415 - a dependency of botocore's

    return exceptions


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()
