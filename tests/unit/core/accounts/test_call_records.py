"""The call log's records: one per call, as its caller saw it."""

from typing import Any

import pytest

from sidecard.core.accounts.call_records import exception_of
from sidecard.core.effects import CallRecord
from sidecard_client.protocol import wire
from tests.host import Host, packed

USAGE = wire.Usage(model="m", prompt_tokens=3, completion_tokens=5, cost_dollars=0.5)
SPOKEN = wire.Transcript(packed({"args": ["why?"], "kwargs": {}}), packed("because"))


def test_no_records_by_default() -> None:
    """The call log is off by default."""
    host = Host()
    alice = host.peer()
    alice.completes(alice.leads("key"), 1)
    alice.asks(wire.Begin("key", id=7))
    alice.receives()
    alice.refused("cloud", mode="only_if_cached")
    assert host.logged == []


def test_a_call_and_its_sharers_have_a_record_each() -> None:
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


def test_records_have_no_prompts_by_default() -> None:
    """Even if the app sends them."""
    host = Host(log_calls=True)
    alice = host.peer()
    assert not alice.calls("cloud").log
    alice.completes(alice.leads("key"), "because", spoken=SPOKEN)
    assert [(record.prompt, record.answer) for record in host.logged] == [(None, None)]


def test_records_have_prompts_if_the_lease_asked_for_them() -> None:
    """An app may leave the texts out nevertheless."""
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


def test_calls_without_a_key_are_recorded() -> None:
    """They are not shared."""
    host = Host(log_calls=True, log_prompts=True)
    alice = host.peer()
    alice.completes(alice.calls("cloud").lease, "because", spoken=SPOKEN)
    assert [(record.key, record.answer) for record in host.logged] == [(None, bytes(packed("because")))]


def test_failed_calls_are_recorded_with_the_type_of_the_error() -> None:
    """A record has none of the error's text."""
    host = Host(log_calls=True)
    alice, bob = host.peer(), host.peer()
    alice.fails(alice.calls("cloud").lease, "fatal", message="ValueError: the prompt was 'why?'")
    alice.receives()
    alice.leads("key")
    bob.waits("key")
    alice.dies()
    host.passes(16.0)
    assert [(record.source, record.reason, record.error) for record in host.logged] == [
        ("failed", "fatal", "ValueError"),
        ("failed", "lost", ""),
        ("failed", "expired", ""),
    ]


def test_rejections_and_timeouts_are_recorded() -> None:
    """Begins that led to no call have records as well."""
    host = Host(log_calls=True)
    alice, bob = host.peer(), host.peer()
    bob.asks(wire.Begin("key", mode="only_if_cached"))
    bob.receives()
    alice.leads("key")
    bob.waits("key", wait_seconds=3.0)
    host.passes(4.0)
    assert [(record.source, record.reason, record.seconds) for record in host.logged] == [
        ("rejected", "not_cached", 0.0),
        ("timeout", "", 3.0),
    ]


def test_an_answer_that_cannot_be_shared_is_recorded_as_upstream() -> None:
    """It is no failure."""
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
def test_exception_of_returns_the_type_alone(message: str, shown: str) -> None:
    """The text of an exception quotes its input."""
    assert exception_of(message) == shown


def test_a_call_without_a_price_is_billed_nothing() -> None:
    """Neither its caller nor a setting knows what it cost."""
    host = Host(log_calls=True)
    alice = host.peer()
    alice.completes(alice.leads("key"), 1, usage=wire.Usage(model="m"))
    (record,) = host.logged
    assert record.billed_dollars == 0.0
