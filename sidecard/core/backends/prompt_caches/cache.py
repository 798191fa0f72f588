"""The prefixes that a backend has processed and keeps, as far as the daemon knows: interface of the two models.

`sidecard.core.backends.prompt_caches.slots` models the slots of a model server, `sidecard.core.backends.prompt_caches.provider` a provider's prompt cache.
"""

from collections.abc import Iterable
from typing import NamedTuple, Protocol

from msgspec import Struct

from sidecard.core.backends.prefix_policy import PrefixChain, PrefixKey, PrefixPolicy
from sidecard_client.protocol.wire import PrefixState, Usage


class Fit(NamedTuple):
    """The prefixes of a prompt that are available at its backend now, and later."""

    warm_tokens: float = 0.0
    """Length of the longest available prefix, which need not be processed."""
    wanted: PrefixKey | None = None
    """A longer prefix, which another call makes available at its first output or at its end."""
    gain_tokens: float = 0.0
    """Further tokens that ``wanted`` saves."""


NO_FIT = Fit()


class PromptUse(Struct, eq=False):
    """The use that one call makes of its backend's cache, from its permit to the permit's release."""

    chain: PrefixChain
    uid: int
    began_at: float
    warm_tokens: float
    """Tokens found at the start."""
    slot: int | None = None
    output_at: float | None = None
    """When the first output came: the prompt has been processed."""
    at_a_time: int = 1
    """Calls in progress at the first output."""

    @property
    def is_cold(self) -> bool:
        """Whether a prefix of the prompt was not processed when the call began."""
        return bool(self.chain.keys) and self.warm_tokens < self.chain.tokens[-1]


class Memory(Protocol):
    """The memory accounts that are charged for kept prefixes (`sidecard.core.accounts.memory.MemoryPool`)."""

    def try_charge(self, uid: int, size: int) -> bool:
        """Charge a uid, if it has room; return whether it had."""

    def release(self, uid: int, size: int) -> None:
        """Take back a charge."""


class PromptCache(Protocol):
    """A model of a backend's cache. Methods that make prefixes available return those, for callers that wait for them."""

    has_slots: bool
    """Whether callers may stop to wait because more of them do."""

    def fit(self, chain: PrefixChain, now: float) -> Fit:
        """Return which prefixes of a prompt are available now, and which later."""

    def pays_to_wait(self, chain: PrefixChain, fit: Fit, waiting: int) -> bool:
        """Return whether ``waiting`` callers that want the same prefix wait for it rather than process it again."""

    def begin(self, chain: PrefixChain, uid: int, now: float) -> PromptUse:
        """Record a call that begins."""

    def first_output(self, use: PromptUse, now: float) -> Iterable[PrefixKey]:
        """Record the first output of a call."""

    def end(self, use: PromptUse, now: float, *, processed: bool) -> Iterable[PrefixKey]:
        """Record the end of a call; ``processed``: its prompt has been processed."""

    def learn(self, use: PromptUse, seconds: float, usage: Usage, now: float) -> None:
        """Learn from an answered call how long prompts and answers take."""

    def state(self, key: PrefixKey, now: float) -> PrefixState:
        """Return the state of one prefix."""

    def warm_count(self, now: float) -> int:
        """Return the number of prefixes that are processed."""

    def forget_expired(self, now: float) -> None:
        """Drop the prefixes that the backend no longer keeps."""

    def reconfigure(self, policy: PrefixPolicy) -> None:
        """Apply other settings of the same mode."""

    def close(self) -> None:
        """Forget everything; calls in progress may still report."""
