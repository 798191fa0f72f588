"""How a backend keeps processed beginnings of prompts: its settings, completed by its family and its mode."""

from math import inf
from typing import NamedTuple

from msgspec import Struct

from sidecard.core.settings import BackendSettings, PrefixFamily
from sidecard_client.protocol.wire import PrefixAffinity


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

FAMILIES: dict[PrefixFamily, PrefixDefaults] = {}
"""What the providers publish."""


class PrefixPolicy(Struct, frozen=True):
    """The settings in effect."""

    affinity: PrefixAffinity
    min_tokens: int
    lifetime_seconds: float
    hold_seconds: float
    pass_seconds: float
    slots: int


def prefix_policy(settings: BackendSettings) -> PrefixPolicy | None:
    """Return how a backend keeps prompts; None if calls are not scheduled by their prefixes."""
    if settings.prefix_affinity == "off":
        return None

    of_mode = DEFAULTS[settings.prefix_affinity]
    defaults = of_mode if settings.prefix_family is None else FAMILIES.get(settings.prefix_family, of_mode)
    min_tokens, lifetime, hold = (
        settings.prefix_min_tokens,
        settings.prefix_lifetime_seconds,
        settings.prefix_hold_seconds,
    )
    return PrefixPolicy(
        settings.prefix_affinity,
        defaults.min_tokens if min_tokens is None else min_tokens,
        defaults.lifetime_seconds if lifetime is None else lifetime,
        defaults.hold_seconds if hold is None else hold,
        settings.prefix_pass_seconds,
        settings.max_concurrent if settings.slots is None else settings.slots,
    )
