"""Settings of prefix affinity that contradict each other, and the words of their errors."""

from typing import Any

import msgspec
import pytest

from sidecard.config.load import load
from sidecard.errors import ConfigError


def configured(name: str, **settings: Any) -> dict[str, str]:
    """Return an environment with one backend."""
    return {"SIDECARD_BACKENDS": msgspec.json.encode({name: settings}).decode()}


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        (
            configured("x", prefix_affinity="slots"),
            (
                "backends.x.prefix_affinity is slots, but the number of slots is unknown; set backends.x.slots, or "
                "backends.x.max_concurrent to the same number"
            ),
        ),
        (
            configured("local", prefix_affinity="slots", prefix_family="openai"),
            (
                "backends.local.prefix_family is openai, but backends.local.prefix_affinity is slots; set it to provider, or "
                "omit prefix_family"
            ),
        ),
        (
            configured("x", prefix_affinity="provider", prefix_family="llama.cpp"),
            (
                "backends.x.prefix_family is llama.cpp, but backends.x.prefix_affinity is provider; set it to slots, or "
                "omit prefix_family"
            ),
        ),
        (
            configured("x", prefix_family="antropic"),
            (
                'backends.x.prefix_family is \'antropic\'; it should be one of "llama.cpp", "anthropic", "openai", '
                '"gemini"'
            ),
        ),
    ],
)
def test_contradictions_are_reported_once(environ: dict[str, str], said: str) -> None:
    """The sentence says what to change."""
    with pytest.raises(ConfigError) as caught:
        load(None, environ)

    (problem,) = caught.value.problems
    assert problem.endswith(said)


@pytest.mark.parametrize(
    "environ",
    [
        configured("local", prefix_affinity="slots", prefix_family="llama.cpp"),
        configured("x", prefix_affinity="slots", slots=4),
        configured("x", prefix_affinity="provider", prefix_family="gemini"),
        configured("x", prefix_family="llama.cpp"),
    ],
)
def test_settings_that_fit_are_accepted(environ: dict[str, str]) -> None:
    """A local backend has a default limit, which is its number of slots; a family alone changes nothing."""
    assert load(None, environ).backends
