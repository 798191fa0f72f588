"""What of an answer is shared, and the library's response that is made of it."""

from types import ModuleType

import httpx
import httpx2
import pytest

from sidecard_client.call.streams import Provenance
from sidecard_client.http.messages.responses import (
    head_of,
    headers_for_reader,
    mark,
    raw_headers,
    response_of,
    visible_headers,
)

LIBRARIES = pytest.mark.parametrize("library", [httpx, httpx2])


def facts(**values: object) -> Provenance:
    """Return where an answer is from."""
    made = Provenance()
    vars(made).update(values)
    return made


@LIBRARIES
def test_headers_keep_their_bytes(library: ModuleType) -> None:
    """Header bytes survive in UTF-8, in Latin-1, and in neither."""
    sent = [
        (b"X-Model", "modèle".encode()),
        (b"x-model", b"mod\xe8le"),
        (b"x-odd", b"\xff\xfe"),
        (b"Content-Type", b"a/b"),
    ]
    head = head_of(library.Response(200, headers=sent, stream=library.ByteStream(b"")))
    response = response_of(library, head, raw_headers(head), library.ByteStream(b"x"))
    assert response.headers.raw == sent
    assert (response.status_code, response.read()) == (200, b"x")


@LIBRARIES
def test_a_made_response_has_not_been_read(library: ModuleType) -> None:
    """Its raw bytes, and their count, are those of any response."""
    head = {"status": 200, "headers": []}
    response = response_of(library, head, [], library.ByteStream(b"abc"))
    assert list(response.iter_raw()) == [b"abc"]
    assert response.num_bytes_downloaded == 3
    assert (response.http_version, response.reason_phrase) == ("HTTP/1.1", "OK")


@pytest.mark.parametrize(
    ("extensions", "seen"),
    [
        ({"http_version": b"HTTP/1.0", "reason_phrase": b"Fine"}, ("HTTP/1.0", "Fine")),
        ({"http_version": b"HTTP/2", "stream_id": 1}, ("HTTP/2", "OK")),
        ({"http_version": b"HTTP/1.1", "reason_phrase": b""}, ("HTTP/1.1", "")),
        ({}, ("HTTP/1.1", "OK")),
    ],
)
def test_version_and_reason_are_those_of_the_answer(extensions: dict[str, object], seen: tuple[str, str]) -> None:
    """They travel only if they are unusual."""
    head = head_of(httpx2.Response(200, stream=httpx2.ByteStream(b""), extensions=extensions))
    response = response_of(httpx2, head, raw_headers(head), httpx2.ByteStream(b""))
    assert (response.http_version, response.reason_phrase) == seen


@pytest.mark.parametrize(
    "name",
    [
        "Date", "Connection", "Keep-Alive", "Transfer-Encoding", "Set-Cookie", "Retry-After", "retry-after-ms", "Age",
        "x-ratelimit-remaining-tokens", "anthropic-ratelimit-requests-reset", "RateLimit", "ratelimit-policy", "x-rate-limit-limit",
        "X-Sidecard-Source",
    ],
)  # fmt: skip
def test_headers_of_one_exchange_are_not_shared(name: str) -> None:
    """A repeated quota or date is wrong, and a cookie is a credential."""
    assert head_of(httpx2.Response(200, headers={name: "x", "x-request-id": "7"}))["headers"] == [["x-request-id", "7"]]


def test_a_decoded_body_has_no_encoding() -> None:
    """A decoded body lacks ``content-encoding`` and ``content-length``."""
    response = httpx2.Response(
        200, headers={"content-encoding": "br", "content-length": "9", "x-a": "b"}, stream=httpx2.ByteStream(b"")
    )
    assert head_of(response, decoded=True)["headers"] == [["x-a", "b"]]
    assert len(head_of(response)["headers"]) == 3


def test_headers_of_an_older_client_are_text() -> None:
    """It decoded them as UTF-8."""
    assert raw_headers({"headers": [["x", "✓"], ["y", "è"]]}) == [(b"x", "✓".encode()), (b"y", b"\xe8")]


def test_an_app_sees_where_its_answer_is_from() -> None:
    """The headers are ASCII whatever the model is called, so that the others are decoded as without them."""
    made = facts(source="cache", backend="h/modèle#1", age_seconds=1.5, saved_dollars=0.25, similarity=0.97)
    assert dict(visible_headers(made, "k")) == {
        b"x-sidecard-source": b"cache",
        b"x-sidecard-backend": b"h/mod%C3%A8le#1",
        b"x-sidecard-key": b"k",
        b"x-sidecard-age": b"1.500",
        b"x-sidecard-saved-dollars": b"0.25",
        b"x-sidecard-similarity": b"0.9700",
    }
    assert dict(visible_headers(facts(source="upstream", backend=None), None)) == {
        b"x-sidecard-source": b"upstream",
        b"x-sidecard-backend": b"",
    }


@LIBRARIES
def test_a_mark_leaves_the_other_headers_as_they_are(library: ModuleType) -> None:
    """Their bytes, and how they are decoded."""
    response = library.Response(200, headers=[(b"x-model", b"mod\xe8le")])
    mark(response.headers, source="passed", not_stored="dialect", backend="modèle\r\n")
    assert response.headers["x-model"] == "modèle"
    assert response.headers["x-sidecard-not-stored"] == "dialect"
    assert response.headers["x-sidecard-backend"] == "mod%C3%A8le%0D%0A"


@LIBRARIES
@pytest.mark.parametrize(("version", "is_delimited"), [(b"HTTP/2", True), (b"HTTP/1.1", False), (b"HTTP/1.0", False)])
def test_a_body_of_http_2_is_delimited(library: ModuleType, version: bytes, is_delimited: bool) -> None:
    """Without a length, a body of HTTP/1 lasts until its connection is closed."""
    response = library.Response(
        200, headers=[(b"A", b"b")], stream=library.ByteStream(b""), extensions={"http_version": version}
    )
    headers = headers_for_reader(response)
    assert headers["a"] == "b"
    assert ("transfer-encoding" in headers) == is_delimited
