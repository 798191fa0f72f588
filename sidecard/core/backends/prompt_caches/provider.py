"""A model of a provider's prompt cache: one cache for all calls, which keeps what it has processed for a while.

======================  ==============================================================================================
a prefix is             while
======================  ==============================================================================================
cold                    no call has sent it within its lifetime, or every call that sent it ended before its first output
processing              at least one call with it is in progress, none has had an output, and it is not warm
warm                    a call with it had an output, or an answer, less than its lifetime ago; each further one renews it
======================  ==============================================================================================

A prefix is warm although another call processes it too (a caller that no longer waited for the first one). Then the end of that
other call changes nothing.

The table is bounded, and charged to the uids whose calls have warmed its prefixes. If it is full, the uid with the most entries
loses its oldest one.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from sidecard.core.backends.prefix_policy import PrefixChain, PrefixKey, PrefixPolicy
from sidecard.core.backends.prompt_caches.cache import NO_FIT, Fit, Memory, PromptUse
from sidecard_client.protocol.wire import PrefixState, Usage

MAX_WARM: Final = 16384
"""Limit of the warm prefixes of one backend: those of a thousand prompts."""

WARM_BYTES: Final = 450
"""Memory of a warm prefix, with its digest and its places in the tables."""


class WarmPrefix(Struct):
    """A processed prefix."""

    uid: int
    """Uid of the caller whose call processed it first."""
    used_at: float


class ProviderCache:
    """Which prefixes a provider has processed, and which it is processing."""

    has_slots = False

    def __init__(self, policy: PrefixPolicy, memory: Memory) -> None:
        self._lifetime_seconds = policy.lifetime_seconds
        self._memory = memory
        self._warm: dict[PrefixKey, WarmPrefix] = {}
        self._of_uid: dict[int, OrderedDict[PrefixKey, None]] = {}
        """The prefixes of each uid, the one that was not used for longest first."""
        self._processing: dict[PrefixKey, int] = {}
        """Calls in progress without an output, by prefix that was cold when they began."""
        self._closed = False

    def fit(self, chain: PrefixChain, now: float) -> Fit:
        """Return the longest warm prefix, and the longest longer one that is being processed."""
        wanted, wanted_tokens = None, 0.0
        for key, tokens in zip(reversed(chain.keys), reversed(chain.tokens), strict=True):
            if self._is_warm(key, now):
                return Fit(tokens, wanted, wanted_tokens - tokens if wanted is not None else 0.0)

            if wanted is None and key in self._processing:
                wanted, wanted_tokens = key, tokens

        return NO_FIT if wanted is None else Fit(0.0, wanted, wanted_tokens)

    def pays_to_wait(self, chain: PrefixChain, fit: Fit, waiting: int) -> bool:  # noqa: ARG002 - as in `SlotModel`
        """Return True: the first output comes soon, and then all proceed together."""
        return True

    def begin(self, chain: PrefixChain, uid: int, now: float) -> PromptUse:
        """Record a call that begins: it processes all prefixes longer than the warm one."""
        use = PromptUse(chain, uid, now, self.fit(chain, now).warm_tokens)
        for key in _cold(use):
            self._processing[key] = self._processing.get(key, 0) + 1

        return use

    def first_output(self, use: PromptUse, now: float) -> Iterable[PrefixKey]:
        """Record the first output of a call: all prefixes of its prompt are warm."""
        if use.output_at is not None:
            return ()

        use.output_at = now
        for key in use.chain.keys:
            self._touch(key, use.uid, now)

        self._stop_processing(use)
        return _cold(use)

    def end(self, use: PromptUse, now: float, *, processed: bool) -> Iterable[PrefixKey]:
        """Record the end of a call. Without an output or an answer, what it processed stays cold, and another call may begin it."""
        if use.output_at is not None or processed:
            return self.first_output(use, now)

        return self._stop_processing(use)

    def learn(self, use: PromptUse, seconds: float, usage: Usage, now: float) -> None:
        """Learn nothing: no caller waits longer than for a first output."""

    def state(self, key: PrefixKey, now: float) -> PrefixState:
        """Return the state of one prefix."""
        if self._is_warm(key, now):
            return "warm"

        return "processing" if key in self._processing else "cold"

    def warm_count(self, now: float) -> int:
        """Return the number of warm prefixes."""
        self.forget_expired(now)
        return len(self._warm)

    def forget_expired(self, now: float) -> None:
        """Drop the prefixes whose lifetime has passed."""
        for of_uid in list(self._of_uid.values()):
            while of_uid and self._is_expired(oldest := next(iter(of_uid)), now):
                self._drop(oldest)

    def reconfigure(self, policy: PrefixPolicy) -> None:
        """Apply another lifetime."""
        self._lifetime_seconds = policy.lifetime_seconds

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        for key in list(self._warm):
            self._drop(key)

    def _is_warm(self, key: PrefixKey, now: float) -> bool:
        return key in self._warm and not self._is_expired(key, now)

    def _is_expired(self, key: PrefixKey, now: float) -> bool:
        return self._warm[key].used_at + self._lifetime_seconds <= now

    def _touch(self, key: PrefixKey, uid: int, now: float) -> None:
        """Make a prefix warm, or renew it."""
        warm = self._warm.get(key)
        if warm is not None:
            warm.used_at = now
            self._of_uid[warm.uid].move_to_end(key)
            return

        if len(self._warm) >= MAX_WARM:
            self.forget_expired(now)

        if len(self._warm) >= MAX_WARM:
            uid = max(self._of_uid, key=lambda uid: len(self._of_uid[uid]))
            self._drop(next(iter(self._of_uid[uid])))

        if not self._closed and self._memory.try_charge(uid, WARM_BYTES):
            self._warm[key] = WarmPrefix(uid, now)
            self._of_uid.setdefault(uid, OrderedDict())[key] = None

    def _drop(self, key: PrefixKey) -> None:
        uid = self._warm.pop(key).uid
        of_uid = self._of_uid[uid]
        del of_uid[key]
        if not of_uid:
            del self._of_uid[uid]

        self._memory.release(uid, WARM_BYTES)

    def _stop_processing(self, use: PromptUse) -> list[PrefixKey]:
        """Record that a call processes no longer; return the prefixes that no other call processes."""
        ended = []
        for key in _cold(use):
            self._processing[key] -= 1
            if not self._processing[key]:
                del self._processing[key]
                ended.append(key)

        return ended


def _cold(use: PromptUse) -> list[PrefixKey]:
    """Return the prefixes that a call has processed, or is processing, for the first time."""
    return [key for key, tokens in zip(use.chain.keys, use.chain.tokens, strict=True) if tokens > use.warm_tokens]
