"""What can be said of the blocking client without a daemon: its arguments and its names."""

import inspect

import pytest

import sidecard_client
from sidecard_client import AsyncClient, Client


def test_arguments_are_checked_immediately() -> None:
    """Wrong arguments are errors before the first call."""
    with pytest.raises(ValueError, match="daemon_timeout= must be more than 0 seconds and at most 3600, not 0"):
        Client("/tmp/x", daemon_timeout=0)

    with pytest.raises(ValueError, match="longer than"):
        Client("/" + "x" * 200)

    with pytest.raises(ValueError, match="on_unavailable"):
        Client("/tmp/x", on_unavailable="panic")  # type: ignore[arg-type]  # the mistake

    with pytest.raises(TypeError, match="ttl= must be a number"):
        Client("/tmp/x", ttl="600")  # type: ignore[arg-type]  # the mistake


def test_making_a_client_connects_to_nothing() -> None:
    """Its representation shows no connection."""
    with Client("/nowhere/at.all") as client:
        assert repr(client) == "<Client <Connector <Availability up> 0 open, 0 idle>>"


def test_the_decorators_check_their_policy_immediately() -> None:
    """An unknown keyword is an error where it is written."""
    client = Client("/nowhere/at.all")
    with pytest.raises(TypeError, match="'tll' is not a policy keyword"):
        client.cached(tll=3)

    with pytest.raises(TypeError, match="'tll' is not a policy keyword"):
        client.wrap(object(), tll=3)


def test_both_clients_have_the_same_methods_in_the_same_order() -> None:
    """Only `close` differs: ``async with`` replaces it."""

    def public(kind: type) -> list[str]:
        return [name for name in vars(kind) if not name.startswith("_") and inspect.isfunction(vars(kind)[name])]

    blocking = [name for name in public(Client) if name != "close"]
    assert [name for name in public(AsyncClient) if name in blocking] == blocking


def test_the_package_names_what_it_has() -> None:
    """Each name of ``__all__`` is there, and a wrong one is an ordinary error."""
    for name in sidecard_client.__all__:
        assert getattr(sidecard_client, name) is not None

    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = sidecard_client.Clint  # type: ignore[attr-defined]  # the mistake
