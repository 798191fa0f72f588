"""What is counted, reported and replied of answers that are not stored and of requests that were passed."""

from typing import Any, get_args

import pytest

from sidecard.core.settings import TaskSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import NotStoredReason, PassedReason
from sidecard_client.protocol.wire import Passed, RecordMetrics, Stored
from tests.host import Host, packed


@pytest.mark.parametrize(
    ("settings", "begin", "complete", "reason"),
    [
        ({}, {}, {}, ""),
        ({}, {}, {"store": False}, "policy"),
        ({}, {}, {"store": False, "not_stored": "length"}, "length"),
        ({}, {}, {"store": False, "not_stored": "a word of a later version"}, "other"),
        ({"tasks": {"rag": TaskSettings(cache="never")}}, {"task": "rag"}, {}, "policy"),
        ({"tasks": {"rag": TaskSettings(cache="never")}}, {"task": "rag"}, {"not_stored": "length"}, "policy"),
        ({"tasks": {"rag": TaskSettings(cache="deterministic")}}, {"task": "rag"}, {}, "policy"),
        ({"tasks": {"rag": TaskSettings(cache="deterministic")}}, {"task": "rag"}, {"deterministic": True}, ""),
        ({}, {"ttl_seconds": 0.0}, {}, "policy"),
        ({"ttl_seconds": 0.0, "sharing_window_seconds": 0.0}, {}, {}, "policy"),
        ({"cache_max_bytes": 4096}, {}, {}, "size"),
    ],
)
def test_reply_says_why_an_answer_is_not_stored(
    settings: dict[str, Any], begin: dict[str, Any], complete: dict[str, Any], reason: str
) -> None:
    """By the caller's word or the daemon's own policy; ledger and metrics count it by task."""
    host = Host(**settings)
    alice = host.peer()
    alice.asks(wire.Complete(alice.leads("key", **begin), packed("x" * 3000), id=2, **complete))
    assert alice.receives() == [Stored(2, not reason, reason)]
    task = begin.get("task", "general")
    ledger = host.report().tasks[task]
    assert (ledger.not_stored, ledger.not_stored_by_reason) == ((1, {reason: 1}) if reason else (0, {}))
    counted = {name: value for name, value in host.samples().items() if name.startswith("sidecard_not_stored")}
    assert counted == ({f"sidecard_not_stored_total reason={reason} task={task}": 1.0} if reason else {})


def test_answer_that_was_removed_during_its_call_is_not_stored() -> None:
    """By its key or by a tag."""
    host = Host()
    alice, operator = host.peer(), host.peer(0, operator=True)
    for removal in (wire.Delete("1000:default", id=1), wire.Purge(tag="red", id=1)):
        lease = alice.leads("key")
        operator.asks(wire.Delete("key", "1000:default", id=1) if isinstance(removal, wire.Delete) else removal)
        alice.asks(wire.Complete(lease, packed("x"), tags=("red",), id=2))
        assert alice.receives() == [Stored(2, False, "removed")]


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        ({"not_stored": "incomplete"}, "incomplete"),
        ({"invalid": True}, "invalid"),
        ({}, "other"),
    ],
)
def test_answer_that_cannot_be_shared_is_counted_as_not_stored(fail: dict[str, Any], reason: str) -> None:
    """Its backend has answered, so it is a call and a success. Without a key it counts only if its holder says why."""
    host = Host()
    alice = host.peer()
    alice.fails(alice.leads("key"), "ignored", answered=True, **fail)
    alice.receives()
    alice.fails(alice.calls("default").lease, "ignored", answered=True, **fail)
    total = host.report().total
    assert (total.not_stored_by_reason, total.upstream_calls) == ({reason: 2 if "not_stored" in fail else 1}, 2)
    assert host.breakers()["default"].calls == 2


def test_answer_without_a_key_says_why_it_has_none() -> None:
    """A client does not share what its app's policy forbids: the report must show that nothing is stored, and why."""
    host = Host()
    alice = host.peer()
    for number, given in enumerate(("policy", ""), 2):
        alice.asks(wire.Complete(alice.calls("default").lease, packed("x"), store=False, not_stored=given, id=number))
        assert alice.receives() == [Stored(number, False, given)]

    assert host.report().total.not_stored_by_reason == {"policy": 1}


