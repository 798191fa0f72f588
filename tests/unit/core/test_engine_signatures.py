"""Signatures beside vectors: a near vector alone is no answer. Vectors name angles, as in `test_engine_similar`."""

from time import process_time

import pytest

from sidecard.core.accounts.charges import begin_bytes
from sidecard.core.cache.similarity import UNSIGNED_THRESHOLD
from sidecard.core.settings import TaskSettings
from sidecard_client.keys.guard.comparison import TextSignature, difference, encode_signature
from sidecard_client.keys.guard.signature import signature_of
from sidecard_client.protocol.wire import Begin, Delete, Error, Hit, Lease
from tests.host import Actor, Host, unpacked
from tests.unit.core.test_engine_similar import angle

SIMILAR = {"general": TaskSettings(similar=True)}
FRANCE, SPAIN = "What is the capital of France?", "What is the capital of Spain?"


def learns(peer: Actor, text: str, degrees: float = 0.0, *, signed: bool = True) -> None:
    """Make a call for a text; its answer is the text."""
    signature = signature_of(text, "g") if signed else None
    peer.completes(peer.leads(text, vector=angle(degrees), group="g", signature=signature, mode="refresh"), text)


def asks(peer: Actor, text: str, degrees: float = 0.0, *, signed: bool = True) -> str | None:
    """Begin with a text and its vector; return the answer of a similar request, if there is one."""
    signature = signature_of(text, "g") if signed else None
    peer.asks(Begin(f"asked {text}", id=7, vector=angle(degrees), group="g", signature=signature))
    (reply,) = peer.receives()
    if isinstance(reply, Hit):
        return str(unpacked(reply))

    assert isinstance(reply, Lease)
    peer.completes(reply.lease, None, store=False)
    return None


def test_other_meaning_is_refused_and_counted_by_reason() -> None:
    """The nearest answer is skipped if its text means something else; the next one is served."""
    host = Host(tasks=SIMILAR)
    alice = host.peer()
    learns(alice, SPAIN)
    learns(alice, FRANCE, 10)

    assert asks(alice, "please tell me what the capital of France is") == FRANCE
    assert asks(alice, "Is the capital of France not Paris?") is None
    stats = host.stats()
    assert (stats.similar_hits, stats.similar_refused) == (1, {"subject": 1, "negation": 2})
    samples = host.samples()
    assert samples["sidecard_similar_refused_total reason=subject"] == 1
    assert samples["sidecard_similar_refused_total reason=order"] == 0


def test_vectors_decide_without_signatures_above_a_higher_threshold() -> None:
    """Requests of older clients are compared by vectors, above their own default threshold; never with signed ones."""
    host = Host(tasks=SIMILAR)
    alice = host.peer()
    learns(alice, SPAIN, signed=False)

    assert TaskSettings().similar_threshold < 0.94 < UNSIGNED_THRESHOLD  # the cosine of 20 degrees
    assert asks(alice, FRANCE, 10, signed=False) == SPAIN
    assert asks(alice, FRANCE, 20, signed=False) is None
    assert asks(alice, SPAIN.lower(), 0) is None
    assert host.stats().similar_refused == {"unsigned": 1}


def test_configured_threshold_applies_without_signatures() -> None:
    """A threshold that the operator has set applies to every request."""
    alice = Host(tasks={"general": TaskSettings(similar=True, similar_threshold=0.9)}).peer()
    learns(alice, SPAIN, signed=False)

    assert asks(alice, FRANCE, 20, signed=False) == SPAIN


def test_replaced_answer_keeps_the_signature() -> None:
    """The answer that replaces an older one inherits vector and signature."""
    host = Host(tasks=SIMILAR)
    alice = host.peer()
    learns(alice, FRANCE)
    alice.completes(alice.leads(FRANCE, mode="refresh"), "newer")

    assert asks(alice, SPAIN) is None
    assert asks(alice, FRANCE.lower()) == "newer"


