"""Every decision of a batch, for both clients: the conversations of its inputs, side by side. It never waits itself.

Each input has the conversation of a single call (`sidecard_client.call.conversation`), which decides about its replies, its failure,
its fallback. This module only carries their commands out together::

    1  SendAll   begins of the inputs, a group at a time; all of them get a first reply: hit, lease, pending, ...
    2  RunEach   one upstream call for the inputs whose conversations want to run the function: those with leases
    3  SendAll   the answers, each with its own lease
    4  Receive   wait for the pending inputs: calls of other callers, or permits; then 2 again for those that got leases

No process waits for another one's call while it holds a lease whose call has not been made, so two batches with the same
inputs in another order cannot wait for each other:

    1. A begins x, y and B begins y, x: A leads x, B leads y; each is pending for the other
    2. A calls for x, B calls for y: neither waits for a reply before
    3. A completes x, which answers B; B completes y, which answers A
    4. B fails instead: A is elected for y, and makes one further call for all inputs that it is elected for

If an input fails for good, the batch ends: answers so far are stored, open leases are returned, and the failure is raised.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from itertools import count
from time import monotonic
from typing import Any, Final

from msgspec.structs import replace

from sidecard_client.batches.batch import InputBatch
from sidecard_client.batches.commands import BatchCommand, LetOthersRun, Receive, RunEach, SendAll, Wait
from sidecard_client.batches.member import Member
from sidecard_client.batches.results import UpstreamResults
from sidecard_client.call import commands
from sidecard_client.call.call import Call
from sidecard_client.call.commands import Raised, Returned
from sidecard_client.call.conversation import Conversation, converse
from sidecard_client.call.local_flights import LocalFlights, LocalWaiter
from sidecard_client.call.outcome import Outcome, hit_outcome
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import LATE_SECONDS, ConnectionLost
from sidecard_client.protocol.errors import CallFailed

GROUP: Final = 64
"""Requests sent at the same time. Their replies fit into the daemon's buffer (32 MiB) up to 512 KiB each."""

GROUP_BYTES: Final = 1024 * 1024
"""Limit of the answers sent at the same time; a larger one is sent alone."""

MAX_RESTARTS: Final = 5
"""How often an input begins again after another batch failed with it: another input of that batch may be at fault."""

LOOK_SECONDS: Final = 0.02
"""Poll interval for replies while an input also waits for a call of this process. Rare: such calls need no daemon."""

Replies = list[wire.AnyReply] | ConnectionLost

_numbers = count(1)
"""Names the batches of this process for the daemon."""


class BatchEnded(BaseException):
    """Thrown into the conversations of the other inputs when one has failed: they return their leases."""


