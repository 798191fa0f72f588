"""Prefix affinity: the order in which a backend serves its callers, so that shared prefixes are processed once.

`sidecard.core.backends.queue.FairQueue` stays the order of the callers. While the backend has room, `Affinity.choose` selects
one of them:

1. A caller is *held* if waiting gains it at least ``prefix_min_tokens``: a call in progress makes a longer prefix of its prompt
   available than is available now (`PromptCache.fit`, `PromptCache.pays_to_wait`). Held callers are passed over.
2. The next uid in turn with a caller that is not held is served. Affinity never overtakes another uid.
3. Of that uid's callers, the first that has been passed over for ``prefix_pass_seconds`` is served; if there is none, the
   one with the longest available prefix among the first `LOOKAHEAD`; of equals, the first.
4. If all callers are held, the first one that no longer gains by waiting is served.

===========  =================================================  ===========================================================
a caller is  since                                              until
===========  =================================================  ===========================================================
ready        it has been queued                                 it is served, leaves, or is found to gain by waiting
held         `choose` found that it gains by waiting            the prefix becomes available, cold, or not worth the wait;
                                                                its hold ends; it leaves
released     its hold has lasted for ``prefix_hold_seconds``,   it is served or leaves: it is never held again
             or for half of the time that it may wait
===========  =================================================  ===========================================================

A caller's hold is measured once, from its first moment, whichever of its backends holds it; so is, at each backend, the time for
which it has been passed over. So a caller that could have been served waits at most ``prefix_hold_seconds`` +
``prefix_pass_seconds`` longer than in the fair order.

**No lost wake-up.** A held caller is served again by each event that may end its hold; all of them lead to
`sidecard.core.flights.queues.Queues.permit_released`:

1. The call with its prefix has its first output (`started`, the first `append` with output), at a provider. So has a call with
   a shorter prefix of its prompt, which may leave too little to wait for.
2. That call ends: it is completed, fails, is canceled or lost, or its lease expires. Its permit is released: `ended`.
3. The breaker opens: the queue is emptied, held callers included. A drain withdraws all applicants.
4. The hold's time passes: the alarm of the backend (`Backend.wakes_at`).
5. The settings change: `reconfigure` releases all holds for a new decision, and every queue is served.
6. Another caller with the same prefix queues, so that a further slot pays: the alarm is due at once.

Interleavings:

1. call A leads prefix p; B is held. 2. A fails; p is cold, B is ready. 3. `permit_released` serves B, which leads p.
1. A leads p; B and C are held. 2. B's hold ends; B is served and processes p too. 3. A fails. p is still being processed by B, so
   C stays held until B's output, or until its own hold ends.
1. A leads p; B is held. 2. B leaves. 3. A has its output: no one is held for p.
1. A's permit is shared by a batch; B is held. 2. A's first lease ends. 3. B is held until the last one has ended: it is one call.
1. B is held at backend x and queued at y. 2. y serves it: it leaves the queue of x, and its hold ends.
1. B is held at x although y, which it also named, is free. 2. Other calls fill x. 3. B's hold ends, and x has no room. B is admitted
   to y, and never held again; if y is full too, it waits for both (`take_freed`).
1. B is held at x. 2. The breaker of x opens. 3. y is processing the prefix: B is held there for what is left of its hold.
"""

from collections.abc import Callable, Hashable, Iterable
from math import inf
from typing import Final, Generic, TypeVar

from msgspec import Struct

from sidecard.core.backends.prefix_policy import Patience, PrefixChain, PrefixKey, PrefixPolicy, patience_of
from sidecard.core.backends.prompt_caches.cache import Fit, Memory, PromptCache, PromptUse
from sidecard.core.backends.prompt_caches.provider import ProviderCache
from sidecard.core.backends.prompt_caches.slots import SlotModel
from sidecard.core.backends.queue import FairQueue, Queued
from sidecard.core.timers import Timers
from sidecard_client.protocol.wire import Begin, PrefixState, Usage