def test_failed_calls_count_as_no_answers() -> None:
    """Nothing was there to be stored."""
    host = Host()
    alice = host.peer()
    for kind in get_args(wire.FailureKind):
        alice.fails(alice.leads("key"), kind, not_stored="error")
        alice.receives()

    assert host.report().total.not_stored == 0


def test_stream_that_is_too_long_to_share_counts_as_too_large() -> None:
    """Its holder goes on alone."""
    host = Host(max_memory_bytes=1_000_000)
    alice = host.peer()
    lease = alice.leads("key", stream=True)
    for _ in range(8):
        alice.asks(wire.Append(lease, packed("x" * 100_000)))

    alice.asks(wire.Complete(lease, id=2))
    assert alice.receives() == [Stored(2, False, "size")]
    assert host.report().total.not_stored_by_reason == {"size": 1}


def test_passed_requests_are_counted_by_task_reason_and_family() -> None:
    """They are no calls: nothing of them was asked."""
    host = Host()
    alice = host.peer()
    alice.asks(
        RecordMetrics(
            passed=(
                Passed(reason="dialect", count=3),
                Passed(reason="state", family="openai_responses", task="rag"),
                Passed(reason="a word of a later version", family="ollama", count=2),
            )
        )
    )
    assert alice.receives() == []
    report = host.report()
    assert (report.total.passed, report.total.calls) == (6, 0)
    assert report.tasks["general"].passed_by_reason == {"dialect": 3, "other": 2}
    assert report.tasks["rag"].passed_by_reason == {"state": 1}
    assert report.passed == {"": {"dialect": 3}, "ollama": {"other": 2}, "openai_responses": {"state": 1}}
    samples = host.samples()
    assert {reason: samples[f"sidecard_passed_total reason={reason}"] for reason in get_args(PassedReason)} == {
        "dialect": 3.0,
        "state": 1.0,
        "tool": 0.0,
        "size": 0.0,
        "policy": 0.0,
        "other": 2.0,
    }


def test_repeated_batch_counts_its_passed_requests_once() -> None:
    """Also if its measurements are recorded in several parts, and if an older batch arrives again."""
    host = Host()
    many = tuple(wire.Measurement(name=f"m{number % 50}", kind="counter") for number in range(2000))
    one, two = (
        RecordMetrics(metrics=many, session="s", sequence=number, passed=(Passed(reason="tool"),)) for number in (1, 2)
    )
    for request in (one, one, two, one):
        host.peer().asks(request)

    assert host.report().total.passed == 2


def test_families_of_passed_requests_are_bounded() -> None:
    """Peers choose their names."""
    host = Host(max_tasks=3)
    alice = host.peer()
    for number in range(1000):
        alice.asks(RecordMetrics(passed=(Passed(reason="dialect", family=f"f{number}", task=f"t{number}"),)))

    report = host.report()
    assert len(report.passed) <= 257
    assert sum(sum(reasons.values()) for reasons in report.passed.values()) == report.total.passed == 1000
    assert len(report.tasks) <= 4


def test_counts_survive_a_restart_in_the_ledger_alone() -> None:
    """Counters of metrics start at 0."""
    host, later = Host(), Host()
    alice = host.peer()
    alice.asks(RecordMetrics(passed=(Passed(reason="state"),)))
    alice.asks(wire.Complete(alice.leads("key"), packed("x"), store=False))
    later.engine.restore_ledger(host.engine.ledger_snapshot())
    total = later.report().total
    assert (total.passed_by_reason, total.not_stored_by_reason) == ({"state": 1}, {"policy": 1})
    assert later.samples()["sidecard_passed_total reason=state"] == 0.0


def test_every_reason_has_a_sum() -> None:
    """Reports name each."""
    host = Host()
    alice = host.peer()
    for reason in get_args(NotStoredReason):
        alice.asks(wire.Complete(alice.leads("key"), packed("x"), store=False, not_stored=reason))
        alice.receives()

    assert host.report().total.not_stored_by_reason == dict.fromkeys(get_args(NotStoredReason), 1)
