"""What the call log is given: one record for each call, as its caller saw it."""

from typing import Any

import pytest

from sidecard.core.accounts.call_records import exception_of
from sidecard.core.effects import CallRecord
from sidecard_client.protocol import wire
from tests.host import Host, packed

USAGE = wire.Usage(model="m", prompt_tokens=3, completion_tokens=5, cost_dollars=0.5)
SPOKEN = wire.Transcript(packed({"args": ["why?"], "kwargs": {}}), packed("because"))


def test_off_unless_wanted() -> None:
    """As it is by default."""
    host = Host()
    alice = host.peer()
    alice.completes(alice.leads("key"), 1)
    alice.asks(wire.Begin("key", id=7))
    alice.hears()
    alice.refused("cloud", mode="only_if_cached")
    assert host.logged == []


def test_a_call_and_those_who_shared_it() -> None:
    """Three records of one key."""
    host = Host(log_calls=True)
    alice, bob = host.peer(pid=11), host.peer(uid=2000, operator=True)
    lease = alice.leads("key", task="rag", backends=("cloud",), trace="t")
    bob.waits("key", namespace="1000:default")
    host.passes(2.0)
    alice.completes(lease, "because", usage=USAGE, spoken=SPOKEN)
    host.passes(1.0)
    alice.asks(wire.Begin("key", task="rag", id=9))

    common: dict[str, Any] = {
        "key": "key",
        "namespace": "1000:default",
        "backend": "cloud",
        "model": "m",
        "prompt_tokens": 3,
        "completion_tokens": 5,
    }
    assert host.logged == [
        CallRecord("upstream", "rag", uid=1000, pid=11, billed_dollars=0.5, seconds=2.0, trace="t", **common),
        CallRecord("shared", "general", uid=2000, pid=0, saved_dollars=0.5, seconds=2.0, **common),
        CallRecord("cache", "rag", uid=1000, pid=11, saved_dollars=0.5, age_seconds=1.0, **common),
    ]


def test_a_record_without_prompts_has_none() -> None:
    """Whatever the app sends."""
    host = Host(log_calls=True)
    alice = host.peer()
    assert not alice.calls("cloud").log
    alice.completes(alice.leads("key"), "because", spoken=SPOKEN)
    assert [(record.prompt, record.answer) for record in host.logged] == [(None, None)]


def test_what_was_said_is_kept_where_it_is_asked_for() -> None:
    """The lease asks; an app that does not answer keeps its words."""
    host = Host(log_calls=True, log_prompts=True)
    alice = host.peer()
    assert alice.calls("cloud").log
    alice.completes(alice.leads("a"), "because", spoken=SPOKEN)
    alice.completes(alice.leads("b"), "secret", spoken=wire.Transcript(SPOKEN.prompt, packed("blotted out")))
    alice.completes(alice.leads("c"), "because")
    assert [(record.prompt, record.answer) for record in host.logged] == [
        (bytes(SPOKEN.prompt), bytes(packed("because"))),
        (bytes(SPOKEN.prompt), bytes(packed("blotted out"))),
        (None, None),
    ]


def test_calls_without_a_key_are_calls() -> None:
    """They are nobody else's."""
    host = Host(log_calls=True, log_prompts=True)
    alice = host.peer()
    alice.completes(alice.calls("cloud").lease, "because", spoken=SPOKEN)
    assert [(record.key, record.answer) for record in host.logged] == [(None, bytes(packed("because")))]


def test_failures() -> None:
    """Each call that was made, with the type of what it raised and none of its words."""
    host = Host(log_calls=True)
    alice, bob = host.peer(), host.peer()
    alice.fails(alice.calls("cloud").lease, "fatal", message="ValueError: the prompt was 'why?'")
    alice.hears()
    alice.leads("key")
    bob.waits("key")
    alice.dies()
    host.passes(16.0)
    assert [(record.source, record.reason, record.error) for record in host.logged] == [
        ("failed", "fatal", "ValueError"),
        ("failed", "lost", ""),
        ("failed", "expired", ""),
    ]


def test_begins_that_led_to_no_call() -> None:
    """Refused, or out of time."""
    host = Host(log_calls=True)
    alice, bob = host.peer(), host.peer()
    bob.asks(wire.Begin("key", mode="only_if_cached"))
    bob.hears()
    alice.leads("key")
    bob.waits("key", wait_seconds=3.0)
    host.passes(4.0)
    assert [(record.source, record.reason, record.seconds) for record in host.logged] == [
        ("rejected", "not_cached", 0.0),
        ("timeout", "", 3.0),
    ]


def test_an_answer_that_cannot_be_shared_is_a_call() -> None:
    """And no failure."""
    host = Host(log_calls=True)
    alice = host.peer()
    alice.fails(alice.calls("cloud").lease, "ignored", answered=True, usage=USAGE)
    assert [(record.source, record.billed_dollars) for record in host.logged] == [("upstream", 0.5)]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("ValueError: why?", "ValueError"),
        ("httpx.ReadTimeout: x", "httpx.ReadTimeout"),
        ("the connection of the process has ended", ""),
        ("", ""),
        ("ValueError", "ValueError"),
        ("Why is the sky blue?: x", ""),
    ],
)
def test_of_a_failure_the_type_is_kept(message: str, shown: str) -> None:
    """Exceptions quote what they were given."""
    assert exception_of(message) == shown
