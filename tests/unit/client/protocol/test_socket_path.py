from pathlib import Path

import pytest

from sidecard_client.protocol.socket_path import find_socket, listening_socket, path_for_message

SYSTEM = "/run/sidecard/sidecard.sock"
ALL = {"SIDECARD_SOCKET": "/a.sock", "RUNTIME_DIRECTORY": "/run/one:/run/two", "XDG_RUNTIME_DIR": "/run/user/5"}


def without(*names: str) -> dict[str, str]:
    """Return the whole environment but for these."""
    return {name: value for name, value in ALL.items() if name not in names}


@pytest.mark.parametrize(
    ("environ", "path"),
    [
        (ALL, "/a.sock"),
        (without("SIDECARD_SOCKET"), "/run/one/sidecard.sock"),
        (without("SIDECARD_SOCKET", "RUNTIME_DIRECTORY"), "/run/user/5/sidecard.sock"),
        ({}, "/tmp/sidecard-5/sidecard.sock"),
    ],
)
def test_daemon_and_client_of_one_user_meet(environ: dict[str, str], path: str) -> None:
    """Both take the first path that applies."""
    assert listening_socket(None, environ, uid=5) == path
    assert find_socket(None, environ, uid=5, exists=lambda _: False) == path


def test_an_explicit_path_wins() -> None:
    """It overrides every variable."""
    assert find_socket(Path("/x.sock"), ALL, uid=5) == listening_socket("/x.sock", ALL, uid=5) == "/x.sock"


def test_root_uses_the_systems_path_even_before_it_exists() -> None:
    """Root's daemon creates it, and root's clients look for it there."""
    environ = without("SIDECARD_SOCKET", "RUNTIME_DIRECTORY")

    assert listening_socket(None, environ, uid=0) == SYSTEM
    assert find_socket(None, environ, uid=0, exists=lambda _: False) == SYSTEM


def test_a_users_client_uses_the_systems_daemon_where_there_is_one() -> None:
    """A running daemon comes before one that could run."""
    environ = without("SIDECARD_SOCKET", "RUNTIME_DIRECTORY")

    assert find_socket(None, environ, uid=5, exists=SYSTEM.__eq__) == SYSTEM


@pytest.mark.parametrize("place", [SYSTEM, "/run/user/5/sidecard.sock"])
def test_a_client_with_a_runtime_directory_of_its_own_finds_the_daemon_that_runs(place: str) -> None:
    """A client skips a runtime directory of its own app that has no socket."""
    environ = without("SIDECARD_SOCKET")

    assert find_socket(None, environ, uid=5, exists=place.__eq__) == place


def test_a_given_path_is_final() -> None:
    """Another existing socket is another daemon."""
    assert find_socket(None, ALL, uid=5, exists=SYSTEM.__eq__) == "/a.sock"


def test_a_directory_in_tmp_is_no_second_choice() -> None:
    """Anybody can create it."""
    environ = {"XDG_RUNTIME_DIR": "/run/user/5"}

    assert (
        find_socket(None, environ, uid=5, exists="/tmp/sidecard-5/sidecard.sock".__eq__) == "/run/user/5/sidecard.sock"
    )


@pytest.mark.parametrize("uid", [0, 5])
@pytest.mark.parametrize("names", [(), ("SIDECARD_SOCKET",), ("SIDECARD_SOCKET", "RUNTIME_DIRECTORY"), tuple(ALL)])
def test_a_client_finds_its_own_daemon_before_and_after_it_starts(uid: int, names: tuple[str, ...]) -> None:
    """Same uid and environment give the same path, whether or not the socket exists."""
    environ = without(*names)
    bound = listening_socket(None, environ, uid=uid)

    assert find_socket(None, environ, uid=uid, exists=lambda _: False) == bound
    assert find_socket(None, environ, uid=uid, exists=bound.__eq__) == bound


def test_too_long_a_path_is_refused_with_the_limit() -> None:
    """The kernel's own error does not mention the length."""
    with pytest.raises(ValueError, match="107"):
        find_socket("/" + "x" * 107)


def test_a_service_whose_runtime_directory_is_the_systems_binds_there_without_being_root() -> None:
    """A unit's own user binds there with RuntimeDirectory=sidecard."""
    environ = {"RUNTIME_DIRECTORY": "/run/sidecard"}

    assert listening_socket(None, environ, uid=997) == SYSTEM


def test_a_message_names_the_path_or_the_problem_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Building a message never raises."""
    assert path_for_message("/given.sock") == "/given.sock"
    monkeypatch.setenv("SIDECARD_SOCKET", "/found.sock")
    assert path_for_message(None) == "/found.sock"
    monkeypatch.setenv("SIDECARD_SOCKET", "/" + "a" * 200)
    assert "a" * 200 in path_for_message(None)
