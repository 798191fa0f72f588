"""Select what of an answer other callers get, and make each caller's response from it."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from sidecard_client.http.messages.forwarding import OWN_PREFIX

if TYPE_CHECKING:
    from sidecard_client.call.outcome import Outcome
    from sidecard_client.call.streams import Provenance
    from sidecard_client.http.messages.libraries import Response

RawHeaders = Sequence[tuple[bytes, bytes]]

_OF_ONE_EXCHANGE: Final = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-connection", b"te", b"trailer", b"transfer-encoding",
        b"upgrade", b"alt-svc",
        b"date", b"age", b"retry-after", b"retry-after-ms",
        b"set-cookie", b"set-cookie2",
    }
)  # fmt: skip
"""Headers of one connection, of one moment, or of one client: a cookie is a credential."""

_RATE_LIMIT: Final = (b"ratelimit", b"rate-limit")
"""Parts of the names of headers about what is left of a quota, such as ``x-ratelimit-remaining-tokens``."""

_OF_ENCODED_BODY: Final = frozenset({b"content-encoding", b"content-length"})

_SAVED: Final = frozenset({"cache", "stale", "shared"})
"""Sources that are another call's."""

_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_DEFAULT_VERSION: Final = b"HTTP/1.1"


def shared_headers(
    headers: RawHeaders, *, decoded: bool = False, also: frozenset[bytes] = frozenset()
) -> list[list[str]]:
    """Return the headers that other callers get, as text that has one character for each byte.

    ``decoded``: their body lacks the encoding of the received one. ``also`` are names that are left out otherwise.
    """
    return [
        [name.decode("latin-1"), value.decode("latin-1")]
        for name, value in headers
        if _is_shared(lower := name.lower()) or lower in also
        if not (decoded and lower in _OF_ENCODED_BODY)
    ]


def _is_shared(name: bytes) -> bool:
    if name in _OF_ONE_EXCHANGE or name.startswith(OWN_PREFIX):
        return False

    return not any(part in name for part in _RATE_LIMIT)


def head_of(response: "Response", *, decoded: bool = False) -> dict[str, Any]:
    """Return status and headers, the first piece of a shared answer; with version and reason phrase if they are unusual."""
    head = {"status": response.status_code, "headers": shared_headers(response.headers.raw, decoded=decoded)}
    version = response.extensions.get("http_version", _DEFAULT_VERSION)
    reason = response.extensions.get("reason_phrase")
    if version != _DEFAULT_VERSION:
        head["version"] = version.decode("latin-1")

    if reason is not None and reason != _phrase_of(response.status_code):
        head["reason"] = reason.decode("latin-1")

    return head


def headers_for_reader(response: "Response") -> Mapping[str, str]:
    """Return the headers that say how an answer's body ends: in HTTP/2 it is always delimited, as by chunks in HTTP/1."""
    version = response.extensions.get("http_version", _DEFAULT_VERSION)
    headers: Mapping[str, str] = response.headers
    return headers if version.startswith(b"HTTP/1") else {**headers, "transfer-encoding": "chunked"}


def without_encoding(headers: RawHeaders) -> list[tuple[bytes, bytes]]:
    """Return the headers of a body that was decoded."""
    return [(name, value) for name, value in headers if name.lower() not in _OF_ENCODED_BODY]


def raw_headers(head: Mapping[str, Any]) -> list[tuple[bytes, bytes]]:
    """Return the headers of a head as they were received."""
    headers = head["headers"]
    try:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    except UnicodeEncodeError:
        return [(_bytes_of(name), _bytes_of(value)) for name, value in headers]


def response_of(library: ModuleType, head: Mapping[str, Any], headers: RawHeaders, stream: Any) -> "Response":
    """Return a response that has not been read yet, like the one that was received.

    Its own ``elapsed``, hooks and raw bytes then work as those of any response.
    """
    status = int(head["status"])
    version = _bytes_of(head.get("version", "HTTP/1.1"))
    extensions = {"http_version": version}
    if version.startswith(b"HTTP/1"):
        extensions["reason_phrase"] = _bytes_of(head["reason"]) if "reason" in head else _phrase_of(status)

    response: Response = library.Response(status, headers=headers, stream=stream, extensions=extensions)
    return response


def visible_headers(facts: "Provenance | Outcome[Any]", key: str | None) -> list[tuple[bytes, bytes]]:
    """Return the headers that report the answer's source to the app."""
    headers = [
        (b"x-sidecard-source", (facts.source or "").encode()),
        (b"x-sidecard-backend", _ascii(facts.backend or "").encode()),
    ]
    if key is not None:
        headers.append((b"x-sidecard-key", _ascii(key).encode()))

    if facts.source in _SAVED:
        headers.append((b"x-sidecard-age", b"%.3f" % facts.age_seconds))
        headers.append((b"x-sidecard-saved-dollars", b"%.6g" % facts.saved_dollars))

    if facts.similarity is not None:
        headers.append((b"x-sidecard-similarity", b"%.4f" % facts.similarity))

    return headers


def mark(headers: Any, **values: str) -> None:
    """Set headers of ours on a response: ``source="passed"`` is ``x-sidecard-source: passed``."""
    for name, value in values.items():
        headers[f"{OWN_PREFIX.decode()}{name.replace('_', '-')}"] = _ascii(value)


def add_visible(headers: Any, visible: RawHeaders) -> None:
    """Set the headers of `visible_headers` on the library's own response."""
    for name, value in visible:
        headers[name.decode()] = value.decode()


def _ascii(text: str) -> str:
    # Another byte would change how the library reads the other headers.
    return text if text.isascii() and text.isprintable() else quote(text, safe="/:#~@[]!$&'()*+,;= ")


def _bytes_of(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:  # of a client that decoded it as UTF-8
        return text.encode()


def _phrase_of(status: int) -> bytes:
    return _PHRASES.get(status, b"")
