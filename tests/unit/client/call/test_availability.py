"""The breaker on the socket, as a table: which callers ask the daemon, and which continue without it."""

import pytest

from sidecard_client.call.availability import FIRST_BACK_OFF_SECONDS, MAX_BACK_OFF_SECONDS, Availability


@pytest.fixture
def availability() -> Availability:
    """A breaker without jitter, whose probes may take one second."""
    return Availability(lambda: 0.0, probe_seconds=1.0)


def test_admit_while_up(availability: Availability) -> None:
    """Every caller asks a daemon that has not failed."""
    assert availability.up
    assert all(availability.admit(now) for now in (0.0, 0.0, 5.0))
    assert repr(availability) == "<Availability up>"


def test_failed_shuts_out_until_the_back_off_has_passed(availability: Availability) -> None:
    """After a failure, no caller asks for a tenth of a second."""
    assert availability.failed(10.0)
    assert not availability.up
    assert not availability.admit(10.0 + FIRST_BACK_OFF_SECONDS - 0.001)
    assert availability.admit(10.0 + FIRST_BACK_OFF_SECONDS)


def test_admit_after_the_back_off_lets_one_through(availability: Availability) -> None:
    """While the prober asks, other callers continue without the daemon."""
    availability.failed(10.0)
    assert availability.admit(10.2)
    assert not availability.admit(10.2)
    assert not availability.admit(11.1)
    assert repr(availability) == "<Availability probing>"


def test_admit_when_the_prober_never_came_back(availability: Availability) -> None:
    """A killed prober does not block the daemon forever."""
    availability.failed(10.0)
    assert availability.admit(10.2)
    assert availability.admit(11.2)
    assert not availability.admit(11.3)


def test_succeeded_opens_for_all(availability: Availability) -> None:
    """One reply is enough; the next outage starts with a short back-off."""
    availability.failed(10.0)
    availability.admit(10.2)
    availability.failed(10.3)
    assert availability.succeeded()
    assert not availability.succeeded()
    assert availability.admit(10.3)
    assert availability.failed(20.0)
    assert availability.admit(20.0 + FIRST_BACK_OFF_SECONDS)


def test_failed_by_many_callers_counts_as_one_outage(availability: Availability) -> None:
    """125 threads that lose the daemon together do not double the back-off 125 times."""
    assert availability.failed(10.0)
    assert not any(availability.failed(10.01) for _ in range(124))
    assert availability.admit(10.0 + FIRST_BACK_OFF_SECONDS)


def test_failed_probes_double_the_back_off_up_to_its_bound(availability: Availability) -> None:
    """0.1, 0.2, 0.4, ... and never more than five seconds."""
    now = 0.0
    availability.failed(now)
    seen = []
    expected = FIRST_BACK_OFF_SECONDS
    for _ in range(9):
        assert not availability.admit(now + expected - 0.001)
        now += expected
        assert availability.admit(now)
        assert not availability.failed(now)
        seen.append(expected)
        expected = min(2 * expected, MAX_BACK_OFF_SECONDS)

    assert seen == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0])
    assert repr(availability) == "<Availability down, 10 failures>"


def test_failed_shortens_the_back_off_by_jitter() -> None:
    """The processes of a host do not probe in step."""
    availability = Availability(lambda: 1.0, probe_seconds=1.0)
    availability.failed(0.0)
    assert not availability.admit(0.074)
    assert availability.admit(0.076)
