"""Callers of batches around a real engine: each is a `BatchConversation` whose commands a test executes one by one."""

import threading
from collections.abc import Callable, Generator, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from msgspec.structs import replace

from sidecard_client.batches.batch import MAX_BATCH, batch_of, template_of
from sidecard_client.batches.commands import BatchCommand, LetOthersRun, Receive, RunEach, SendAll
from sidecard_client.batches.conversation import BatchConversation
from sidecard_client.call.commands import Raised, Returned, WaitLocal
from sidecard_client.call.local_flights import LocalFlights
from sidecard_client.call.options import Options
from sidecard_client.call.outcome import Outcome
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, NotConnected
from tests.host import Actor, Host


def shout(inputs: list[str]) -> list[str]:
    """Be the function."""
    return [one.upper() for one in inputs]


class Upstream:
    """A backend: the inputs of each call, and what the next calls raise."""

    def __init__(self) -> None:
        self.calls: list[list[Any]] = []
        self.errors: list[BaseException | None] = []
        self.running = 0

    @property
    def inputs(self) -> list[Any]:
        """The inputs of all calls."""
        return [one for call in self.calls for one in call]

    def answer(self, command: RunEach) -> Returned | Raised:
        """Make a call."""
        self.calls.append(list(command.call.args[0]))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            return Raised(error)

        try:
            return Returned(command.function(*command.call.args, **command.call.kwargs))
        except Exception as failure:  # noqa: BLE001 - the conversation decides about it
            return Raised(failure)


class BatchCaller:
    """One process that makes one batch. ``host`` is None while it has no daemon; an old one ignores ``batch``.

    ``view`` has hits by key.
    """

    def __init__(
        self,
        host: Host | None,
        upstream: Upstream,
        inputs: Iterable[Any],
        *,
        function: Callable[..., Any] = shout,
        flights: LocalFlights | None = None,
        max_batch: int = MAX_BATCH,
        daemon_is_old: bool = False,
        view: Mapping[str | None, wire.Hit] = MappingProxyType({}),
        **policy: Any,
    ) -> None:
        self.host = host
        self.view = view
        self.inputs = list(inputs)
        self.actor: Actor | None = None
        self.lost = False
        self.dead = False
        self.ended = False
        self.result: list[Outcome[Any]] | Raised | None = None
        self.error: BaseException | None = None
        self.sent: list[wire.AnyRequest] = []
        self.rounds = 0
        self._upstream = upstream
        self._daemon_is_old = daemon_is_old
        self._ids = 0
        self._called: Returned | Raised | None = None
        template = template_of(Options(), function, self.inputs, policy, max_batch)
        assert template is not None
        batch = batch_of(template, self.inputs, max_batch, None)
        flights = LocalFlights(threading.Event) if flights is None else flights
        self._conversation: Generator[BatchCommand, Any, Any] = BatchConversation(
            batch, flights, lambda: "s", lambda call: self.view.get(call.key), lambda *_: None
        ).run()
        self._command: BatchCommand = next(self._conversation)

    @property
    def values(self) -> list[Any]:
        """The values of a batch that has succeeded."""
        assert isinstance(self.result, list), self.result or self.error
        return [outcome.value for outcome in self.result]

    @property
    def sources(self) -> list[str]:
        """The sources of a batch that has succeeded."""
        assert isinstance(self.result, list)
        return [outcome.source for outcome in self.result]

    def step(self) -> bool:
        """Execute the current command, or the first half of a call; return False if it waits, or the batch has ended."""
        if self.ended or self.dead:
            return False

        match self._command:
            case SendAll():
                result: Any = self._send(self._command)
            case LetOthersRun():
                result = None
            case Receive():
                result = self._receive(self._command)
                if result is None:
                    return False

            case RunEach() if self._called is None:
                self._called = self._upstream.answer(self._command)
                return True
            case RunEach():
                result, self._called = self._called, None
            case WaitLocal(waiter):
                if not waiter.event.is_set():
                    return False

                result = None

        self._resume(lambda: self._conversation.send(result))
        return True

    def runs(self) -> None:
        """Step as far as possible."""
        while self.step():
            pass

    def interrupted(self, error: BaseException) -> None:
        """Throw a cancellation in, and execute what follows."""
        self._resume(lambda: self._conversation.throw(error))
        self.runs()

    def dies(self) -> None:
        """Lose the process."""
        self.dead = True
        if self.actor is not None:
            self.actor.dies()

    def loses_connection(self) -> None:
        """Lose the connection; the next begin makes another one."""
        if self.actor is not None:
            self.actor.dies()
            self.actor, self.lost = None, True

    def _resume(self, resume: Callable[[], BatchCommand]) -> None:
        try:
            self._command = resume()
        except StopIteration as end:
            self.ended, self.result = True, end.value
        except BaseException as error:  # noqa: BLE001 - the batch's
            self.ended, self.error = True, error

    def _send(self, command: SendAll) -> Any:
        if self.lost and self.actor is None:
            self.lost = False
            return ConnectionEnded("gone")

        if self.host is None:
            return NotConnected("no daemon")

        if self.actor is None:
            self.actor = self.host.peer(pid=100 + len(self.host.actors))

        self.rounds += 1
        ids = []
        for request in (*command.reports, *command.requests):
            self._ids += 1
            ids.append(self._ids)
            received: Any = wire.unpack_request(wire.pack(request))
            if self._daemon_is_old and isinstance(received, wire.Begin):
                received = replace(received, batch=0)

            self.sent.append(received)
            self.actor.asks(replace(received, id=self._ids))

        return ids[len(command.reports) :]

    def _receive(self, command: Receive) -> Any:
        if self.lost:
            self.lost = False
            return ConnectionEnded("gone")

        assert self.actor is not None
        replies = [wire.unpack_reply(wire.pack(reply)) for reply in self.actor.receives()]
        return replies or (None if command.wait != "nothing" else [])
