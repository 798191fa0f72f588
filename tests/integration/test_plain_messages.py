"""A transport in an HTTP library that is neither httpx nor httpx2, by messages of its own."""

import json
from collections.abc import Callable, Iterator

import pytest

from sidecard_client import Client
from sidecard_client.http import SidecardTransport
from sidecard_client.http.messages import plain
from tests.api_samples import SAMPLES, Sample
from tests.daemons import Daemon

WHOLE, STREAM = SAMPLES["bedrock converse"], SAMPLES["bedrock converse stream"]


class Pieces(plain.SyncByteStream):
    """A body in three pieces, which notes whether it was closed."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        size = 1 + len(self._body) // 3
        yield from (self._body[start : start + size] for start in range(0, len(self._body), size))

    def close(self) -> None:
        """Note it."""
        self.closed = True


class Upstream:
    """The inner transport: what the other library is."""

    def __init__(self) -> None:
        self.asked: list[plain.PlainRequest] = []
        self.bodies: list[Pieces] = []
        self.status = 200

    def handle_request(self, request: plain.PlainRequest) -> plain.PlainResponse:
        """Answer with a sample."""
        self.asked.append(request)
        sample = STREAM if request.url.endswith("-stream") else WHOLE
        body = Pieces(sample.answer if self.status == 200 else b'{"message": "refused"}')
        self.bodies.append(body)
        headers = [(b"Content-Type", sample.answer_type.encode()), (b"X-Name", "modèle".encode())]
        return plain.PlainResponse(self.status, headers=headers, stream=body, extensions={})


@pytest.fixture
def upstream() -> Upstream:
    """An upstream without calls."""
    return Upstream()


@pytest.fixture
def transport(daemon: Callable[..., Daemon], upstream: Upstream) -> Iterator[SidecardTransport]:
    """A transport before the upstream."""
    with Client(daemon().socket) as sidecard:
        yield SidecardTransport(upstream, sidecard)


def request_of(sample: Sample, **fields: object) -> plain.PlainRequest:
    """Make a request."""
    assert isinstance(sample.asked, dict)
    body = json.dumps(sample.asked | fields).encode()
    return plain.PlainRequest(
        "POST",
        f"https://{sample.host}{sample.path}",
        headers={"Content-Type": "application/json", "x-sidecard-task": "rag"},
        stream=plain.ByteStream(body),
        extensions={"mine": sample},
    )


def test_messages_of_another_library_are_shared(transport: SidecardTransport, upstream: Upstream) -> None:
    """One call for each request; headers keep their bytes, and what the adapter attached comes along."""
    for calls, sample in enumerate((WHOLE, STREAM), 1):
        for source in ("upstream", "cache"):
            response = transport.handle_request(request_of(sample))
            assert b"".join(response.stream) == sample.answer
            assert response.headers.get("X-SIDECARD-SOURCE") == source
            assert (b"X-Name", "modèle".encode()) in response.headers.raw
            response.close()
            assert len(upstream.asked) == calls

        assert upstream.asked[-1].extensions["mine"] is sample
        assert "x-sidecard-task" not in upstream.asked[-1].headers
        assert upstream.asked[-1].read() == sample.body
        assert upstream.bodies[-1].closed


def test_refusals_and_passed_requests_are_the_librarys_own(transport: SidecardTransport, upstream: Upstream) -> None:
    """The library gets responses, and a passed one names its reason."""
    upstream.status = 400
    response = transport.handle_request(request_of(WHOLE))
    assert (response.status_code, b"".join(response.stream)) == (400, b'{"message": "refused"}')
    upstream.status = 200
    passed = transport.handle_request(request_of(WHOLE, toolConfig={"tools": [{"systemTool": {"name": "send"}}]}))
    assert passed.headers.get("x-sidecard-not-stored") == "tool"
    assert b"".join(passed.stream) == WHOLE.answer


def test_an_answer_that_is_asked_for_only_if_it_is_stored_is_rejected(transport: SidecardTransport) -> None:
    """The daemon's own refusals are responses too."""
    request = request_of(WHOLE)
    request.headers["x-sidecard-cache"] = "only"
    response = transport.handle_request(request)
    assert response.status_code == 504
    assert b"sidecard_not_cached" in b"".join(response.stream)
