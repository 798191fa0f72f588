"""The holder's side of a stream: run the function, and give each piece to the daemon and to the caller.

===========  ===============================================  =========================================================
piece        to the other callers, and into the stored entry  to the own caller
===========  ===============================================  =========================================================
any value    yes                                              yes, after the daemon got it
ForOwnCaller no                                               yes
ForOthers    yes                                              no
ENOUGH       no: the next piece completes the answer          no
===========  ===============================================  =========================================================
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

from msgspec import structs

from sidecard_client.call.attempts import Attempts
from sidecard_client.call.call import Call
from sidecard_client.call.commands import (
    Abandon,
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
from sidecard_client.call.streams import END, ENOUGH, ForOthers, ForOwnCaller, Leading, Provenance, follow
from sidecard_client.protocol import wire
from sidecard_client.protocol.errors import UnshareableValue

FLUSH_BYTES: Final = 256 * 1024
"""After so many bytes of pieces that were held back, the daemon's reply is awaited, so that no backlog builds up."""


def stream(call: Call, facts: Provenance, place: Callable[[], str]) -> Generator[Command, Any, Raised | None]:
    """Converse for a whole stream. Raises what `follow` does."""
    leading = yield from follow(call, facts, place)
    return None if leading is None else (yield from lead(leading, facts))


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
                yield Give(piece)

            return None

        facts.source = leading.source if attempts.lease is None else "upstream"
        facts.backend, facts.attempts = attempts.backend, attempts.count
        return (yield from _lead_pieces(attempts, result.value))
    except GeneratorExit:
        dropped = True  # no interpreter executes commands any more
        raise
    finally:
        facts.not_stored = attempts.not_stored
        if attempts.lease is not None and not dropped:
            yield Abandon()


def _lead_pieces(  # noqa: C901, PLR0912 - one case for each kind of piece
    attempts: Attempts, piece: Any
) -> Generator[Command, Any, Raised | None]:
    lease = attempts.lease
    report = None if lease is None else StreamReport(attempts.call, lease, attempts.opened_at)
    read, last, complete = True, False, False
    while True:
        if piece is ENOUGH:
            last = True
        else:
            own, shared = not isinstance(piece, ForOthers), not isinstance(piece, ForOwnCaller)
            if isinstance(piece, ForOthers | ForOwnCaller):
                piece = piece.piece

            if report is not None:
                if piece is not END:
                    report.began()

                if shared and not (yield from _report(attempts, report, piece)):
                    report = None

            if piece is END:
                return None

            complete = last
            if own and read:
                read = yield Give(piece)
                if not read and not complete and not (yield from _may_go_on(attempts)):
                    return None

            if complete and not read:
                yield from _end(attempts, report)
                return None

        result: Returned | Raised = yield Pull()
        if isinstance(result, Raised):
            lease = attempts.lease
            if complete:
                yield from _end(attempts, report)
            elif lease is not None:
                yield Release(lease)
                yield from settle(attempts, _failure(attempts.call, lease, result.error, report))

            return result

        piece = result.value


def _failure(call: Call, lease: wire.Lease, error: BaseException, report: StreamReport | None) -> wire.Fail:
    message = fail(lease.lease, error, kind_of(error, call.options.classify))
    return structs.replace(message, usage=report.usage()) if message.answered and report is not None else message


def _end(attempts: Attempts, report: StreamReport | None) -> Generator[Command, Any, None]:
    """Report an answer that is complete, although its function has not ended."""
    if report is not None:
        yield from _report(attempts, report, END)


def _report(attempts: Attempts, report: StreamReport, piece: Any) -> Generator[Command, Any, bool]:
    """Send a piece, or the end, to the daemon. Returns False once nothing more can be shared."""
    lease = attempts.lease
    if lease is None:
        return False

    unshareable = None
    try:
        if piece is not END:
            return (yield from _append(attempts, lease, report.append(piece)))

        if not (yield from _append(attempts, lease, report.take_held())):
            return False

        message = report.complete()
    except UnshareableValue as error:
        unshareable = reason_of(attempts.call, error)
        message = report.refuse(error)

    yield Release(lease)
    yield from settle(attempts, message)
    if unshareable is not None:
        warn_unshareable(attempts.call.function_of(attempts.backend), unshareable)

    return False


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


def _may_go_on(attempts: Attempts) -> Generator[Command, Any, bool]:
    """After the caller has left, return whether the call goes on because others wait for it; else end it."""
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

    yield from settle(attempts, wire.Fail(lease.lease, "cancelled", "the caller wanted no more of its stream"))
    return False


def others_wait(reply: FinalReply) -> bool:
    """Return whether the reply to a `wire.Renew` reports waiters."""
    return isinstance(reply, wire.Ok) and bool(reply.waiters)
