"""Requests on their way to the backend: unchanged but for our headers, and unread unless they are LLM calls."""

import io
from collections.abc import AsyncIterator, Iterator
from types import ModuleType
from typing import Any

import anyio
import httpx
import httpx2
import pytest

from sidecard_client.http.messages import forwarding
from sidecard_client.http.messages.forwarding import abody_of, body_of, without_own_headers

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])
URL = "http://h/p?q=1"


@pytest.fixture(autouse=True)
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ten bytes be the limit of a body."""
    monkeypatch.setattr(forwarding, "MAX_BODY_BYTES", 10)


@LIBRARIES
def test_a_request_without_our_headers_is_forwarded_itself(library: ModuleType) -> None:
    """What the inner transport sees is what the app's client made."""
    request = library.Request("POST", URL, content=b"x")
    assert without_own_headers(request) is request


@LIBRARIES
def test_our_headers_are_left_out_in_any_spelling(library: ModuleType) -> None:
    """Method, URL, extensions, body and the bytes of all other headers are unchanged."""
    headers = [
        (b"X-Sidecard-Cache", b"off"),
        (b"X-Name", "modèle".encode()),
        (b"x-name", b"caf\xe9"),
        (b"x-sidecard-task", b"t"),
    ]
    request = library.Request("PUT", URL, headers=headers, content=b"body", extensions={"timeout": {"read": 1}})
    sent = without_own_headers(request)
    assert (sent.method, sent.url, sent.extensions) == ("PUT", request.url, {"timeout": {"read": 1}})
    assert sent.headers.raw == [
        header for header in request.headers.raw if not header[0].lower().startswith(b"x-sidecard-")
    ]
    assert (sent.content, b"".join(sent.stream)) == (b"body", b"body")


@LIBRARIES
def test_a_body_that_streams_is_not_read_for_that(library: ModuleType) -> None:
    """An upload goes on as it came."""
    stream = iter([b"a", b"b"])
    request = library.Request("POST", URL, headers={"x-sidecard-cache": "off"}, content=stream)
    sent = without_own_headers(request)
    assert sent.headers["transfer-encoding"] == "chunked"
    assert next(stream) == b"a"


def _pieces(*pieces: bytes) -> Iterator[bytes]:
    yield from pieces


async def _later(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


BODIES: list[tuple[dict[str, Any], bytes]] = [
    ({"content": b"0123456789"}, b"0123456789"),
    ({"content": b""}, b""),
    ({"json": {"a": 1}}, b'{"a":1}'),
]


@LIBRARIES
@pytest.mark.parametrize(("given", "body"), BODIES)
def test_a_small_body_is_read(library: ModuleType, given: dict[str, Any], body: bytes) -> None:
    """A small body is read, and can be sent afterwards."""
    request = library.Request("POST", URL, **given)
    read = body_of(request)
    assert read is not None
    assert read.replace(b" ", b"") == body
    assert anyio.run(abody_of, library.Request("POST", URL, **given)) == read
    assert b"".join(request.stream) == read


@LIBRARIES
def test_a_generated_body_is_read_and_sent_all_the_same(library: ModuleType) -> None:
    """Its headers stay those of a body of unknown length."""
    request = library.Request("POST", URL, content=_pieces(b"01", b"23"))
    assert body_of(request) == b"0123"
    assert b"".join(request.stream) == b"0123"
    assert "content-length" not in request.headers

    async def asynchronous() -> None:
        request = library.Request("POST", URL, content=_later(b"01", b"23"))
        assert await abody_of(request) == b"0123"
        assert b"".join([piece async for piece in request.stream]) == b"0123"

    anyio.run(asynchronous)


@LIBRARIES
def test_a_large_body_is_left_to_be_sent(library: ModuleType) -> None:
    """A body above the limit is sent whole, and no more than the limit is read of it."""
    left = _pieces(b"01234", b"56789", b"abc", b"def")
    request = library.Request("POST", URL, content=left)
    assert body_of(request) is None
    assert next(left) == b"def"
    assert b"".join(request.stream) == b"0123456789abc"
    assert body_of(library.Request("POST", URL, content=b"0123456789a")) is None
    file = io.BytesIO(b"x" * 50)
    request = library.Request("POST", URL, files={"file": file})
    assert body_of(request) is None
    assert file.tell() == 0

    async def asynchronous() -> None:
        request = library.Request("POST", URL, content=_later(b"01234", b"56789", b"abc", b"def"))
        assert await abody_of(request) is None
        assert b"".join([piece async for piece in request.stream]) == b"0123456789abcdef"
        request = library.Request("POST", URL, headers={"content-length": "11"}, content=_later(b"0123456789a"))
        assert await abody_of(request) is None
        assert [piece async for piece in request.stream] == [b"0123456789a"]

    anyio.run(asynchronous)
