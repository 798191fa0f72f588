"""How a backend keeps prompts: defaults of its mode, what its family publishes, and what is configured."""

from math import inf
from typing import get_args

import pytest

from sidecard.core.backends.prefix_policy import FAMILIES, PrefixPolicy, prefix_policy
from sidecard.core.settings import BackendSettings, PrefixFamily
from sidecard_client.protocol.wire import PrefixAffinity


def test_every_family_has_values() -> None:
    """The setting accepts these names."""
    assert set(FAMILIES) == set(get_args(PrefixFamily))


def test_off_is_no_policy() -> None:
    """Whatever else is set."""
    assert prefix_policy(BackendSettings()) is None
    assert prefix_policy(BackendSettings(prefix_family="gemini", prefix_min_tokens=5, slots=2)) is None


@pytest.mark.parametrize(
    ("affinity", "family", "min_tokens", "lifetime_seconds", "hold_seconds"),
    [
        ("slots", None, 64, inf, 30.0),
        ("slots", "llama.cpp", 64, inf, 30.0),
        ("provider", None, 1024, 300.0, 10.0),
        ("provider", "anthropic", 1024, 300.0, 10.0),
        ("provider", "openai", 1024, 300.0, 10.0),
        ("provider", "gemini", 4096, 300.0, 10.0),
    ],
)
def test_mode_and_family_give_the_values_that_are_unset(
    affinity: PrefixAffinity, family: PrefixFamily | None, min_tokens: int, lifetime_seconds: float, hold_seconds: float
) -> None:
    """The number of slots is that of the calls at a time."""
    settings = BackendSettings(prefix_affinity=affinity, prefix_family=family, max_concurrent=3)
    assert prefix_policy(settings) == PrefixPolicy(affinity, min_tokens, lifetime_seconds, hold_seconds, 10.0, 3)


def test_configured_values_replace_those_of_the_family() -> None:
    """0 is a value."""
    settings = BackendSettings(
        prefix_affinity="provider",
        prefix_family="gemini",
        prefix_min_tokens=0,
        prefix_lifetime_seconds=3600.0,
        prefix_hold_seconds=0.0,
        prefix_pass_seconds=1.0,
        slots=8,
    )
    assert prefix_policy(settings) == PrefixPolicy("provider", 0, 3600.0, 0.0, 1.0, 8)
