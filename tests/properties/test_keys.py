"""Keys are canonical: equal for equal requests, different for different ones."""

import math
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options
from sidecard_client.keys import fingerprint as keys
from sidecard_client.keys.fingerprint import canonical, fingerprint
from sidecard_client.keys.naming import name_of

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.binary(max_size=20)
)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(NAMES | st.integers(-5, 5), inner, max_size=5)
)


def shuffled(value: Any) -> Any:
    """Return an equal value whose maps were filled in another order."""
    if isinstance(value, dict):
        return {name: shuffled(item) for name, item in reversed(value.items())}
    return tuple(shuffled(item) for item in value) if isinstance(value, list) else value


def exactly(value: Any) -> Any:
    """Return a value whose equality distinguishes types, as keys do."""
    if isinstance(value, dict):
        return "map", frozenset((exactly(name), exactly(item)) for name, item in value.items())
    if isinstance(value, list):
        return "list", tuple(exactly(item) for item in value)
    return type(value).__name__, value, math.copysign(1, value) if isinstance(value, float) else 0


@given(VALUES)
def test_the_order_of_entries_and_the_kind_of_sequence_do_not_count(value: Any) -> None:
    """Filled in another order, or as tuples: the same key."""
    assert fingerprint("t", None, "n", (value,), {}) == fingerprint("t", None, "n", (shuffled(value),), {})


@given(VALUES, VALUES)
def test_different_requests_have_different_keys(one: Any, other: Any) -> None:
    """And equal ones equal keys: exactly then."""
    same = canonical("t", None, "n", (one,), {}) == canonical("t", None, "n", (other,), {})

    assert same == (exactly(one) == exactly(other))


@given(VALUES)
def test_canonical_bytes_are_msgpack_of_the_request(value: Any) -> None:
    """Any msgpack library reads them back."""
    decoded = msgspec.msgpack.decode(canonical("t", "m", "n", (value,), {"k": value}))

    assert exactly(decoded[5:]) == exactly([[value], {"k": value}])


@given(VALUES)
def test_the_strict_walk_agrees_with_the_encoder(value: Any) -> None:
    """Two ways, one result, wherever the encoder's own way applies."""
    fast = canonical("t", None, "n", (value,), {})
    walked = keys._walk([value], "args", 0)

    assert fast.endswith(walked + b"\x80")


def ask(question: Any, *more: Any) -> None:
    """Be called with anything."""


@given(st.lists(VALUES, min_size=1, max_size=3), st.sampled_from(["general", "rag"]), st.sampled_from([None, "small"]))
def test_a_function_s_template_makes_the_same_keys(args: list[Any], task: str, model: str | None) -> None:
    """A call of a known function has the key that its parts have."""
    options = Options(task=task, model=model)
    assert prepare(options, ask, tuple(args), {}).key == fingerprint(task, model, name_of(ask), tuple(args), {})
