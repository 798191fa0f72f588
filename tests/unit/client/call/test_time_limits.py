"""Impossible time limits are rejected where they are given, with their name, their value and what is possible."""

import math
from typing import Any

import pytest

from sidecard_client import AsyncClient, Client

IMPOSSIBLE = [math.inf, -math.inf, math.nan, 1e10, -1, -1e-9, 10**30]
WRONG_TYPES = [True, "1", b"1", [1], 1j]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("value", [*IMPOSSIBLE, 0, 0.0, 3600.1])
def test_impossible_daemon_timeout_is_rejected_at_construction(kind: Any, value: float) -> None:
    """The daemon must answer at some time, and within an hour."""
    with pytest.raises(ValueError, match=r"daemon_timeout= must be more than 0 seconds and at most 3600, not"):
        kind("/tmp/x", daemon_timeout=value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("value", [*WRONG_TYPES, None])
def test_daemon_timeout_of_wrong_type_is_rejected(kind: Any, value: object) -> None:
    """A bool or a text is no number of seconds; there is no "no limit"."""
    with pytest.raises(TypeError, match=r"daemon_timeout= must be a number of seconds, not"):
        kind("/tmp/x", daemon_timeout=value)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("option", ["ttl", "stale", "wait"])
@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_impossible_policy_is_rejected_at_construction(kind: Any, option: str, value: float) -> None:
    """The error names option, value and range. None means the daemon's own setting."""
    with pytest.raises(ValueError, match=rf"{option}= must be 0 to 31622400 seconds, not"):
        kind("/tmp/x", **{option: value})

    with pytest.raises(TypeError, match=rf"{option}= must be a number of seconds or None, not"):
        kind("/tmp/x", **{option: "1"})

    kind("/tmp/x", **{option: None})


@pytest.mark.parametrize("option", ["ttl", "stale", "wait", "pace", "failure_ttl"])
@pytest.mark.parametrize("value", [*IMPOSSIBLE, *WRONG_TYPES])
def test_impossible_policy_is_rejected_at_each_call(option: str, value: Any) -> None:
    """A wrong policy raises before the function runs, with or without a daemon."""

    def function() -> None:
        raise AssertionError("the function must not run")

    with Client("/tmp/x") as client, pytest.raises((ValueError, TypeError), match=rf"{option}= must be"):
        client.call(function, **{option: value})


@pytest.mark.parametrize("value", IMPOSSIBLE)
def test_impossible_timeout_of_flush_is_rejected(value: float) -> None:
    """Whether or not there are metrics. 0 does not wait."""
    with Client("/tmp/x") as client:
        assert client.flush_metrics(0)
        with pytest.raises(ValueError, match=r"timeout= must be at least 0 seconds and at most 3600, not"):
            client.flush_metrics(value)
