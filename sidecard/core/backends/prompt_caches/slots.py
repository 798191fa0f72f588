"""A model of a model server's slots, as llama.cpp's: each keeps the last prompt that it was given.

=========  ========================  ====================================================  ===============================
a slot is  its prompt is             when a call begins in it                              when its call ends
=========  ========================  ====================================================  ===============================
idle       that of its last call     busy, with the call's prompt                          -
busy       being processed, or in    -                                                     idle, with the call's prompt; if
           use by one call                                                                 it failed before its first output,
                                                                                           with what both prompts share
=========  ========================  ====================================================  ===============================

The server gives a prompt the idle slot whose prompt shares the longest prefix with it, else the idle slot that was not
used for longest; so does the model. A prefix is available while an idle slot has it. If only busy slots have it, a caller may wait
for one of them, or process its prompt again in an idle slot, which also makes the prefix available twice.

**When waiting pays.** Processing prompts is bound by the server's computing power, whatever the number of slots. Producing answers
is so in part: a token of ``k`` answers at a time takes ``a + b * k``, and only ``a`` is shared. Let ``c`` be the tokens that would be
processed again, ``A`` the shared work of an answer (`AnswerCost`), ``r`` the rest of the caller's prompt, ``m`` the slots that have the
prefix and ``n`` the callers that wait for it. The shared work of ``n`` calls takes ``n * A / m`` in ``m`` slots, so one more slot saves
``n * A / (m * (m + 1))`` at the cost of ``c``. It is used if ``c`` is less than that, or less than ``r + A``: then the caller is done
earlier than its turn would come. All are in tokens of prompts, so they are compared without knowing the server's speed.

Until an answer has been measured, only the prompts count. So callers wait for a long common prefix before a short question, but not for a
short system text before long documents.
"""

from collections.abc import Iterable
from math import inf
from typing import Final

from msgspec import Struct

from sidecard.core.backends.prefix_policy import PrefixChain, PrefixKey, PrefixPolicy
from sidecard.core.backends.prompt_caches.cache import NO_FIT, Fit, PromptUse
from sidecard.core.backends.windows import TrimmedMean
from sidecard_client.protocol.wire import PrefixState, Usage

TYPICAL_RATIO: Final = 4.0
"""Prompt tokens that a server processes in the time that it saves by producing a token of two answers at once, before that is
measured."""

MAX_RATIO: Final = 100.0

MEASURED_TOKENS: Final = 32
"""Shorter prompts are not measured: the time of a request itself would count."""

AGING: Final = 1.02
"""Growth of a least time with each further measurement, so that one of long ago does not last."""

PLAUSIBLE_SECONDS: Final = 1e-6
"""Least time of a token: no server is faster, and the least of false reports would last."""

MAX_AT_A_TIME: Final = 16
"""Numbers of answers at a time that are measured apart; more count as so many."""


class AnswerCost:
    """How much work answers share if they are produced at the same time, in prompt tokens.

    Times are the least ones: the others include prompts of other calls, processed between two tokens of an answer.
    """

    def __init__(self) -> None:
        self._answer_tokens = TrimmedMean()  # peers report them: one claim must not decide
        self._prompt_token_seconds: float | None = None
        self._answer_token_seconds: dict[int, float] = {}
        """By the number of answers at a time."""

    @property
    def ratio(self) -> float:
        """Prompt tokens that take as long as what answers share of a token."""
        if not (self._answer_token_seconds and self._prompt_token_seconds):
            return TYPICAL_RATIO

        return min(MAX_RATIO, self._shared_seconds() / self._prompt_token_seconds)

    @property
    def tokens(self) -> float:
        """The shared work of an answer of the mean length, without the longest ones; 0 before the first answer."""
        return self._answer_tokens.value * self.ratio

    def learn(
        self,
        prompt_tokens: float,
        first_seconds: float | None,
        seconds: float,
        at_a_time: int,
        usage: Usage,
        now: float,
    ) -> None:
        """Learn from an answer, produced with ``at_a_time`` calls in progress.

        ``prompt_tokens`` were processed before its first output, after ``first_seconds``.
        """
        answered = usage.completion_tokens
        if answered is None:
            return

        self._answer_tokens.add(answered, now)
        if first_seconds is None:
            return

        if prompt_tokens >= MEASURED_TOKENS and first_seconds >= PLAUSIBLE_SECONDS * prompt_tokens:
            self._prompt_token_seconds = _least(self._prompt_token_seconds, first_seconds / prompt_tokens)

        measured = (seconds - first_seconds) / max(1, answered - 1)
        if answered > 1 and measured >= PLAUSIBLE_SECONDS:
            place = min(MAX_AT_A_TIME, at_a_time)
            self._answer_token_seconds[place] = _least(self._answer_token_seconds.get(place), measured)

    def _shared_seconds(self) -> float:
        """Return the part of a token's seconds that does not grow with the answers at a time: their line's value at 0."""
        few, many = min(self._answer_token_seconds), max(self._answer_token_seconds)
        of_few, of_many = self._answer_token_seconds[few], self._answer_token_seconds[many]
        if few == many:
            return of_few / few  # unknown: between none and all of it

        slope = (of_many - of_few) / (many - few)
        return max(0.0, min(of_few, of_few - slope * few))


