"""The holder's side of a stream: run the function, and give each piece to the daemon and to the caller.

===========  ===============================================  =========================================================
piece        to the other callers, and into the stored entry  to the own caller
===========  ===============================================  =========================================================
any value    yes                                              yes, after the daemon got it
ForOwnCaller no                                               yes
ForOthers    yes                                              no
Enough       no: the next piece ends the answer               no
===========  ===============================================  =========================================================
"""

from collections.abc import Generator, Sequence
from typing import Any, Final

from msgspec import structs

from sidecard_client.call.attempts import Attempts
from sidecard_client.call.commands import (
    Abandon,
    AfterGive,
    Ask,
    Command,
    FinalReply,
    Give,
    GoOn,
    Hold,
    Open,
    Pull,
    Raised,
    Release,
    Returned,
    Send,
)
from sidecard_client.call.completion import reason_of, warn_unshareable
from sidecard_client.call.conversation import run_attempts, settle
from sidecard_client.call.failures import fail, kind_of
from sidecard_client.call.stream_report import StreamReport
from sidecard_client.call.streams import END, Enough, ForOthers, ForOwnCaller, Leading, Provenance
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import CallFailed, UnshareableValue

LEFT: Final = "its caller wanted no more of the stream"
UNREAD: Final = "its caller did not read the stream, and no other caller waited for it"

FLUSH_BYTES: Final = 256 * 1024
"""Bytes of held-back pieces after which the daemon's reply is awaited, to bound the backlog."""


def lead(leading: Leading, facts: Provenance) -> Generator[Command, Any, Raised | None]:
    """Run the function, and give each piece to the daemon and to the caller. Returns the call's exception."""
    attempts, dropped = leading.attempts, False
    try:
        result: Returned | Raised = yield from run_attempts(attempts, Open)
        if isinstance(result, Raised):
            stale = attempts.stale_outcome(result.error, facts.waited_seconds)
            if stale is None:
                return result

            for piece in facts.use_stale(stale):
                if (yield Give(piece)) != "more":
                    break

            return None

        facts.source = leading.source if attempts.lease is None else "upstream"
        facts.backend, facts.attempts = attempts.backend, attempts.count
        pieces = _lead_pieces(attempts, result.value)
        del result  # as in `_lead_pieces`
        return (yield from pieces)
    except GeneratorExit:
        dropped = True  # no interpreter executes commands any more
        raise
    finally:
        facts.not_stored = attempts.not_stored
        if attempts.lease is not None and not dropped:
            yield Abandon()


def _lead_pieces(  # noqa: C901, PLR0912 - one case for each kind of piece, and for each state of the caller
    attempts: Attempts, piece: Any
) -> Generator[Command, Any, Raised | None]:
    sharing = _Sharing(attempts)
    reads = True
    last: Enough | None = None
    complete: Enough | None = None
    while True:
        if isinstance(piece, Enough):
            last = piece
        else:
            own, others = not isinstance(piece, ForOthers), not isinstance(piece, ForOwnCaller)
            is_output = (own and others) or piece.is_output
            if isinstance(piece, ForOthers | ForOwnCaller):
                piece = piece.piece

            if others:
                yield from sharing.append(piece, is_output=is_output)

            if is_output and piece is not END:
                yield from sharing.report_output()

            if piece is END or not (reads or sharing.goes_on):
                return None

            if is_output:
                sharing.began()

            complete = last
            if own and reads:
                # Not kept here: it may refer to the stream, which would never be found to be unreferenced.
                unkept, piece = [piece], None
                after: AfterGive = yield Give(unkept.pop(), sharing.goes_on)
                reads = after != "left"
                if after == "full":
                    yield from sharing.stop("its caller reads too slowly for the pieces to be kept")
                elif after != "more":
                    if complete is not None:
                        yield from sharing.conclude(complete)
                        return None

                    unread = after == "unread"
                    if not (yield from _may_go_on(attempts, UNREAD if unread else LEFT)):
                        return (
                            Raised(CallFailed("transient", f"the stream was ended, because {UNREAD}"))
                            if unread
                            else None
                        )

            elif complete is not None and not reads:
                yield from sharing.conclude(complete)
                return None

        result: Returned | Raised = yield Pull(complete is not None)
        if isinstance(result, Raised):
            yield from sharing.fail(result.error) if complete is None else sharing.conclude(complete)
            return result

        piece = result.value


