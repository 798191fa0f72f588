"""How a backend keeps processed prefixes: its settings, completed by its family and its mode."""

from math import inf
from typing import Final, NamedTuple

from msgspec import Struct

from sidecard.core.settings import BackendSettings, PrefixFamily
from sidecard_client.protocol.values import BYTES_PER_TOKEN
from sidecard_client.protocol.wire import PrefixAffinity

PrefixKey = tuple[str, str]
"""A scope and the digest of a prefix: no tenant learns what another one has sent."""

UNKNOWN_TOKENS = 1024
"""Tokens of each prefix beyond the one before, if the caller does not know them."""


class PrefixDefaults(NamedTuple):
    """Values of the settings that are unset."""

    min_tokens: int
    lifetime_seconds: float
    hold_seconds: float


DEFAULTS: dict[PrefixAffinity, PrefixDefaults] = {
    # Short prompts are processed faster than a caller waits for a slot. A prompt may take long on a model server, and stays
    # in its slot until another one replaces it.
    "slots": PrefixDefaults(64, inf, 30.0),
    "provider": PrefixDefaults(1024, 300.0, 10.0),
}

FAMILIES: dict[PrefixFamily, PrefixDefaults] = {
    "llama.cpp": DEFAULTS["slots"],
    "anthropic": PrefixDefaults(1024, 300.0, 10.0),
    "openai": PrefixDefaults(1024, 300.0, 10.0),
    "gemini": PrefixDefaults(4096, 300.0, 10.0),
}
"""What each family publishes, read in November 2026. A value that is too low lets callers wait for a cache that has nothing for them, at
most `PrefixDefaults.hold_seconds`; a lifetime that is too long lets calls with a forgotten prefix start together.

=========  =====================================================================================================================
llama.cpp  ``llama-server --help`` (``--slot-prompt-similarity``, ``--cache-ram``) and github.com/ggml-org/llama.cpp/pull/16391: no
           minimum and no lifetime. A slot keeps its last prompt; up to 8 GiB of replaced ones stay in the host's memory.
anthropic  platform.claude.com/docs/en/build-with-claude/prompt-caching: 5 minutes after the last use, or an hour if requested;
           an entry exists once the first response begins. The minimum depends on the model: 1,024 tokens for Opus 4.8 and
           Sonnet 5, 512 for Opus 5, 2,048 for Opus 4.7, 4,096 for Opus 4.6 and Haiku 4.5.
openai     developers.openai.com/api/docs/guides/prompt-caching: 1,024 tokens; 5 to 10 minutes of inactivity. From GPT-5.6 on,
           at least 30 minutes.
gemini     ai.google.dev/gemini-api/docs/caching: 4,096 tokens for Gemini 3 and 4, 2,048 for 2.5. The lifetime of implicit caching
           is not published ("a short amount of time"); that of the others is used.
=========  =====================================================================================================================
"""


class PrefixChain(NamedTuple):
    """The prefixes of one prompt that are long enough for a backend, the shortest first."""

    keys: tuple[PrefixKey, ...] = ()
    tokens: tuple[float, ...] = ()
    """Length of each."""
    total_tokens: float = 0.0
    """Length of the longest prefix: about that of the prompt."""


NO_PREFIX = PrefixChain()


class Patience(NamedTuple):
    """How long a caller may be held: for half of the time from its first hold until it stops waiting, at most."""

    since: float
    """When it was held for the first time, at any backend; now, if it was not."""
    until: float
    """When it stops waiting."""


NO_PATIENCE: Final = Patience(0.0, 0.0)
"""Of a caller that must not be held."""


def patience_of(held_since: float | None, deadline: float, now: float) -> Patience:
    """Return how long a caller may be held that was first held at ``held_since``, if it was, and stops waiting at ``deadline``."""
    return Patience(now if held_since is None else held_since, deadline)


class PrefixPolicy(Struct, frozen=True):
    """The settings in effect."""

    affinity: PrefixAffinity
    min_tokens: int
    lifetime_seconds: float
    hold_seconds: float
    pass_seconds: float
    slots: int

    def limited(self, permits: int) -> int:
        """Return the limit of permits: ``permits``, but at most the number of slots. 0 means no limit."""
        if self.affinity != "slots":
            return permits

        return min(permits, self.slots) if permits else self.slots

    def end_of_hold(self, patience: Patience) -> float:
        """Return until when a caller may be held."""
        return patience.since + min(self.hold_seconds, (patience.until - patience.since) / 2)

    def chain(self, scope: str, digests: tuple[str, ...], lengths: tuple[int, ...]) -> PrefixChain:
        """Return the prefixes of a begin that are long enough; ``lengths`` are bytes, empty if unknown."""
        if not digests:
            return NO_PREFIX

        if not lengths:
            tokens = [max(self.min_tokens, UNKNOWN_TOKENS) * (1.0 + place) for place in range(len(digests))]
        else:
            tokens = [length / BYTES_PER_TOKEN for length in lengths]

        first = next((place for place, number in enumerate(tokens) if number >= self.min_tokens), len(tokens))
        keys = tuple((scope, digest) for digest in digests[first:])
        return PrefixChain(keys, tuple(tokens[first:]), tokens[-1])


def prefix_policy(settings: BackendSettings) -> PrefixPolicy | None:
    """Return how a backend keeps prompts; None if calls are not scheduled by their prefixes."""
    if settings.prefix_affinity == "off":
        return None

    of_mode = DEFAULTS[settings.prefix_affinity]
    family, slots = settings.prefix_family, settings.slots
    defaults = of_mode if family is None else FAMILIES.get(family, of_mode)
    min_tokens, lifetime_seconds = settings.prefix_min_tokens, settings.prefix_lifetime_seconds
    hold_seconds = settings.prefix_hold_seconds
    return PrefixPolicy(
        settings.prefix_affinity,
        defaults.min_tokens if min_tokens is None else min_tokens,
        defaults.lifetime_seconds if lifetime_seconds is None else lifetime_seconds,
        defaults.hold_seconds if hold_seconds is None else hold_seconds,
        settings.prefix_pass_seconds,
        settings.max_concurrent if slots is None else slots,
    )