LOOKAHEAD: Final = 64
"""Callers of one uid among which the one with the longest available prefix is sought: 0.3 ms of work."""

HoldObserver = Callable[[float], None]
"""Gets the seconds for which a caller was held, when it leaves the queue."""


T = TypeVar("T", bound=Queued)


class QueuedCaller(Struct, eq=False):
    """The state of a caller in the queue."""

    chain: PrefixChain
    wanted: PrefixKey | None = None
    """The prefix for which it is held; None if it is ready."""
    parked_at: float = 0.0
    """The instant from which it is held this time."""
    held_seconds: float | None = None
    """Seconds for which it was held here before; None if it was not."""
    released: bool = False
    """It is never held again."""
    passed_since: float | None = None
    """When another caller first overtook it while it was ready."""


class Affinity(Generic[T]):
    """The callers of one backend, and what the backend has processed."""

    def __init__(self, policy: PrefixPolicy, memory: Memory, on_hold_ended: HoldObserver) -> None:
        self.policy = policy
        self._cache: PromptCache = ProviderCache(policy, memory) if policy.affinity == "provider" else SlotModel(policy)
        self._on_hold_ended = on_hold_ended
        self._callers: dict[T, QueuedCaller] = {}
        self._held: dict[PrefixKey, dict[T, None]] = {}
        """Held callers by the prefix that they wait for."""
        self._ready: dict[T, None] = {}
        """Callers that are not held."""
        self._freed: dict[T, None] = {}
        """See `take_freed`."""
        self._hold_ends: Timers[T] = Timers()

    @property
    def held(self) -> int:
        """Number of held callers."""
        return len(self._hold_ends)

    def chain_of(self, scope: str, request: Begin) -> PrefixChain:
        """Return the prefixes of a begin that are long enough."""
        return self.policy.chain(scope, request.prefix, request.prefix_bytes)

    def fit(self, scope: str, request: Begin, now: float) -> Fit:
        """Return which prefixes of a begin are available now, and which later."""
        return self._cache.fit(self.chain_of(scope, request), now)

    def holds(self, scope: str, request: Begin, patience: Patience, now: float) -> bool:
        """Return whether a caller that is not queued yet gains by waiting."""
        if not request.prefix or self.policy.end_of_hold(patience) <= now:
            return False

        chain = self.chain_of(scope, request)
        return self._gains(chain, self._cache.fit(chain, now))

    def join(self, *items: T) -> None:
        """Record callers that have joined the queue."""
        self._ready.update(dict.fromkeys(items))

    def choose(self, queue: FairQueue[T], now: float, lookahead: int = LOOKAHEAD) -> T | None:
        """Return the next caller to serve, if the backend has room; None if all are held.

        If there is room for all callers, ``lookahead`` may be 1: their order does not matter.
        """
        self._end_holds(now)
        if self._ready:
            chosen = self._choose_ready(queue, now, lookahead)
            if chosen is not None:
                return chosen

        return self._choose_held(queue, now)

    def take_freed(self, now: float) -> list[T]:
        """Return the callers whose hold has ended since the last time, and that are still in the queue."""
        self._end_holds(now)
        freed, self._freed = self._freed, {}
        return list(freed)

    def next_end_of_hold(self) -> float:
        """Return when the first hold ends by time alone; infinity if no caller is held."""
        ends_at = self._hold_ends.next_deadline()
        return inf if ends_at is None else ends_at

    def serve(self, queue: FairQueue[T], item: T, now: float) -> None:
        """Record that a chosen caller is served: others that were ready and due before it have been passed over."""
        if item not in self._ready or len(self._ready) == 1:
            return  # no other one was ready

        for turn in queue.turns():
            passed: list[T] = []
            for other in turn:
                if other is item:
                    self._pass_over(queue, passed, item.flow, now)
                    return

                if other in self._ready:
                    passed.append(other)

    def _pass_over(self, queue: FairQueue[T], passed: Iterable[T], served: Hashable, now: float) -> None:
        """Mark callers that were due. If those of a process are marked already, it has lost one more turn: mark its next caller.

        Otherwise the callers of a process would be passed over one after another, each for ``prefix_pass_seconds``.
        """
        marked: dict[Hashable, bool] = {}
        for one in passed:
            marked[one.flow] = self._mark(one, now) or marked.get(one.flow, False)

        for flow, is_new in marked.items():
            if not is_new and flow != served:
                self._mark_first(queue.of_flow(flow), now)

    def _mark_first(self, items: Iterable[T], now: float) -> None:
        """Mark the first one that is ready and not marked yet."""
        for item in items:
            if self._mark(item, now):
                return

    def _mark(self, item: T, now: float) -> bool:
        """Mark a caller as passed over; return whether it is a ready one that was not marked."""
        if item not in self._ready:
            return False

        caller = self._caller(item)
        if caller.passed_since is not None:
            return False

        caller.passed_since = now
        return True

    def leave(self, item: T, now: float) -> None:
        """Forget a caller that has left the queue, served or not."""
        caller = self._callers.pop(item, None)
        if caller is None:
            self._ready.pop(item, None)
            return

        if caller.wanted is not None:
            self._unhold(item, caller, now)

        self._ready.pop(item, None)
        self._freed.pop(item, None)
        if caller.held_seconds is not None:
            self._on_hold_ended(caller.held_seconds)

    def begin(self, scope: str, request: Begin, uid: int, now: float) -> PromptUse:
        """Record a call that begins."""
        return self._cache.begin(self.chain_of(scope, request), uid, now)

    def first_output(self, use: PromptUse, now: float) -> bool:
        """Record the first output of a call; return whether callers are held no longer."""
        return self._processing_ended(self._cache.first_output(use, now), now)

    def ended(self, use: PromptUse, now: float, *, processed: bool) -> None:
        """Record the end of a call; ``processed``: it had an output or an answer. Then the queue must be served."""
        self._processing_ended(self._cache.end(use, now, processed=processed), now)

    def learn(self, use: PromptUse, seconds: float, usage: Usage, now: float) -> None:
        """Learn from an answered call."""
        self._cache.learn(use, seconds, usage, now)

    def states(self, scope: str, digests: Iterable[str], now: float) -> tuple[PrefixState, ...]:
        """Return the state of each prefix."""
        return tuple(self._cache.state((scope, digest), now) for digest in digests)

    def warm_count(self, now: float) -> int:
        """Return the number of prefixes that are processed."""
        return self._cache.warm_count(now)

    def forget_expired(self, now: float) -> None:
        """Drop the prefixes that the backend no longer keeps."""
        self._cache.forget_expired(now)

    def reconfigure(self, policy: PrefixPolicy, now: float) -> None:
        """Apply other settings of the same mode. Callers are considered again, and keep what they have waited."""
        self.policy = policy
        self._cache.reconfigure(policy)
        self._make_ready(list(self._held), now)
        for item, caller in self._callers.items():
            caller.chain = self.chain_of(item.scope, item.request)

    def close(self, now: float) -> None:
        """End all holds, and forget everything."""
        for item in list(self._callers):
            self.leave(item, now)

        self._cache.close()

    def _end_holds(self, now: float) -> None:
        """Release the callers whose hold ends by time."""
        while (item := self._hold_ends.pop_due(now)) is not None:
            caller = self._callers[item]
            self._unhold(item, caller, now)
            caller.released = True

    def _choose_ready(self, queue: FairQueue[T], now: float, lookahead: int) -> T | None:
        """Return the best caller of the next uid in turn that has one; hold those that gain by waiting."""
        # A caller that joins many held ones is found without them.
        for turn in [list(self._ready)] if len(self._ready) == 1 else queue.turns():
            best, best_tokens, seen = None, -1.0, 0
            for item in turn:
                if item not in self._ready:
                    continue

                caller = self._caller(item)
                fit = self._cache.fit(caller.chain, now)
                if self._hold_if_it_gains(item, caller, fit, now):
                    continue

                if caller.passed_since is not None and now - caller.passed_since >= self.policy.pass_seconds:
                    return item

                if fit.warm_tokens > best_tokens:
                    best, best_tokens = item, fit.warm_tokens

                seen += 1
                if seen == lookahead:
                    break

            if best is not None:
                return best

        return None

    def _choose_held(self, queue: FairQueue[T], now: float) -> T | None:
        """Return the first held caller that no longer gains by waiting, because more callers wait or answers proved long."""
        if not self._cache.has_slots:
            return None

        ready = set()
        for wanted, items in self._held.items():
            chain = self._callers[next(iter(items))].chain
            if not self._gains(chain, self._cache.fit(chain, now), waiting=len(items)):
                ready.add(wanted)

        if not ready:
            return None

        return next(item for turn in queue.turns() for item in turn if self._caller(item).wanted in ready)

    def _gains(self, chain: PrefixChain, fit: Fit, waiting: int = 1) -> bool:
        """Return whether callers should wait for a prefix that they want.

        A caller joins the held callers as if it was alone: if there are too many, the first of them is served, not the last.
        """
        if fit.wanted is None or fit.gain_tokens < self.policy.min_tokens:
            return False

        return self._cache.pays_to_wait(chain, fit, waiting)

    def _hold_if_it_gains(self, item: T, caller: QueuedCaller, fit: Fit, now: float) -> bool:
        wanted = fit.wanted
        if wanted is None or caller.released or not item.patient:
            return False

        patience = patience_of(item.held_since, item.deadline, now)
        ends_at = self.policy.end_of_hold(patience)
        if ends_at <= now or not self._gains(caller.chain, fit):
            return False

        item.mark_held(patience.since)
        caller.wanted = wanted
        del self._ready[item]
        caller.parked_at = now
        self._held.setdefault(wanted, {})[item] = None
        self._hold_ends.set(item, ends_at)
        return True

    def _unhold(self, item: T, caller: QueuedCaller, now: float) -> None:
        """Make a held caller ready."""
        wanted = caller.wanted
        if wanted is not None:
            items = self._held[wanted]
            del items[item]
            if not items:
                del self._held[wanted]

            self._ready[item] = None
            self._freed[item] = None
            caller.wanted = None
            caller.held_seconds = (caller.held_seconds or 0.0) + now - caller.parked_at
            self._hold_ends.clear(item)

    def _processing_ended(self, keys: Iterable[PrefixKey], now: float) -> bool:
        """Make the callers ready that wait for these prefixes, or gain too little by waiting for longer ones; return whether there are any.

        Otherwise a caller that came later would not wait, and overtake those that wait for longer ones.
        """
        ready = dict.fromkeys(keys)
        ended = frozenset(ready)
        for wanted, items in self._held.items() if ended else ():
            chain = self._callers[next(iter(items))].chain
            if not ended.isdisjoint(chain.keys) and not self._gains(chain, self._cache.fit(chain, now)):
                ready[wanted] = None

        return self._make_ready(ready, now)

    def _make_ready(self, keys: Iterable[PrefixKey], now: float) -> bool:
        """Make the callers ready that wait for one of the prefixes; return whether there are any."""
        items = [item for key in keys for item in self._held.get(key, ())]
        for item in items:
            self._unhold(item, self._callers[item], now)

        return bool(items)

    def _caller(self, item: T) -> QueuedCaller:
        caller = self._callers.get(item)
        if caller is None:
            caller = self._callers[item] = QueuedCaller(self.chain_of(item.scope, item.request))

        return caller
