"""An engine with backends on trial: every event goes to the engine and to the witness, and both must agree on what is left.

Costs are multiples of 1/8, so that their sums are exact in binary.
"""

from collections.abc import Callable, Iterator
from itertools import cycle
from typing import TypeVar

import msgspec

from sidecard.core.backends.backend import Backend
from sidecard.core.effects import Send
from sidecard.core.engine import Engine
from sidecard.core.events import Event, Peer, PeerJoined, PeerLost, RequestReceived, SettingsRead, Tick
from sidecard.core.settings import EngineSettings
from sidecard_client.protocol import wire
from tests.laws.backend_checker import BackendChecker

_Reply = TypeVar("_Reply", bound=wire.Reply)
_VALUE = msgspec.Raw(wire.pack("answer"))
_RECOVERY_ROUNDS = 60


def _jitter() -> Callable[[], float]:
    steps: Iterator[float] = cycle([0.5, 0.0, 0.99, 0.25])
    return lambda: next(steps)


class BackendTrial:
    """One engine, its witness, and a clock that moves only when told."""

    def __init__(self, settings: EngineSettings) -> None:
        self.now = 1000.0
        self.settings = settings
        self.engine = Engine(
            settings, boot_id="boot", version="0", now=self.now, shown_settings={}, shown_origins={}, jitter=_jitter()
        )
        self.witness = BackendChecker(settings)
        self.peers: list[Peer] = []
        self.granted: list[tuple[Peer, str]] = []
        """Every lease there ever was, with who got it."""
        self.script: list[tuple[float, Event]] = []
        """What happened, to be told where it ends badly."""
        self.broken = False
        self._ids = 0
        self._observer = self._join(0, 0)

    def next_id(self) -> int:
        """Return an id that was never used."""
        self._ids += 1
        return self._ids

    def join(self, uid: int, pid: int) -> Peer:
        """Accept a connection; root's is an operator's."""
        peer = self._join(uid, pid)
        self.peers.append(peer)
        return peer

    def _join(self, uid: int, pid: int) -> Peer:
        peer = Peer(self.next_id(), uid, uid, pid, operator=uid == 0)
        self.happen(PeerJoined(peer))
        return peer

    def lose(self, peer: Peer) -> None:
        """End a connection."""
        self.peers.remove(peer)
        self.happen(PeerLost(peer))

    def ask(self, peer: Peer, request: wire.AnyRequest) -> list[wire.AnyReply]:
        """Let a peer send a request; return what is answered to it at once."""
        effects = self.happen(RequestReceived(peer, request))
        return [sent.reply for sent in effects if (sent.peer, sent.reply.id) == (peer.id, request.id)]

    def operate(self, backend: str, action: wire.BreakerAction) -> None:
        """Let an operator set a breaker."""
        self.ask(self._observer, wire.SetBreaker(backend, action, id=self.next_id()))

    def reload(self, settings: EngineSettings) -> None:
        """Let the daemon have read other settings."""
        self.settings = settings
        self.happen(SettingsRead(settings))

    def complete(self, peer: Peer, lease: str, usage: wire.Usage | None = None) -> None:
        """Let a peer bring an answer, in time or not. It is not stored: what is cached is not what is on trial."""
        self.ask(peer, wire.Complete(lease, _VALUE, usage, id=self.next_id(), store=False))

    def tick(self) -> None:
        """Tell the engine that it is time, and expect that it then waits for the future."""
        self.happen(Tick())
        deadline = self.engine.next_deadline()
        assert deadline is None or deadline > self.now, "the next deadline has passed already"

    def passes(self, seconds: float) -> None:
        """Let time pass, with a tick at every instant that the engine asks for."""
        end = self.now + seconds
        while (deadline := self.engine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.tick()

        self.now = end

    def happen(self, event: Event) -> list[Send]:
        """Let one event happen, and judge what comes of it."""
        self.broken = True
        self.script.append((self.now, event))
        queued = {name: len(backend.queue) for name, backend in self._backends().items()}
        effects = self.engine.handle(event, self.now)
        self.witness.watch(event, effects, self.now)
        sent = [effect for effect in effects if isinstance(effect, Send)]
        for send in sent:
            if isinstance(send.reply, wire.Lease):
                self.granted.append((self.witness.peers[send.peer], send.reply.lease))

        self._check_tables(queued)
        self._check_timers()
        self.broken = False
        return sent

    def look(self) -> None:
        """Ask for stats, breakers and report, and compare them with what the witness has seen."""
        witness = self.witness
        stats = self._observe(wire.GetStats(id=self.next_id()), wire.Stats)
        ends = ("hits", "shared", "leases_first", "failed", "rejected", "timeouts", "left")
        assert {name: getattr(stats, name) for name in ends} == {name: witness.counts[name] for name in ends}
        waiters = sum(asked.failed is None for asked in witness.asked.values())
        assert stats.begins == witness.counts["begins"] == sum(witness.counts[name] for name in ends) + waiters
        assert (stats.waiters, stats.leases, stats.permits) == (waiters, len(witness.held), len(witness.held))
        assert stats.breakers_opened == sum(breaker.opened for breaker in witness.breakers.values())
        for reason in ("busy", "draining", "breaker_open", "saturated", "sovereign", "budget", "not_cached"):
            assert getattr(stats, f"rejected_{reason}") == witness.counts[f"rejected_{reason}"]

        states = self._observe(wire.GetBreakers(id=self.next_id()), wire.Breakers).backends
        for name, state in states.items():
            breaker = witness.breaker(name)
            assert (state.state, state.generation) == (breaker.state, breaker.generation)
            assert (state.permits, state.opened) == (witness.live(name), breaker.opened)

        report = self._observe(wire.GetReport(id=self.next_id()), wire.Report)
        billed = {name: spending.dollars for name, spending in report.backends.items() if spending.calls}
        assert billed == dict(witness.billed_dollars)
        assert report.total.upstream_calls == witness.counts["billed"]

    def recover(self) -> None:
        """Let callers come who succeed: every backend that nobody holds open must close before long."""
        if self.witness.draining:
            return

        caller = self.join(1000, 99)
        for name in list(self.witness.breakers):
            self._recover(name, caller)

        self.lose(caller)

    def _recover(self, name: str, caller: Peer) -> None:
        breaker, settings = self.witness.breaker(name), self.witness.backend(name)
        if breaker.state in {"forced_open", "disabled"} or self.settings.budgets:
            return

        if self.settings.sovereign and settings.locality == "remote":
            return

        served = 0
        for _ in range(_RECOVERY_ROUNDS):
            begin = wire.Begin(None, id=self.next_id(), backends=(name,), wait_seconds=70.0)
            said = self.ask(caller, begin)[-1]
            served += self._succeed(caller)
            if isinstance(said, wire.Pending):
                end = self.now + 70.0
                while (deadline := self.engine.next_deadline()) is not None and deadline <= end:
                    self.now = max(self.now, deadline)
                    self.tick()
                    served += self._succeed(caller)

            if isinstance(said, wire.Rejected):
                self.passes(max(10.0, said.retry_after_seconds or 0.0))

            if breaker.state == "closed" and served:
                return

        raise AssertionError(
            f"{name} is still {breaker.state} after {_RECOVERY_ROUNDS} callers, {served} of them served"
        )

    def _succeed(self, caller: Peer) -> int:
        leases = [lease for lease, held in self.witness.held.items() if held.peer == caller]
        for lease in leases:
            self.complete(caller, lease)

        return len(leases)

    def end(self) -> None:
        """Lose everybody and let all time pass: nothing is held, waited for or remembered."""
        self.look()
        self.recover()
        for peer in list(self.peers):
            self.lose(peer)

        assert self.engine.idle
        assert not self.witness.held
        while (deadline := self.engine.next_deadline()) is not None:
            self.now = max(self.now, deadline)
            self.tick()

        self.look()
        flights = self.engine._flights
        assert (len(flights), flights.lease_count, flights.applicant_count) == (0, 0, 0)
        assert len(flights.timers) == 0
        for backend in self._backends().values():
            assert (backend.permits, len(backend.queue)) == (0, 0)

        for budget in self.engine._billing.budgets.by_name.values():
            assert abs(budget.reserved_dollars) < 1e-9

    def _backends(self) -> dict[str, Backend]:
        return self.engine._backends.all()

    def _check_tables(self, queued: dict[str, int]) -> None:
        witness, flights = self.witness, self.engine._flights
        applicants = flights.applicants()
        deadline = self.engine.next_deadline()
        late = deadline is not None and deadline <= self.now
        for name, backend in self._backends().items():
            assert backend.permits == witness.live(name), f"{backend.permits} permits of {name} for its leases"
            window, breaker = witness.breaker(name).window(), backend.breaker
            counted = (len(window), window.count("failure"), window.count("slow"))
            assert (breaker.calls, breaker.failures, breaker.slow) == counted, "an outcome counted that must not"
            limit = backend.limit
            assert not limit or backend.permits <= max(limit, self._permits_before.get(name, 0))
            waiting = list(backend.queue)
            assert len(waiting) == len(set(waiting)) == len(backend.queue) <= backend.settings.max_queue
            assert set(waiting) <= set(applicants)
            if waiting and not (late and backend.settings.requests_per_minute):
                assert not witness.is_free(name, self.now), f"callers wait for {name}, which is free"

            if (name in {free for free, _ in witness.passed_by}) and not queued.get(name) and not waiting:
                raise AssertionError(f"{name} was free: {witness.passed_by}")

        self._permits_before = {name: backend.permits for name, backend in self._backends().items()}
        for applicant in applicants:
            assert applicant.queues or applicant.not_before, "a caller waits for nothing"
            assert (applicant.peer.id, applicant.reply_id) in witness.asked

        for flight in flights:
            assert (flight.lease is None) != (flight.applicant is None), "a flight with none to lead it, or with two"

        assert self.engine.idle == (not witness.held and not witness.asked)
        assert flights.waiter_count <= self.settings.max_waiters
        assert len(flights) <= self.settings.max_flights

    _permits_before: dict[str, int] = {}  # noqa: RUF012 - replaced, never changed

    def _check_timers(self) -> None:
        due = [asked.deadline for asked in self.witness.asked.values()]
        due += [held.expires for held in self.witness.held.values()]
        deadline = self.engine.next_deadline()
        assert not due or (deadline is not None and deadline <= min(due)), "nobody would wake the engine in time"

    def _observe(self, request: wire.AnyRequest, kind: type[_Reply]) -> _Reply:
        (reply,) = self.ask(self._observer, request)
        assert isinstance(reply, kind)
        return reply
