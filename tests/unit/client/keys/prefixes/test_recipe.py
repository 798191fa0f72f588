import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecard_client.keys.prefixes.recipe import PromptPart, prefixes_of, prefixes_of_texts
from sidecard_client.protocol.values import MAX_PREFIXES

VECTORS = json.loads(Path(__file__).with_name("prefix_vectors.json").read_text())

TEXTS = [f"part {number}" for number in range(20)]


@pytest.mark.parametrize("vector", VECTORS, ids=[f"{vector['kind']}-{len(vector['parts'])}" for vector in VECTORS])
def test_golden_vectors(vector: dict[str, Any]) -> None:
    """Other languages must compute the same prefixes, byte by byte."""
    parts = [PromptPart(part["value"], part["boundary"]) for part in vector["parts"]]

    found = prefixes_of(vector["kind"], vector["model"], vector["account"], parts)

    assert list(found.digests) == vector["prefix"]
    assert list(found.lengths) == vector["prefix_bytes"]
    for part in vector["parts"]:
        assert msgspec.msgpack.encode(part["value"], order="sorted").hex() == part["msgpack_hex"]


def test_the_first_four_and_the_last_twelve_of_many_boundaries_count() -> None:
    """So both a long system text and the last turns of a chat are found."""
    found = prefixes_of_texts("", TEXTS)
    one_by_one = [prefixes_of_texts("", TEXTS[: number + 1]) for number in range(20)]

    counted = [*range(4), *range(8, 20)]
    assert len(found.digests) == MAX_PREFIXES
    assert list(found.digests) == [one_by_one[number].digests[-1] for number in counted]
    assert list(found.lengths) == [one_by_one[number].lengths[-1] for number in counted]


def test_a_text_and_its_bytes_differ() -> None:
    """As they do in keys."""
    assert prefixes_of_texts("", ["x"]).digests != prefixes_of_texts("", [b"x"]).digests


@pytest.mark.parametrize("other", [("k2", "m", "a"), ("k", "m2", "a"), ("k", "m", "a2")])
def test_kind_model_and_account_separate_prompts(other: tuple[str, str, str]) -> None:
    """Caches of providers are per model and account."""
    parts = [PromptPart("x", is_boundary=True)]

    assert prefixes_of("k", "m", "a", parts).digests != prefixes_of(*other, parts).digests


class Rendered(str):
    """A text of a template library."""

    __slots__ = ()


class Packed(bytes):
    """Bytes of a library."""

    __slots__ = ()


def test_a_text_of_a_library_is_its_text() -> None:
    """Templates and arrays have texts of their own, and a call must not fail because of them."""
    assert prefixes_of_texts(Rendered("m"), [Rendered("x"), Packed(b"x")]) == prefixes_of_texts("m", ["x", b"x"])