def _least(least: float | None, measured: float) -> float:
    return measured if least is None else min(least * AGING, measured)


class ServerSlot(Struct, eq=False):
    """One slot."""

    number: int
    keys: tuple[PrefixKey, ...] = ()
    """Prefixes of its prompt."""
    kept: int = 0
    """How many of them it had before its call in progress; if it is idle, all."""
    use: PromptUse | None = None
    """The call in progress."""
    used_at: float = -inf
    """When its last call ended."""


class SlotModel:
    """What each slot of a model server has processed."""

    has_slots = True

    def __init__(self, policy: PrefixPolicy) -> None:
        self._lifetime_seconds = policy.lifetime_seconds
        self._slots: dict[int, ServerSlot] = {}
        self._having: dict[PrefixKey, dict[int, ServerSlot]] = {}
        """The slots that have a prefix, or will have it when their call has had its first output."""
        self._next_number = 0
        self._wanted_slots = 0
        self._cost = AnswerCost()
        self.reconfigure(policy)

    def fit(self, chain: PrefixChain, now: float) -> Fit:
        """Return the longest prefix that an idle slot has, and the longest longer one that a busy slot has."""
        wanted, wanted_tokens = None, 0.0
        for key, tokens in zip(reversed(chain.keys), reversed(chain.tokens), strict=True):
            slots = self._having.get(key)
            if not slots:
                continue

            if any(self._offers(slot, now) for slot in slots.values()):
                return Fit(tokens, wanted, wanted_tokens - tokens if wanted is not None else 0.0)

            if wanted is None and any(slot.use is not None for slot in slots.values()):
                wanted, wanted_tokens = key, tokens

        return NO_FIT if wanted is None else Fit(0.0, wanted, wanted_tokens)

    def pays_to_wait(self, chain: PrefixChain, fit: Fit, waiting: int) -> bool:
        """Return whether ``waiting`` callers do better to wait for a busy slot (see the module's docstring)."""
        if fit.wanted is None:
            return False

        slots = len(self._having[fit.wanted])
        rest, shared = chain.total_tokens - fit.warm_tokens - fit.gain_tokens, self._cost.tokens
        return fit.gain_tokens >= max(rest + shared, waiting * shared / (slots * (slots + 1)))

    def begin(self, chain: PrefixChain, uid: int, now: float) -> PromptUse:
        """Record a call that begins in the slot that the server chooses for it."""
        slot, kept = self._choose(chain, now)
        use = PromptUse(chain, uid, now, chain.tokens[kept - 1] if kept else 0.0)
        if slot is not None:
            use.slot = slot.number
            slot.use = use
            self._fill(slot, chain.keys)
            slot.kept = kept

        return use

    def first_output(self, use: PromptUse, now: float) -> Iterable[PrefixKey]:
        """Record the first output of a call. Its slot stays busy, so no prefix becomes available."""
        if use.output_at is None:
            use.output_at = now
            use.at_a_time = self._busy()

        return ()

    def end(self, use: PromptUse, now: float, *, processed: bool) -> Iterable[PrefixKey]:
        """Record the end of a call: its slot is idle."""
        slot = None if use.slot is None else self._slots.get(use.slot)
        if slot is None or slot.use is not use:
            return ()

        slot.use = None
        slot.used_at = now
        keys = slot.keys
        if not processed and use.output_at is None:
            self._fill(slot, keys[: slot.kept])

        slot.kept = len(slot.keys)
        self._drop_surplus()
        return keys

    def learn(self, use: PromptUse, seconds: float, usage: Usage, now: float) -> None:
        """Learn from an answered call how long prompts and answers take."""
        prompt_tokens = use.chain.total_tokens if usage.prompt_tokens is None else usage.prompt_tokens
        cached_tokens = use.warm_tokens if usage.cached_prompt_tokens is None else usage.cached_prompt_tokens
        first_seconds = usage.first_chunk_seconds
        if first_seconds is None and use.output_at is not None:
            first_seconds = use.output_at - use.began_at

        at_a_time = max(use.at_a_time, self._busy())
        self._cost.learn(prompt_tokens - cached_tokens, first_seconds, seconds, at_a_time, usage, now)

    def state(self, key: PrefixKey, now: float) -> PrefixState:
        """Return the state of one prefix: warm if any slot has processed it, busy or not."""
        slots = self._having.get(key, {}).values()
        if any(self._has_processed(slot, key, now) for slot in slots):
            return "warm"

        return "processing" if any(slot.use is not None for slot in slots) else "cold"

    def warm_count(self, now: float) -> int:
        """Return the number of processed prefixes."""
        return sum(self.state(key, now) == "warm" for key in self._having)

    def forget_expired(self, now: float) -> None:
        """Drop the prompts whose lifetime has passed."""
        for slot in self._slots.values():
            if slot.use is None and self._is_expired(slot, now):
                self._fill(slot, ())

    def reconfigure(self, policy: PrefixPolicy) -> None:
        """Apply another number of slots: of surplus ones, those not used for longest go first, and busy ones when they are idle."""
        self._lifetime_seconds = policy.lifetime_seconds
        self._wanted_slots = policy.slots
        while len(self._slots) < policy.slots:
            self._slots[self._next_number] = ServerSlot(self._next_number)
            self._next_number += 1

        self._drop_surplus()

    def close(self) -> None:
        """Forget everything."""
        self._slots.clear()
        self._having.clear()

    def _choose(self, chain: PrefixChain, now: float) -> tuple[ServerSlot | None, int]:
        """Return the slot of a call that begins, and how many of its prefixes that slot has; None if all are busy."""
        for place in range(len(chain.keys) - 1, -1, -1):
            slots = self._having.get(chain.keys[place], {}).values()
            offering = [slot for slot in slots if self._offers(slot, now)]
            if offering:
                return max(offering, key=lambda slot: slot.used_at), place + 1

        idle = [slot for slot in self._slots.values() if slot.use is None]
        return min(idle, key=lambda slot: slot.used_at, default=None), 0

    def _busy(self) -> int:
        """Return the number of calls in progress."""
        return sum(slot.use is not None for slot in self._slots.values())

    def _offers(self, slot: ServerSlot, now: float) -> bool:
        return slot.use is None and not self._is_expired(slot, now)

    def _is_expired(self, slot: ServerSlot, now: float) -> bool:
        return slot.used_at + self._lifetime_seconds <= now

    def _has_processed(self, slot: ServerSlot, key: PrefixKey, now: float) -> bool:
        use = slot.use
        if use is None:
            return not self._is_expired(slot, now)

        return use.output_at is not None or key in slot.keys[: slot.kept]

    def _fill(self, slot: ServerSlot, keys: tuple[PrefixKey, ...]) -> None:
        for key in slot.keys:
            having = self._having[key]
            del having[slot.number]
            if not having:
                del self._having[key]

        slot.keys = keys
        slot.kept = min(slot.kept, len(keys))
        for key in keys:
            self._having.setdefault(key, {})[slot.number] = slot

    def _drop_surplus(self) -> None:
        surplus = len(self._slots) - self._wanted_slots
        if surplus <= 0:
            return

        idle = sorted((slot for slot in self._slots.values() if slot.use is None), key=lambda slot: slot.used_at)
        for slot in idle[:surplus]:
            self._fill(slot, ())
            del self._slots[slot.number]
