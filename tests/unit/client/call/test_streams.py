"""What both clients' streams have in common."""

from time import sleep
from typing import Any

import pytest

from sidecard_client.call.call import prepare
from sidecard_client.call.commands import Ask, Give, Open, Pull, Returned
from sidecard_client.call.leading import lead
from sidecard_client.call.options import Options
from sidecard_client.call.streams import END, ForOthers, ForOwnCaller, Leading, Provenance
from sidecard_client.protocol import wire


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


@pytest.mark.parametrize("early", [[], [ForOwnCaller("head", is_output=False), ForOthers("created", is_output=False)]])
def test_the_report_of_a_stream_says_when_its_first_output_came(early: list[Any]) -> None:
    """Breakers and routes judge by the seconds from the call of the function to its first output."""
    pieces = iter([*early, "piece", END])
    granted = wire.Lease(id=1, lease="l", backend="default", expires_in_seconds=15, attempt=1)
    conversation = lead(Leading(prepare(Options(), list, ("p",), {}, stream=True), granted), Provenance())
    result: Any = None
    usage = None
    while usage is None:
        match conversation.send(result):
            case Open() | Pull():
                piece = next(pieces)
                if piece == "piece":
                    sleep(0.02)

                result = Returned(piece)
            case Give():
                result = "more"
            case Ask(wire.Complete() as complete):
                usage = complete.usage
            case _:
                result = True

    assert usage.first_chunk_seconds is not None
    assert 0.02 <= usage.first_chunk_seconds < 10


def test_provenance_adopts_what_each_reply_states() -> None:
    """The first piece and the end state the same facts; the end's are the final ones."""
    facts = Provenance()
    facts.began(wire.Chunk(1, "a", "cache", 3.0, "local", 0.25, 0.97), 0.5)
    assert vars(facts) == {
        "source": "cache",
        "age_seconds": 3.0,
        "backend": "local",
        "saved_dollars": 0.25,
        "similarity": 0.97,
        "waited_seconds": 0.5,
    }
    facts.ended(wire.End(1, "stale", 4.0, True, 9.0, 0.5, "cloud", None, similarity=0.98), 7.0)
    assert vars(facts) == {
        "source": "cache",
        "age_seconds": 4.0,
        "backend": "cloud",
        "saved_seconds": 9.0,
        "saved_dollars": 0.5,
        "similarity": 0.98,
        "waited_seconds": 0.5,
    }
