"""What an answer means for the block that it is about."""

import pytest

from sidecard.observe.push.target import (
    MAX_RETRY_AFTER_SECONDS,
    Postponed,
    PushSettings,
    Refused,
    Sent,
    Target,
    outcome_of,
    retry_after_seconds,
)

NOW = 1_795_453_445.0
"""Mon, 23 Nov 2026 17:04:05 GMT."""


@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_is_one(status: int) -> None:
    """Whatever the number."""
    assert outcome_of(status, {}, "", NOW) == Sent()


@pytest.mark.parametrize("status", [400, 406, 409, 411, 413, 415, 418, 422, 431])
def test_what_will_never_be_taken_is_dropped(status: int) -> None:
    """With what the target says."""
    assert outcome_of(status, {}, "out of order", NOW) == Refused(f"answered {status}: out of order")


@pytest.mark.parametrize("status", [401, 402, 403, 404, 405, 407, 408, 421, 425, 426, 429, 451])
def test_what_can_be_mended_is_waited_for(status: int) -> None:
    """A wrong password must not cost the data of the night."""
    assert outcome_of(status, {}, "", NOW) == Postponed(f"answered {status}")


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599])
def test_a_target_that_fails_is_waited_for(status: int) -> None:
    """It was reached, so it may be the block."""
    assert outcome_of(status, {}, "", NOW) == Postponed(f"answered {status}", answered=True)


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(status: int) -> None:
    """And the log does not get the secrets of where it leads."""
    outcome = outcome_of(status, {"Location": "http://user:secret@elsewhere/x?key=secret"}, "", NOW)
    assert isinstance(outcome, Postponed)
    assert "http://***@elsewhere/x?***: set push.url" in outcome.reason
    assert "secret" not in outcome.reason


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_that_is_asked_for_is_known(status: int) -> None:
    """With both answers that have one."""
    outcome = outcome_of(status, {"Retry-After": "7"}, "", NOW)
    assert isinstance(outcome, Postponed)
    assert outcome.retry_after_seconds == 7.0


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
def test_a_pause_is_seconds_or_a_date(asked: str, seconds: float | None) -> None:
    """Whatever else it is means nothing."""
    assert retry_after_seconds(asked, NOW) == seconds


def test_the_address_in_logs_has_no_secrets() -> None:
    """User, password, query."""
    target = Target(PushSettings("http://user:secret@vm:8428/api/v1/import?key=secret", "i"), {}, wall=lambda: NOW)
    assert target.shown_url == "http://***@vm:8428/api/v1/import?***"


def test_certificates_that_cannot_be_used_are_told_at_once(tmp_path: object) -> None:
    """Not at the first push."""
    with pytest.raises(OSError, match="No such file"):
        Target(PushSettings("https://vm/", "i", ca_file="/nonexistent/ca.pem"), {}, wall=lambda: NOW)

    with pytest.raises(OSError, match="has no certificates"):
        Target(PushSettings("https://vm/", "i", ca_file=__file__), {}, wall=lambda: NOW)
