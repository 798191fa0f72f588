"""`prefix=`: the prefix of a prompt, sent when the daemon asks for it."""

from typing import Any

import pytest

from sidecard_client.call.call import Call, prepare, unshared
from sidecard_client.call.options import Options
from sidecard_client.call.outcome import NextStep, prefixed, resolve
from sidecard_client.keys.prefixes.recipe import NO_PREFIXES, prefixes_of_texts
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.wire import PrefixWanted

SYSTEM = "You answer from the manual."


def answer(prompt: str) -> str:
    """Return the prompt."""
    return prompt


def prepared(**policy: Any) -> Call:
    """Return a call with this policy."""
    return prepare(Options(), answer, ("hello",), policy)


def test_a_begin_offers_prefixes_and_then_carries_them() -> None:
    """They are computed only if the daemon asks for them."""
    call = prepared(prefix=[SYSTEM, b"\x01"], model="small")
    first = call.begin(1)
    assert (first.has_prefix, first.prefix, first.prefix_bytes) == (True, (), ())
    assert resolve(call, PrefixWanted(1), 0.0) is NextStep.SEND_PREFIX

    second = prefixed(call).begin(2)
    assert (second.has_prefix, (second.prefix, second.prefix_bytes)) == (
        False,
        prefixes_of_texts("small", [SYSTEM, b"\x01"]),
    )
    assert len(second.prefix) == 2


def test_a_call_without_prefix_offers_none() -> None:
    """The daemon never asks it; if it did, that would be an error."""
    call = prepared()
    assert not call.begin(1).has_prefix

    for asked in (call, prefixed(prepared(prefix=SYSTEM))):
        with pytest.raises(ProtocolError, match="by PrefixWanted"):
            resolve(asked, PrefixWanted(1), 0.0)


def test_a_begin_may_offer_prefixes_that_it_turns_out_not_to_have() -> None:
    """A transport finds out only then that a provider caches nothing of a request."""
    call = prepared()
    call.options = Options(prefix=lambda: NO_PREFIXES)
    begin = prefixed(call).begin(1)

    assert (begin.has_prefix, begin.prefix) == (False, ())


def test_the_prefix_is_no_part_of_the_key() -> None:
    """It is where the prompt begins, which is an argument already."""
    assert prepared(prefix=SYSTEM).key == prepared().key


def test_a_call_that_shares_nothing_keeps_its_prefix() -> None:
    """It goes to the same backend."""
    call = unshared(prefixed(prepared(prefix=SYSTEM)))

    assert call.begin(1).prefix == prefixes_of_texts("", [SYSTEM]).digests


@pytest.mark.parametrize(
    ("prefix", "error"),
    [(5, TypeError), ([SYSTEM, 5], TypeError), ([], ValueError), (["x"] * 1001, ValueError), ("\ud800", ValueError)],
)
def test_a_wrong_prefix_is_an_error(prefix: Any, error: type[Exception]) -> None:
    """Before the call is made."""
    with pytest.raises(error):
        prepared(prefix=prefix)
