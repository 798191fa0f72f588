"""An answer on its way: what its own caller gets, what others get, and how it ends."""

import gzip
import zlib
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest
import zstandard

from sidecard_client.call.streams import ENOUGH, Enough, ForOthers, ForOwnCaller
from sidecard_client.http.family import AnswerReader, AnswerSummary, Verdict
from sidecard_client.http.messages import upstream_answer
from sidecard_client.http.messages.refusals import AnswerNotShared
from sidecard_client.http.messages.upstream_answer import UpstreamAnswer


class Reader(AnswerReader):
    """Reads an answer whose stream ends with ``END``, and whose output dots precede."""

    def __init__(self, verdict: Verdict = "complete", not_stored: Any = "", *, classifiable: bool = True) -> None:
        self.classifiable = classifiable
        self.read = b""
        self._summary = AnswerSummary(verdict, not_stored, "why")

    @property
    def terminal(self) -> bool:
        """The last event was read."""
        return b"END" in self.read

    def feed(self, data: bytes) -> None:
        """Keep what is read."""
        self.read += data
        self.has_output = bool(self.read.strip(b"."))

    def finish(self) -> AnswerSummary:
        """Return the given summary."""
        return self._summary


def response_with(kind: str, *pieces: bytes, **headers: str) -> httpx2.Response:
    """Return a response of status 200 that is not read yet."""
    named = {"content-type": kind} | {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx2.Response(200, headers=named, stream=Pieces(pieces))


class Pieces(httpx2.SyncByteStream):
    """A body in these pieces."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces

    def __iter__(self) -> Any:
        return iter(self._pieces)


def run(
    response: httpx2.Response, reader: Reader, **policy: Any
) -> tuple[list[Any], AnswerNotShared | None, UpstreamAnswer]:
    """Return what the function yields for an answer, and how it ends."""
    completed: list[int] = []
    answer = UpstreamAnswer(
        response, reader, objection=policy.get("objection", ""), keep_length=policy.get("keep_length", False),
        completed=lambda: completed.append(1),
    )  # fmt: skip
    yielded: list[Any] = []
    # Others get nothing yet, so that one of them may still make the call.
    assert answer.first() == ForOwnCaller(response, is_output=False)
    try:
        for data in response.stream:  # type: ignore[union-attr]  # a blocking one
            yielded += answer.received(data)

        yielded += answer.ended()
    except AnswerNotShared as error:
        return yielded, error, answer

    assert completed == [1]
    return yielded, None, answer


def head(*headers: list[str]) -> dict[str, Any]:
    """Return the head that others get."""
    return {"status": 200, "headers": list(headers)}


JSON, SSE = ["content-type", "application/json"], ["content-type", "text/event-stream"]


def test_an_answer_that_is_no_stream_reaches_others_at_its_end() -> None:
    """Its own caller gets each piece as it comes."""
    yielded, error, answer = run(response_with("application/json", b"a", b"b"), Reader())
    assert yielded == [ForOwnCaller(b"a"), ForOwnCaller(b"b"), ForOthers(head(JSON) | {"body": b"ab"})]
    assert (error, answer.not_stored) == (None, "")


@pytest.mark.parametrize("kind", ["text/event-stream", "TEXT/Event-Stream; charset=utf-8", "application/x-ndjson"])
def test_a_stream_reaches_all_as_it_comes(kind: str) -> None:
    """A caller that leaves after the event that ends it has the whole answer."""
    yielded, _, _ = run(response_with(kind, b"a", b"b END", b"rest"), Reader())
    assert yielded == [ForOthers(head(["content-type", kind])), b"a", ENOUGH, b"b END", b"rest"]


def before_output(piece: Any) -> list[Any]:
    """Return the pieces that all callers get before the output."""
    return [ForOthers(piece, is_output=False), ForOwnCaller(piece, is_output=False)]


def test_pieces_before_the_output_say_so() -> None:
    """They reach all callers as they come. The head says what the first piece says."""
    yielded, _, _ = run(response_with("text/event-stream", b".", b"..", b".a", b".", b"END"), Reader())
    no_output = ForOthers(head(SSE), is_output=False)
    assert yielded == [no_output, *before_output(b"."), *before_output(b".."), b".a", b".", ENOUGH, b"END"]
    yielded, _, _ = run(response_with("application/json", b".", b"a"), Reader())
    whole = ForOthers(head(JSON) | {"body": b".a"})
    assert yielded == [ForOwnCaller(b".", is_output=False), ForOwnCaller(b"a"), whole]


def test_a_stream_that_ends_before_its_output_ends_it() -> None:
    """With its last event, or with its last byte."""
    yielded, _, _ = run(response_with("text/event-stream", b".", b"."), Reader())
    assert yielded == [ForOthers(head(SSE), is_output=False), *before_output(b"."), *before_output(b".")]
    yielded, _, _ = run(response_with("text/event-stream"), Reader())
    assert yielded == [ForOthers(head(SSE))]


def test_the_decoded_bytes_decide_where_the_output_begins() -> None:
    """The first bytes of an encoded body are none of the decoded one."""
    packer = zlib.compressobj(wbits=31)
    sent = [packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH) for text in (b"", b".", b"END")]
    yielded, _, _ = run(response_with("text/event-stream", *sent, content_encoding="gzip"), Reader())
    no_output = ForOthers(head(SSE, ["content-encoding", "gzip"]), is_output=False)
    assert yielded == [no_output, *before_output(sent[0]), *before_output(sent[1]), ENOUGH, sent[2]]

    compressor = zstandard.ZstdCompressor().compressobj()
    sent = [compressor.compress(text) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK) for text in (b".", b"END")]
    yielded, _, _ = run(response_with("text/event-stream", *sent, content_encoding="zstd"), Reader())
    early = [ForOthers(b".", is_output=False), ForOwnCaller(sent[0], is_output=False)]
    assert yielded == [ForOthers(head(SSE), is_output=False), *early, ForOthers(b"END"), ENOUGH, ForOwnCaller(sent[1])]


@pytest.mark.parametrize(
    ("kind", "encoding"), [("text/event-stream", "exi"), ("text/event-stream", "gzip"), ("application/json", "exi")]
)
def test_bytes_that_cannot_be_decoded_count_as_output(kind: str, encoding: str) -> None:
    """Otherwise callers with the same prefix would wait for the end of the answer."""
    yielded, _, _ = run(response_with(kind, b"...", content_encoding=encoding), Reader())
    assert all(getattr(piece, "is_output", True) for piece in yielded)
    yielded, _, _ = run(response_with(kind, b"."), Reader("unclassifiable", classifiable=False))
    assert yielded == [ForOwnCaller(b".")]


def test_a_stream_that_ends_without_proof_is_not_shared() -> None:
    """A caller that leaves there has all of it, and it is not shared."""
    yielded, error, answer = run(response_with("text/event-stream", b"a END"), Reader("unproven", "incomplete"))
    enough = yielded.pop(1)
    assert isinstance(enough, Enough)
    assert str(enough.error) == str(error)
    assert yielded == [ForOthers(head(SSE)), b"a END"]
    assert error is not None
    assert (error.kind, error.answered, error.not_stored, error.detail) == (
        "ignored",
        True,
        "incomplete",
        {"ended": True},
    )
    assert answer.not_stored == "incomplete"


@pytest.mark.parametrize(
    ("verdict", "kind", "answered"),
    [("request_error", "fatal", True), ("server_error", "transient", False), ("unclassifiable", "ignored", False)],
)
@pytest.mark.parametrize("live", [True, False])
def test_errors_in_answers_have_their_kinds(verdict: Verdict, kind: str, answered: bool, live: bool) -> None:
    """Waiters get the whole answer, unless it is none of the API's."""
    name = "text/event-stream" if live else "application/json"
    _, error, _ = run(response_with(name, b"{", b"}"), Reader(verdict, "error"))
    assert error is not None
    assert (error.kind, error.answered) == (kind, answered)
    ended = {"ended": True} if live and verdict != "server_error" else {}
    whole = head(["content-type", name]) | {"body": b"{}"}
    assert error.detail == ((ended or None) if verdict == "unclassifiable" else whole | ended)


def test_a_stream_that_begins_with_an_error_of_the_server_reaches_nobody_else() -> None:
    """A waiter that has seen no piece may make the call. After other pieces, all see the error. The error is no output of a model."""
    failing = Reader("server_error", "error")
    yielded, error, _ = run(response_with("text/event-stream", b"error END", b"rest"), failing)
    enough = yielded.pop(0)
    assert isinstance(enough, Enough)
    assert yielded == [ForOwnCaller(b"error END", is_output=False), ForOwnCaller(b"rest", is_output=False)]
    assert error is not None
    assert error.kind == "transient"
    yielded, _, _ = run(response_with("text/event-stream", b"text", b"error END"), Reader("server_error", "error"))
    assert [piece for piece in yielded if isinstance(piece, bytes)] == [b"text", b"error END"]


@pytest.mark.parametrize(("encode", "name"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
def test_common_encodings_are_shared_as_received(encode: Any, name: str) -> None:
    """The reader gets the text."""
    sent, reader = encode(b"text"), Reader()
    yielded, _, _ = run(response_with("application/json", sent[:5], sent[5:], content_encoding=name), reader)
    assert yielded[-1] == ForOthers(head(JSON, ["content-encoding", name]) | {"body": sent})
    assert reader.read == b"text"


def test_other_encodings_are_decoded_for_others() -> None:
    """The length of the encoded body is not theirs."""
    sent, reader = zstandard.compress(b"text END"), Reader()
    answer = response_with("text/event-stream", sent, content_encoding="zstd", content_length="9")
    yielded, _, _ = run(answer, reader)
    assert yielded == [ForOthers(head(SSE)), ForOthers(b"text END"), ENOUGH, ForOwnCaller(sent)]
    yielded, _, _ = run(response_with("application/json", sent, content_encoding="zstd"), Reader())
    assert yielded == [ForOwnCaller(sent), ForOthers(head(JSON) | {"body": b"text END"})]


@pytest.mark.parametrize(
    ("kind", "encoding", "shown", "failure"),
    [
        ("text/event-stream", "gzip", [b"bad"], ("ignored", {"ended": True})),
        ("text/event-stream", "zstd", [ForOwnCaller(b"bad")], ("transient", None)),
        ("application/json", "gzip", [ForOwnCaller(b"bad")], ("ignored", None)),
        ("application/json", "exi", [ForOwnCaller(b"bad")], ("ignored", None)),
        ("text/event-stream", "exi", [ForOwnCaller(b"bad")], ("ignored", None)),
    ],
)
def test_an_answer_that_cannot_be_decoded_is_not_shared(
    kind: str, encoding: str, shown: list[Any], failure: Any
) -> None:
    """Followers of received bytes get what the holder gets; followers of decoded bytes get a broken stream."""
    yielded, error, answer = run(response_with(kind, b"bad", content_encoding=encoding), Reader())
    assert [
        one for one in yielded if one != b"" and not (isinstance(one, ForOthers) and "status" in one.piece)
    ] == shown
    assert error is not None
    assert (error.kind, error.detail if error.kind == "ignored" else None) == failure
    assert answer.not_stored == "dialect"


def test_an_answer_of_another_kind_goes_to_its_own_caller_alone() -> None:
    """Its head decides, so no caller waits for its end."""
    yielded, error, _ = run(
        response_with("text/event-stream", b"a"), Reader("unclassifiable", "dialect", classifiable=False)
    )
    assert yielded == [ForOwnCaller(b"a")]
    assert error is not None
    assert (error.kind, error.answered) == ("ignored", False)


def test_an_answer_that_is_too_large_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer above the limit is kept nowhere, and its backend has answered."""
    monkeypatch.setattr(upstream_answer, "MAX_ANSWER_BYTES", 3)
    yielded, error, answer = run(response_with("application/json", b"ab", b"cd"), Reader())
    assert yielded == [ForOwnCaller(b"ab"), ForOwnCaller(b"cd")]
    assert error is not None
    assert (error.kind, error.answered, error.not_stored, error.detail) == ("ignored", True, "size", None)
    assert answer._body == b""


@pytest.mark.parametrize(
    ("found", "headers", "policy", "expected"),
    [
        ("", {}, {}, ""),
        ("", {"cache_control": "no-store"}, {}, "policy"),
        ("", {"cache_control": "no-cache, private"}, {}, ""),
        ("", {}, {"objection": "policy"}, "policy"),
        ("length", {}, {}, "length"),
        ("length", {}, {"keep_length": True}, ""),
        ("length", {}, {"keep_length": True, "objection": "policy"}, "policy"),
        ("refusal", {}, {"keep_length": True}, "refusal"),
    ],
)
def test_the_app_sees_why_its_answer_is_not_stored(found: str, headers: Any, policy: Any, expected: str) -> None:
    """A response header names the reason as soon as it is known."""
    response = response_with("application/json", b"x", **headers)
    _, error, answer = run(response, Reader("complete", found), **policy)
    assert error is None
    assert answer.not_stored == expected
    assert response.headers.get("x-sidecard-not-stored", "") == expected


class FaultyReader(Reader):
    """Fails at a method."""

    def __init__(self, method: str) -> None:
        super().__init__()
        self._method = method

    def feed(self, data: bytes) -> None:
        """Perhaps fail."""
        if self._method == "feed":
            raise KeyError("a fault of the reader")

        super().feed(data)

    def finish(self) -> AnswerSummary:
        """Perhaps fail."""
        if self._method == "finish":
            raise KeyError("a fault of the reader")

        return super().finish()


@pytest.mark.parametrize("method", ["feed", "finish"])
@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_a_fault_of_a_reader_is_none_of_the_apps_request(
    method: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The app gets its whole answer, nobody else does, and the fault is logged."""
    pieces, failure, answer = run(response_with(kind, b"a", b"END"), FaultyReader(method))
    own = [piece.piece if isinstance(piece, ForOwnCaller) else piece for piece in pieces]
    assert b"".join(piece for piece in own if isinstance(piece, bytes)) == b"aEND"
    assert failure is not None or any(isinstance(piece, Enough) and piece.error is not None for piece in pieces)
    assert answer.not_stored == "dialect"
    assert "reading an answer failed" in caplog.text