class _Sharing:
    """The daemon's side of a stream: sends each piece and the end while the daemon accepts them."""

    def __init__(self, attempts: Attempts) -> None:
        self._attempts = attempts
        lease = attempts.lease
        self._report = None if lease is None else StreamReport(attempts.call, lease, attempts.opened_at)
        self._reports_output = lease is not None and lease.prefix
        """The daemon waits for the first output, which no message has reported yet."""

    @property
    def goes_on(self) -> bool:
        """Whether the daemon takes pieces."""
        return self._report is not None

    def began(self) -> None:
        """Record that the function has produced output."""
        if self._report is not None:
            self._report.began()

    def report_output(self) -> Generator[Command, Any, None]:
        """Report the first output, unless a message has reported it."""
        lease = self._attempts.lease
        if self._reports_output and self._report is not None and lease is not None:
            self._reports_output = False
            yield Send(wire.Started(lease=lease.lease))

    def append(self, piece: Any, *, is_output: bool = True) -> Generator[Command, Any, None]:
        """Send a piece, or the end."""
        report, lease = self._report, self._attempts.lease
        if report is None or lease is None:
            return

        unshareable = None
        try:
            if piece is not END:
                yield from self._send(lease, report.append(piece, is_output=is_output))
                return

            if not (yield from self._send(lease, report.take_held())):
                return

            message = report.complete()
        except UnshareableValue as error:
            unshareable = reason_of(self._attempts.call, error)
            message = report.refuse(error)

        yield from self._end(lease, message)
        if unshareable is not None:
            warn_unshareable(self._attempts.call.function_of(self._attempts.backend), unshareable)

    def conclude(self, enough: Enough) -> Generator[Command, Any, None]:
        """End an answer that its caller has, although its function has not ended."""
        yield from self.append(END) if enough.error is None else self.fail(enough.error)

    def fail(self, error: BaseException) -> Generator[Command, Any, None]:
        """Report that the function has raised."""
        report, lease, call = self._report, self._attempts.lease, self._attempts.call
        if report is None or lease is None:
            return

        message = fail(lease.lease, error, kind_of(error, call.options.classify))
        if message.answered:
            message = structs.replace(message, usage=report.usage())

        yield from self._end(lease, message)

    def stop(self, reason: str) -> Generator[Command, Any, None]:
        """End the lease without an answer for others, although the function goes on for its caller."""
        lease = self._attempts.lease
        if lease is not None:
            yield from self._end(
                lease, wire.Fail(lease=lease.lease, kind="ignored", message=reason, answered=True, not_stored="other")
            )

    def _end(self, lease: wire.Lease, message: wire.Complete | wire.Fail) -> Generator[Command, Any, None]:
        self._report = None
        yield Release(lease)
        yield from settle(self._attempts, message)

    def _send(self, lease: wire.Lease, messages: Sequence[wire.Append]) -> Generator[Command, Any, bool]:
        if self._reports_output and any(message.output for message in messages):
            self._reports_output = False

        taken = yield from _append(self._attempts, lease, messages)
        if not taken:
            self._report = None

        return taken


def _append(attempts: Attempts, lease: wire.Lease, messages: Sequence[wire.Append]) -> Generator[Command, Any, bool]:
    """Send pieces to the daemon; if it does not take them, end the lease and return False."""
    unread_bytes, taken = 0, True
    for message in messages:
        taken = yield Send(message)
        unread_bytes += len(memoryview(message.chunk))
        if taken and unread_bytes >= FLUSH_BYTES and len(messages) > 1:
            unread_bytes = 0
            yield Release(lease)
            taken = isinstance((yield Ask(wire.Renew(lease=lease.lease))), wire.Ok)
            yield Hold(lease)

        if not taken:
            yield Abandon()
            attempts.lease = None
            break

    return taken


def _may_go_on(attempts: Attempts, reason: str) -> Generator[Command, Any, bool]:
    """Return whether the call goes on because others wait for it; else end it for ``reason``."""
    lease = attempts.lease
    if lease is None:
        return False

    yield Release(lease)
    reply: FinalReply = yield Ask(wire.Renew(lease=lease.lease))
    if others_wait(reply):
        yield Hold(lease)
        if (yield GoOn()):
            return True

        yield Release(lease)

    yield from settle(attempts, wire.Fail(lease=lease.lease, kind="cancelled", message=reason))
    return False


def others_wait(reply: FinalReply) -> bool:
    """Return whether the reply to a `wire.Renew` reports waiters."""
    return isinstance(reply, wire.Ok) and bool(reply.waiters)