@pytest.mark.parametrize("signature", [b"\x00", b"\xc1", b"\x82\xa6recipe\xa0", b"\x80" * 9])
def test_wrong_signature_is_an_error(signature: bytes) -> None:
    """The error names the field and what to change; nothing is stored under it."""
    alice = Host(tasks=SIMILAR).peer()
    alice.asks(Begin("a", id=7, vector=angle(0), group="g", signature=signature))
    error = alice.gets(Error)

    assert error.code == "bad_request"
    assert "signature: " in error.message


def test_signature_is_charged_to_the_entry() -> None:
    """An entry costs its signature's bytes as well."""
    sizes = []
    for signed in (False, True):
        host = Host(tasks=SIMILAR)
        learns(host.peer(), FRANCE, signed=signed)
        sizes.append(host.stats().cache_bytes)

    assert sizes[1] - sizes[0] > len(signature_of(FRANCE, "g"))


def test_signature_leaves_with_its_entry() -> None:
    """A group keeps no signature of an entry that has left."""
    host = Host(tasks=SIMILAR)
    alice = host.peer()
    learns(alice, FRANCE)
    learns(alice, SPAIN)
    (group,) = host.engine._similar.groups.values()
    alice.asks(Delete(FRANCE, id=8))

    assert len(group._signatures) == host.stats().vectors == 1


def test_signature_is_dropped_where_similarity_does_not_apply() -> None:
    """A waiting begin of another task is not charged for one, and it is not decoded."""
    host = Host(tasks={"other": SIMILAR["general"]})
    alice = host.peer()
    alice.asks(Begin("a", id=7, vector=angle(0), group="g", signature=b"no signature"))
    alice.gets(Lease)
    held = host.stats().memory_by_kind["requests"]
    alice.asks(Begin("b", id=8, vector=angle(0), group="g", signature=b"no signature" * 99))
    alice.gets(Lease)
    assert host.stats().memory_by_kind["requests"] == 2 * held
    assert begin_bytes(Begin("a", vector=angle(0), signature=b"12")) == begin_bytes(Begin("a", vector=angle(0))) + 2


def test_signature_without_vector_is_charged() -> None:
    """A waiting begin is charged for its signature, whether its task needs it or not."""
    assert begin_bytes(Begin("k", signature=bytes(8192))) >= begin_bytes(Begin("k")) + 8192


@pytest.mark.parametrize(
    "value", [b"\x91" * 8000 + b"\xc0", b"\xa2\xff\xff", b"\x81" * 500], ids=["deep", "text", "maps"]
)
def test_signature_that_cannot_be_decoded_is_a_bad_request(value: bytes) -> None:
    """Lists nested deep in an unknown field, text that is not UTF-8 and a cut map each get a `bad_request`."""
    alice = Host(tasks=SIMILAR).peer()
    for field in (b"\xa7unknown", b"\xa6recipe"):
        alice.asks(Begin("k", id=1, vector=angle(0), group="g", signature=b"\x81" + field + value))
        (reply,) = alice.receives()
        assert isinstance(reply, Error)
        assert reply.code == "bad_request"


def test_comparison_takes_time_proportional_to_the_signatures() -> None:
    """Words and roles that fill two signatures of the greatest size are compared in a few milliseconds."""
    one = TextSignature("en", 1, frame=(1,), words=(5,), roles=((6, 1),) * 2600)
    other = TextSignature("en", 2, words=(5,) * 8000)
    started = process_time()
    for _ in range(8):
        assert difference(one, other) is None

    assert process_time() - started < 0.2  # quadratic: 1.2 s


def test_signature_of_many_small_numbers_is_a_bad_request() -> None:
    """As many digests as fit, of 32 bits each, are compared in time; no text has more."""
    alice = Host(tasks=SIMILAR).peer()
    for digests, kind in ((tuple(range(2**31, 2**31 + 1600)), Lease), ((1,) * 2049, Error)):
        signature = encode_signature(TextSignature("en", 1, frame=digests))
        alice.asks(Begin(f"k{len(digests)}", id=1, vector=angle(0), group="g", signature=signature))
        assert isinstance(alice.receives()[0], kind)
