"""The layout of an entry in Redis."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecard.core.records import Record, index_tags_of_purge
from sidecard.core.scopes import covers
from sidecard.store.redis.scripts import (
    decode_entry,
    encode_entry,
    encode_tags,
    entry_name,
    scan_pattern,
    scope_and_key,
)
from sidecard_client.protocol.wire import Usage

RECORD = Record(b"\xa5value", 1.5, 300.0, 60.0, "cloud", Usage("m", 1, 2, 0.25), ("a", "b"), task="rag")
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
namespaces = texts.filter(lambda text: ":" not in text)


def test_an_envelope_returns_its_record_and_age() -> None:
    """The age follows from what remains of the longer of its two lifetimes."""
    found = decode_entry(encode_entry(RECORD), 290.0)
    assert found is not None
    assert found.age_seconds == 10.0
    assert (found.value, found.seconds, found.ttl_seconds, found.window_seconds) == (b"\xa5value", 1.5, 300.0, 60.0)
    assert (found.backend, found.usage, found.tags, found.task) == ("cloud", RECORD.usage, ("a", "b"), "rag")


def test_an_envelope_of_a_version_without_tasks_is_read() -> None:
    """That version also reads ours: it ignores what follows its fields."""
    fields = msgspec.msgpack.decode(encode_entry(RECORD)[1:])
    assert fields.pop() == "rag"
    found = decode_entry(encode_entry(RECORD)[:1] + msgspec.msgpack.encode(fields), 290.0)
    assert found is not None
    assert (found.value, found.task) == (RECORD.value, "")


@pytest.mark.parametrize(
    ("tag", "task", "taken"),
    [(None, None, True), ("a", None, True), (None, "rag", True), ("b", "rag", True), ("rag", None, False),
     ("a", "general", False), ("c", "rag", False)],
)  # fmt: skip
def test_tags_identify_what_a_purge_removes(tag: str | None, task: str | None, taken: bool) -> None:
    """By all tags and the task that are named; a task is no tag."""
    lying = encode_tags(RECORD.index_tags)
    assert all(encode_tags((mark,)) in lying for mark in index_tags_of_purge(tag, task)) is taken


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x03" + encode_entry(RECORD)[1:],
        encode_entry(RECORD)[:-1],
        b"\x01\x97\xc0",
        b"x" * 100,
        b"\x01" + b"\x91" * 5000,
    ],
)
def test_an_unknown_envelope_is_a_miss(data: bytes) -> None:
    """Of another version, cut off, or of another program."""
    assert decode_entry(data, 10.0) is None


@given(data=st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    """Any program may have written them."""
    decode_entry(data, 1.0)
    decode_entry(b"\x01" + data, 1.0)


@given(uid=st.integers(0, 2**32), namespace=namespaces, key=texts)
def test_a_name_contains_scope_and_key(uid: int, namespace: str, key: str) -> None:
    """Names are unique, whatever characters they have."""
    assert scope_and_key(entry_name(f"{uid}:{namespace}", key)) == (f"{uid}:{namespace}", key)


@pytest.mark.parametrize(
    "name", [b"", b"sidecard", b"sidecard:1", b"sidecard:2:1:default:k", b"other:1:1:default:k", b"\xff"]
)
def test_names_of_other_programs_are_ignored(name: bytes) -> None:
    """A purge leaves them alone."""
    assert scope_and_key(name) is None


def test_a_tag_matches_as_a_whole() -> None:
    """Not as part of another."""
    marks = encode_tags(("weather", "news"))
    assert encode_tags(("weather",)) in marks
    assert encode_tags(("weat",)) not in marks
    assert encode_tags(("other",)) not in marks
    assert encode_tags(()) == b""


@pytest.mark.parametrize(
    ("namespace", "expected"),
    [
        (None, "sidecard:1:*:*"),
        ("default", "sidecard:1:*:default:*"),
        ("1000:default", "sidecard:1:1000:default:*"),
        ("*:team", "sidecard:1:\\*:team:*"),
        ("a[b]?", "sidecard:1:*:a\\[b\\]\\?:*"),
    ],
)
def test_a_scan_pattern_matches_what_a_purge_covers(namespace: str | None, expected: str) -> None:
    """It may match more; `covers` excludes that."""
    assert scan_pattern(namespace) == expected
    assert not covers("default", "1000:default:x")
