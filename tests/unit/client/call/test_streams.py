"""What both clients' streams have in common."""

import pytest

from sidecard_client.call.streams import Provenance


@pytest.mark.parametrize("source", ["cache", "stale"])
def test_pieces_of_a_stored_stream_are_spaced(source: str) -> None:
    """The pause counts from the piece before; a slow reader does not wait longer."""
    facts = Provenance()
    assert facts.pause_seconds(2.0, 100.0) == 0.0  # the first piece says where it is from
    facts.source = source  # type: ignore[assignment]  # one of its literals
    assert facts.pause_seconds(2.0, 100.5) == 1.5
    assert facts.pause_seconds(2.0, 102.0) == 2.0
    assert facts.pause_seconds(2.0, 110.0) == 0.0


@pytest.mark.parametrize("source", ["upstream", "shared", "fallback"])
def test_pieces_of_a_running_call_are_not_delayed(source: str) -> None:
    """They are given as they arrive."""
    facts = Provenance()
    facts.source = source  # type: ignore[assignment]  # one of its literals
    assert [facts.pause_seconds(2.0, now) for now in (100.0, 100.1, 100.2)] == [0.0, 0.0, 0.0]
