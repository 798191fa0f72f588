import errno
import os
import pickle
from typing import get_args

import pytest

from sidecard_client.protocol import errors
from sidecard_client.protocol.errors import SidecardError
from sidecard_client.protocol.wire import RejectionReason

ALL: list[SidecardError] = [
    errors.CallFailed("transient", "TimeoutError: slow"),
    errors.CallRejected("saturated", 2.5, {"local": "saturated", "cloud": "breaker_open"}),
    errors.CallTimeout(30.0),
    errors.RequestRefused("denied", "for operators"),
    errors.UnkeyableRequest("args[0] is an object"),
    errors.UnshareableValue("a tuple"),
    errors.UnreadableAnswer("a str"),
    errors.WrongAnswers("f() returned a list of 1 for 2 inputs"),
    errors.DaemonUnavailable("/run/x.sock", "connection refused"),
    errors.ProtocolError("no such id"),
    errors.FramingError("too_large", "a frame of 9 bytes", (b"before",)),
]


@pytest.mark.parametrize("error", ALL, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: SidecardError) -> None:
    """A process pool passes an error on with its type, sentence and attributes."""
    back = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes

    assert type(back) is type(error)
    assert str(back) == str(error)
    assert back.__dict__ == error.__dict__


def test_every_error_of_the_package_is_in_the_tree() -> None:
    """The module's docstring names every exception class."""
    kinds = {
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Warning | SidecardError)
    }

    assert errors.__doc__ is not None
    assert all(kind.__name__ in errors.__doc__ for kind in kinds)
    assert {type(error) for error in ALL} == kinds - {SidecardError, errors.SidecardWarning}


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.CallTimeout(1.0), TimeoutError),
        (errors.UnkeyableRequest(""), TypeError),
        (errors.DaemonUnavailable("", ""), ConnectionError),
    ],
)
def test_errors_derive_from_the_builtin_that_programs_catch(error: SidecardError, builtin: type[Exception]) -> None:
    """A `CallTimeout` is a `TimeoutError`, and so on."""
    assert isinstance(error, builtin)


@pytest.mark.parametrize("reason", get_args(RejectionReason))
def test_a_rejection_says_why_and_what_to_change(reason: RejectionReason) -> None:
    """Every reason yields a complete sentence, also without a time and without backends."""
    text = str(errors.CallRejected(reason))

    assert text.startswith(f"The call was rejected ({reason}): ")
    assert "; " in text
    assert text.endswith(".")


def test_a_rejection_names_each_backend_and_the_time() -> None:
    """A rejection has each backend's reason and the time in its text and its attributes."""
    error = errors.CallRejected("breaker_open", 12.345, {"local": "saturated", "cloud": "breaker_open"})

    assert "(local: saturated, cloud: breaker_open); try again in 12.3 s, or" in str(error)
    assert (error.reason, error.retry_after_seconds) == ("breaker_open", 12.345)
    assert error.backends == {"local": "saturated", "cloud": "breaker_open"}
    assert errors.CallRejected("busy").backends == {}


def test_daemon_unavailable_names_path_and_command() -> None:
    """The text has the path, and the command that starts a daemon."""
    text = str(errors.DaemonUnavailable("/run/x.sock", "connection refused"))

    assert "/run/x.sock" in text
    assert "sidecard serve" in text


def test_permission_denied_names_the_settings_that_grant_access() -> None:
    """If permission is denied, the text names the settings, not a command to start another daemon."""
    text = str(errors.DaemonUnavailable("/run/x.sock", f"/run/x.sock: {os.strerror(errno.EACCES)}"))

    assert text.count("/run/x.sock") == 1
    assert "socket.group" in text
    assert "sidecard serve" not in text
