"""The meaning of an answer for its block."""

import pytest

from sidecard.config.schema import PushSettings
from sidecard.observe.push.target import (
    MAX_RETRY_AFTER_SECONDS,
    Postponed,
    Refused,
    Sent,
    Target,
    result_of,
    retry_after_seconds,
)

NOW = 1_795_453_445.0
"""Mon, 23 Nov 2026 17:04:05 GMT."""


@pytest.mark.parametrize("status", [200, 202, 204])
def test_any_2xx_is_a_success(status: int) -> None:
    """With any number."""
    assert result_of(status, {}, "", NOW) == Sent()


@pytest.mark.parametrize("status", [400, 406, 409, 411, 413, 415, 418, 422, 431])
def test_a_rejected_block_is_dropped(status: int) -> None:
    """The reason has the target's answer."""
    assert result_of(status, {}, "out of order", NOW) == Refused(f"answered {status}: out of order")


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407, 408, 421, 425, 426, 429, 451])
def test_an_error_that_can_be_repaired_postpones(status: int) -> None:
    """A wrong password must not lose a night's data."""
    assert result_of(status, {}, "", NOW) == Postponed(f"answered {status}")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_a_failing_target_postpones(status: int) -> None:
    """The target was reached, so the block may be the cause."""
    assert result_of(status, {}, "", NOW) == Postponed(f"answered {status}", answered=True)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    """The reason does not contain the secrets of its address."""
    result = result_of(status, {"Location": "http://user:secret@elsewhere/x?key=secret"}, "", NOW)
    assert isinstance(result, Postponed)
    assert "http://***@elsewhere/x?***: set push.url" in result.reason
    assert "secret" not in result.reason


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_is_honored(status: int) -> None:
    """With both status codes that may have one."""
    result = result_of(status, {"Retry-After": "7"}, "", NOW)
    assert isinstance(result, Postponed)
    assert result.retry_after_seconds == 7.0


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("0", 0.0),
        (" 30 ", 30.0),
        ("999999999", MAX_RETRY_AFTER_SECONDS),
        ("9" * 10_000, MAX_RETRY_AFTER_SECONDS),
        ("Mon, 23 Nov 2026 17:05:05 GMT", 60.0),
        ("Mon, 23 Nov 2026 17:05:05 -0000", 60.0),
        ("Mon, 23 Nov 2026 17:05:05", 60.0),
        ("Mon, 23 Nov 2020 17:05:05 GMT", 0.0),
        ("Mon, 23 Nov 9999 17:05:05 GMT", MAX_RETRY_AFTER_SECONDS),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("²", None),
        ("Mon, 99 Nov 2026 17:05:05 GMT", None),
        ("Mon, 1 Jan 0001 00:00:00 +2359", 0.0),
    ],
)
def test_a_retry_after_is_seconds_or_a_date(asked: str, seconds: float | None) -> None:
    """Any other value is ignored."""
    assert retry_after_seconds(asked, NOW) == seconds


def test_the_url_in_logs_has_no_secrets() -> None:
    """Neither user, password nor query."""
    target = Target(PushSettings("http://user:secret@vm:8428/api/v1/import?key=secret"), {}, wall=lambda: NOW)
    assert target.shown_url == "http://***@vm:8428/api/v1/import?***"


def test_unusable_certificates_are_an_error_immediately(tmp_path: object) -> None:
    """Not at the first push."""
    with pytest.raises(OSError, match="No such file"):
        Target(PushSettings("https://vm/", ca_file="/nonexistent/ca.pem"), {}, wall=lambda: NOW)

    with pytest.raises(OSError, match="has no certificates"):
        Target(PushSettings("https://vm/", ca_file=__file__), {}, wall=lambda: NOW)