class BatchConversation:
    """The conversation of one batch.

    ``find_stored`` returns the answer that a view has; ``saw_hit`` gets the namespace of each hit over the socket.
    """

    def __init__(
        self,
        batch: InputBatch,
        flights: LocalFlights,
        place: Callable[[], str],
        find_stored: Callable[[Call], wire.Hit | None],
        saw_hit: Callable[[str], object],
    ) -> None:
        self._batch = batch
        self._find_stored, self._saw_hit = find_stored, saw_hit
        self._flights, self._place = flights, place
        self._number = next(_numbers)
        self._options = batch.calls[0].options
        self._members = list(map(Member, batch.calls))
        self._results = UpstreamResults(batch)
        options = replace(self._options, classify=self._results.classify)
        for member in self._members:
            member.set_options(options)

        self._unbegun = deque(self._members)
        self._reports: list[wire.AnyRequest] = []
        self._requests: deque[tuple[Member | None, wire.AnyRequest]] = deque()
        self._leaving: list[wire.AnyRequest] = []
        """Requests that are being sent."""
        self._awaited: dict[int, Member | None] = {}
        self._pending: set[int] = set()
        self._ready: list[Member] = []
        self._local: dict[Member, LocalWaiter] = {}
        self._again = False
        self._failure: Raised | None = None

    def run(self) -> Generator[BatchCommand, Any, list[Outcome[Any]] | Raised]:
        """Return the outcomes of all inputs, or the exception of the first that failed."""
        try:
            yield from self._answer_all()
            if self._failure is None:
                return self._batch.in_order([member.outcome for member in self._members if member.outcome is not None])

            self._give_back(BatchEnded())
            if self._reports:
                yield SendAll(self._reports, ())
        except BaseException as error:
            self._give_back(error)
            if self._reports and not isinstance(error, GeneratorExit):
                yield SendAll(self._reports, ())

            raise
        finally:
            # The calls refer to this object by their options.
            for member in self._members:
                member.call.options = self._options

            self._members.clear()

        return self._failure

    def _answer_all(self) -> Generator[BatchCommand, Any, None]:
        while True:
            owed = len(self._awaited) > len(self._pending)
            if not owed and self._failure is None:
                yield from self._begin_more()

            if self._requests or self._reports:
                yield from self._send()
            elif owed:
                yield from self._receive("reply")
            elif self._failure is not None:
                return
            elif self._ready:
                yield from self._run_upstream()
            elif self._local:
                yield from self._wait_locally()
            elif self._pending:
                yield from self._receive("pending")
                if self._ready:
                    # Several leases may arrive one after another. The daemon replies in order: the pong comes after all.
                    self._requests.append((None, wire.Ping()))
            else:
                return

    # The daemon -------------------------------------------------------------------------------------------------------

    def _room(self) -> int:
        """Return how many more inputs may begin now."""
        room = self._batch.max_batch - len(self._ready) - len(self._requests)
        return max(0, min(room, GROUP, len(self._unbegun)))

    def _begin_more(self) -> Generator[BatchCommand, Any, None]:
        """Begin more inputs: as many as may be sent to the daemon together, and any number that views answer."""
        while self._failure is None and (room := self._room()):
            for _ in range(room):
                member = self._unbegun.popleft()
                member.started = monotonic()
                stored = self._find_stored(member.call)
                if stored is None:
                    self._begin(member, commands.BeginCall(member.call))
                else:
                    self._answer_stored(member, stored, 0.0)

            if self._requests:
                return

            yield LetOthersRun()

    def _begin(self, member: Member, command: commands.BeginCall) -> None:
        member.begin = command
        request = replace(command.call.begin(0, command.wait_seconds), batch=self._number)
        self._requests.append((member, request))
        self._again = self._again or command.again

    def _send(self) -> Generator[BatchCommand, Any, None]:
        reports, self._reports = self._reports, []
        again, self._again = self._again, False
        group: list[tuple[Member | None, wire.AnyRequest]] = []
        size = 0
        while self._requests and len(group) < GROUP:
            request = self._requests[0][1]
            size += len(memoryview(request.value)) if isinstance(request, wire.Complete) else 0
            if group and size > GROUP_BYTES:
                break

            group.append(self._requests.popleft())

        self._leaving = [request for _, request in group]
        ids: Sequence[int] | ConnectionLost = yield SendAll(reports, self._leaving, again)
        self._leaving = []
        if isinstance(ids, ConnectionLost):
            self._lose(ids, [member for member, _ in group])
            return

        for request_id, (member, _) in zip(ids, group, strict=True):
            self._awaited[request_id] = member
            if member is not None and member.begin is not None:
                member.begin_id = request_id

    def _receive(self, wait: Wait) -> Generator[BatchCommand, Any, None]:
        late_at = None
        if wait == "pending" and self._options.wait_seconds is not None:
            late_at = monotonic() + self._options.wait_seconds + LATE_SECONDS

        replies: Replies = yield Receive(wait, late_at)
        if isinstance(replies, ConnectionLost):
            self._lose(replies, ())
        elif replies or wait == "nothing":
            for reply in replies:
                self._take(reply)
        else:
            self._end_late_waits()

    def _take(self, reply: wire.AnyReply) -> None:
        request_id = reply.id
        if request_id not in self._awaited:
            return

        if isinstance(reply, wire.Pending):
            self._pending.add(request_id)
            return

        self._pending.discard(request_id)
        self._answer(self._awaited.pop(request_id), reply)

    def _lose(self, lost: ConnectionLost, unsent: Iterable[Member | None]) -> None:
        """Let all that awaited a reply of the connection continue without it."""
        members = [*self._awaited.values(), *unsent]  # None for a ping
        self._awaited.clear()
        self._pending.clear()
        # Over the next connection, the same ids are those of other calls.
        self._reports = [report for report in self._reports if not isinstance(report, wire.Cancel)]
        for member in self._members:
            member.begin_id = 0

        for waiting in members:
            self._answer(waiting, lost)

    def _end_late_waits(self) -> None:
        for request_id in list(self._pending):
            self._reports.append(wire.Cancel(target=request_id))
            self._take(wire.Timeout(request_id, self._options.wait_seconds or 0.0))

    def _answer(self, member: Member | None, reply: commands.FinalReply) -> None:
        if member is None:
            return  # a pong

        member.begin = None
        if member.conversation is not None:
            self._resume(member, reply)
            return

        call = member.call
        if isinstance(reply, wire.Hit):
            self._saw_hit(call.options.namespace)
            self._answer_stored(member, reply, monotonic() - member.started)
        else:
            self._converse(member, reply)

    def _answer_stored(self, member: Member, hit: wire.Hit, waited_seconds: float) -> None:
        member.outcome = hit_outcome(member.call, hit, waited_seconds)
        if member.outcome is None:
            self._converse(member, hit)

    def _converse(self, member: Member, reply: commands.FinalReply) -> None:
        flights, place, refused = self._flights, self._place, isinstance(reply, wire.Hit)
        member.conversation = converse(member.call, flights, place, member.started, reply, refused=refused)
        self._resume(member, None)

    # The conversations ------------------------------------------------------------------------------------------------

    def _resume(self, member: Member, result: Any) -> None:  # noqa: C901 - one case for each command
        """Continue the conversation of one input, up to a command that waits."""
        conversation = member.conversation
        assert conversation is not None  # noqa: S101 - only those with one wait; for the type checker
        try:
            while True:
                command = conversation.send(result)
                result = None
                match command:
                    case commands.BeginCall():
                        self._begin(member, command)
                        return
                    case commands.Ask():
                        self._requests.append((member, command.message))
                        return
                    case commands.Run():
                        member.run = command
                        self._ready.append(member)
                        return
                    case commands.WaitLocal():
                        member.waits_until = monotonic() + command.seconds
                        self._local[member] = command.waiter
                        return
                    case _:
                        result = self._report(member, command)
        except StopIteration as end:
            if isinstance(end.value, Raised):
                self._fail(end.value)
            else:
                member.outcome = end.value
        except CallFailed as error:
            if error.kind != "cancelled" or member.restarts >= MAX_RESTARTS:
                self._fail(Raised(error.with_traceback(None)))
                return

            member.restarts += 1
            member.conversation = None
            self._unbegun.append(member)
        except Exception as error:  # noqa: BLE001 - of one input, which fails the batch
            self._fail(Raised(error.with_traceback(None)))

    def _report(self, member: Member, command: commands.Command) -> bool:
        match command:
            case commands.Send():
                self._reports.append(command.message)
            case commands.Abandon():
                if member.begin_id:
                    self._reports.append(wire.Cancel(target=member.begin_id))
            case _:
                raise AssertionError(f"unreachable: a plain call has no {type(command).__name__}")

        return True

    def _fail(self, failure: Raised) -> None:
        if self._failure is None:
            self._failure = failure

    def _give_back(self, error: BaseException) -> None:
        """Throw ``error`` into all conversations: they report what they hold, and pass their local flights on.

        Reports of leases that have not been sent yet are sent; what was sent twice, the daemon refuses.
        """
        unsent = [*self._leaving, *(request for _, request in self._requests)]
        self._reports += [request for request in unsent if isinstance(request, wire.Complete | wire.Fail)]
        for member in self._members:
            if member.outcome is not None:
                continue

            if member.conversation is not None:
                self._throw(member, member.conversation, error)

            if member.begin is not None and member.begin_id:
                self._reports.append(wire.Cancel(target=member.begin_id))

    def _throw(self, member: Member, conversation: Conversation, error: BaseException) -> None:
        traceback = error.__traceback__
        with suppress(BaseException):  # the conversation ends with it; `run` raises it, or the failure
            command = conversation.throw(error)
            while True:
                self._report(member, command)
                command = conversation.send(None)

        error.__traceback__ = traceback  # without these frames, which refer to the error

    # The function -----------------------------------------------------------------------------------------------------

    def _run_upstream(self) -> Generator[BatchCommand, Any, None]:
        """Make one upstream call for the inputs that are ready, with the same function (each backend has its own)."""
        runs = [(member, member.run) for member in self._ready if member.run is not None]
        function = runs[0][1].function
        leases = [run.lease for _, run in runs if run.lease is not None]
        group = [member for member, run in runs if run.function is function][: self._batch.max_batch]
        chosen = set(group)
        self._ready = [member for member in self._ready if member not in chosen]
        call = self._batch.upstream([member.call for member in group])
        result: Returned | Raised = yield RunEach(function, call, leases)
        for member, one in zip(group, self._results.divide(function, result, group), strict=True):
            member.run = None
            self._resume(member, one)

    # Without a daemon -------------------------------------------------------------------------------------------------

    def _wait_locally(self) -> Generator[BatchCommand, Any, None]:
        """Wait for the first of several calls of this process: one that failed may have elected this caller."""
        if self._pending:
            yield from self._receive("nothing")

        waiting = list(self._local.values())
        self._flights.wake_together(waiting)
        if not self._ended():
            until = min(member.waits_until for member in self._local)
            seconds = min(until - monotonic(), LOOK_SECONDS) if self._pending else until - monotonic()
            yield commands.WaitLocal(waiting[0], max(0.0, seconds))

        for member in self._ended():
            del self._local[member]
            self._resume(member, None)

    def _ended(self) -> list[Member]:
        now = monotonic()
        return [m for m, waiter in self._local.items() if waiter.end is not None or m.waits_until <= now]
