"""Divide an upstream answer: its own caller gets it as it arrives, and others as soon as it may be shared.

=================  ==============================================  ====================================================
part               to its own caller                               to others
=================  ==============================================  ====================================================
head               the library's own response                      status and headers, with the first piece of the body:
                                                                   a waiter without a piece may make the call itself
event stream       each piece as received                          the same piece; decoded, if not all callers can do that
any other body     each piece as received                          all of it with the head, once it is known to be whole
=================  ==============================================  ====================================================

Pieces before the model's output are marked (``is_output``): callers with the same prefix may wait for the output.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from sidecard_client.call.streams import ENOUGH, Enough, ForOthers, ForOwnCaller
from sidecard_client.http.answers.readers import LINE_TYPES
from sidecard_client.http.family import AnswerReader, AnswerSummary, UnclassifiableAnswer, media_type_of
from sidecard_client.http.messages.encodings import (
    SHARED_AS_RECEIVED,
    UndecodableAnswer,
    decoded_whole,
    decoder_for,
    encodings_in,
)
from sidecard_client.http.messages.refusals import MAX_REFUSAL_BYTES, AnswerNotShared, refusal_detail
from sidecard_client.http.messages.responses import head_of, mark

if TYPE_CHECKING:
    from sidecard_client.http.messages.libraries import Response

_log = logging.getLogger("sidecard_client")

MAX_ANSWER_BYTES: Final = 15 * 1024 * 1024
"""Limit of an answer that is shared as one piece."""

_STREAM_TYPES: Final = LINE_TYPES | {"text/event-stream", "application/vnd.amazon.eventstream"}


class UpstreamAnswer:
    """Divides the pieces of one answer between its own caller and others, and judges it.

    ``objection`` is why the app's policy does not store the answer, if it does not; ``keep_length`` stores answers that were
    cut at their maximum length. ``completed`` is called when the answer is known to be complete.
    """

    def __init__(
        self,
        response: "Response",
        reader: AnswerReader,
        *,
        objection: str,
        keep_length: bool,
        completed: Callable[[], object],
    ) -> None:
        self.source = response.stream
        """The body, before it is replaced by the one that the app reads."""
        self.summary: AnswerSummary | None = None
        """Known at the end, or at the event that ends a stream, or earlier if the answer cannot be read."""
        self._response: Response | None = response
        self._headers = response.headers
        self._reader = reader
        self._objection = "policy" if _forbids_storing(response) else objection
        self._keep_length = keep_length
        self._completed = completed
        self._encodings = encodings_in(response.headers.get("content-encoding", ""))
        self._decoder = decoder_for(self._encodings)
        self._as_received = SHARED_AS_RECEIVED.issuperset(self._encodings)
        self._head = head_of(response, decoded=not self._as_received)
        self._is_live = media_type_of(response.headers.get("content-type", "")) in _STREAM_TYPES
        self._is_shared = True
        self._head_is_sent = False
        self._body = bytearray()  # not a list: a server may send it byte by byte
        self._room = MAX_REFUSAL_BYTES if self._is_live else MAX_ANSWER_BYTES
        if self._decoder is None:
            self._is_shared = False
            names = ", ".join(self._encodings)
            self._judge(AnswerSummary("unclassifiable", "dialect", f"its encoding ({names}) cannot be decoded here"))
        elif not reader.classifiable:
            self._is_shared = False
            self._judge(reader.finish())
        else:
            self._mark()

    @property
    def not_stored(self) -> str:
        """Why the answer is not stored; empty if it may be, or if that is not known yet."""
        found = "" if self.summary is None else self.summary.not_stored
        return self._objection if not found or (found == "length" and self._keep_length) else found

    def first(self) -> ForOwnCaller:
        """Return the piece before those of the body: the library's response."""
        own = ForOwnCaller(self._response, is_output=False)
        self._response = None  # it refers to what refers to this
        return own

    def received(self, data: bytes) -> list[Any]:
        """Return the pieces for some more bytes of the body."""
        was_known = self.summary is not None
        decoded = self._read(data)
        is_output = self._reader.has_output or self.summary is not None
        own = ForOwnCaller(data, is_output)
        if not self._is_shared:
            return [own]

        self._collect([data] if self._as_received else decoded)
        if not self._is_live:
            return [own]

        ends = [] if was_known or self.summary is None or self._decoder is None else [self._conclusion(self.summary)]
        if not self._head_is_sent and self.summary is not None and self.summary.failure == "transient":
            # Nobody else has seen a piece, so one of them may still make the call.
            return [*ends, ForOwnCaller(data, is_output=False)]

        if self._as_received and is_output:
            return [*self._unsent_head(), *ends, data]

        shared = [ForOthers(piece, is_output) for piece in ([data] if self._as_received else decoded)]
        return [*self._unsent_head(is_output=is_output), *shared, *ends, own]

    def ended(self) -> list[Any]:
        """Return the last pieces, after the end of the body. Raises `AnswerNotShared`."""
        failure = self._conclusion(self.summary or self._finished()).error
        if failure is not None:
            raise failure

        return self._unsent_head() if self._is_live else [ForOthers(self._head | {"body": bytes(self._body)})]

    def _unsent_head(self, *, is_output: bool = True) -> list[Any]:
        was_sent, self._head_is_sent = self._head_is_sent, True
        return [] if was_sent else [ForOthers(self._head, is_output)]

    def _conclusion(self, summary: AnswerSummary) -> Enough:
        if summary.failure is None:
            return ENOUGH

        return Enough(
            AnswerNotShared(
                summary.failure,
                self.not_stored,
                summary.detail,
                answered=summary.answered,
                detail=self._detail(summary),
            )
        )

    def _read(self, data: bytes) -> list[bytes]:
        """Let the reader read some bytes, and return them decoded. After the event that ends a stream, nothing is read."""
        if self._decoder is None or (self.summary is not None and self._as_received):
            return []

        decoded: list[bytes] = []
        try:
            for part in self._decoder.decode(data):
                decoded.append(part)
                if self.summary is None:
                    self._feed(part)
        except UndecodableAnswer as error:
            self._decoder = None
            # Those who follow it as received have what its own caller has; those who follow it decoded lack the rest.
            breaks = self._is_live and not self._as_received
            self._is_shared = self._is_shared and self._is_live and self._as_received
            self._judge(AnswerSummary("server_error" if breaks else "unclassifiable", "dialect", str(error)))

        if self.summary is None and self._reader.terminal:
            self._finished()

        return decoded

    def _feed(self, part: bytes) -> None:
        try:
            self._reader.feed(part)
        except Exception:  # noqa: BLE001 - logged there
            self._reader = faulty_reader()

    def _summary_of_reader(self) -> AnswerSummary:
        try:
            return self._reader.finish()
        except Exception:  # noqa: BLE001 - logged there
            return faulty_reader().finish()

    def _collect(self, parts: Sequence[bytes]) -> None:
        if self._room < 0:
            return

        for part in parts:
            self._body += part
            self._room -= len(part)

        if self._room < 0:
            self._body.clear()
            self._is_shared = self._is_live

    def _finished(self) -> AnswerSummary:
        summary = self._summary_of_reader()
        if not self._is_shared:
            summary = structs.replace(
                summary, verdict="unproven", not_stored="size", detail=f"it has more than {MAX_ANSWER_BYTES} bytes"
            )

        self._judge(summary)
        return summary

    def _judge(self, summary: AnswerSummary) -> None:
        self.summary = summary
        self._mark()
        if summary.complete:
            self._completed()

    def _mark(self) -> None:
        reason = self.not_stored
        if reason:
            mark(self._headers, not_stored=reason)

    def _decoded_body(self) -> bytes | None:
        return decoded_whole(self._encodings if self._as_received else (), [bytes(self._body)], MAX_REFUSAL_BYTES)

    def _detail(self, summary: AnswerSummary) -> dict[str, Any] | None:
        """Return what waiters get of an answer that is not shared: for one that followed it, that it ended so for all."""
        follows = self._is_live and self._is_shared
        ended = {"ended": True} if follows and summary.verdict != "server_error" else {}
        if summary.failure == "ignored":
            return ended or None

        body = None if self._room < 0 else self._decoded_body()
        if body is None:
            return ended or None

        refusal = refusal_detail(self._head, self._headers.raw, body, decoded=bool(self._encodings))
        return None if refusal is None else refusal | ended


def faulty_reader() -> AnswerReader:
    """Log the exception of a reader, and return another one: a fault of it is no reason for the app's request to fail."""
    _log.exception("reading an answer failed; it is not shared")
    return UnclassifiableAnswer("reading it failed")


def _forbids_storing(response: "Response") -> bool:
    directives = response.headers.get("cache-control", "").lower().split(",")
    return any(directive.strip() == "no-store" for directive in directives)
