"""Which text of a request is embedded, what its group is, and what a faulty embedder costs."""

import hashlib
import struct
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from sidecard_client import SidecardWarning
from sidecard_client.call import warn
from sidecard_client.call.call import Call, prepare, unshared
from sidecard_client.call.embedding import embedded
from sidecard_client.call.options import Options
from sidecard_client.call.outcome import NextStep, Outcome, resolve
from sidecard_client.keys.similarity import text_of
from sidecard_client.keys.vectors import CAN_EMBED, QueryVector
from sidecard_client.protocol.errors import ProtocolError
from sidecard_client.protocol.wire import Hit, VectorWanted
from sidecard_client.testing import FakeClient

DIRECTIONS = {"hello": [1.0, 0.0], "hi": [0.99, 0.1], "bye": [0.0, 1.0], "hello 2023": [1.0, 0.0]}
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]


def embed(text: str) -> list[float]:
    """Embed what this module knows; anything else is a `KeyError`."""
    return DIRECTIONS[text]


def answer(prompt: Any, temperature: float = 0.0) -> str:
    """Answer."""
    return f"{prompt} {temperature}"


@pytest.fixture(autouse=True)
def unwarned() -> Iterator[None]:
    """Let each test be the first that warns."""
    warn._warned_of.clear()
    yield
    warn._warned_of.clear()


def query_of(*args: Any, function: Any = answer, stream: bool = False, **policy: Any) -> QueryVector:
    """Return the vector and group that a call of ``function`` sends."""
    keywords = policy.pop("keywords", {})
    options = Options().changed({"embed": embed}).changed(policy)
    asked = embedded(prepare(options, function, args, keywords, stream=stream, policy_is_bound=True)).similar
    assert isinstance(asked, QueryVector)
    return asked


@pytest.mark.parametrize(
    ("args", "kwargs", "text", "place"),
    [
        (("hello", 3), {}, "hello", "args[0]"),
        ((CHAT,), {"prompt": "no"}, "hello", "args[0][-1].content"),
        (({"prompt": "hello", "max_tokens": 5},), {}, "hello", "args[0].prompt"),
        (({"model": "m", "messages": CHAT},), {}, "hello", "args[0].messages[-1].content"),
        ((), {"temperature": 0, "question": "hello"}, "hello", "kwargs.question"),
        ((), {"text": "no", "prompt": "hello"}, "hello", "kwargs.prompt"),
        ((), {"messages": tuple(CHAT)}, "hello", "kwargs.messages[-1].content"),
    ],
)
def test_the_text_is_found_where_the_rules_say(
    args: tuple[Any, ...], kwargs: dict[str, Any], text: str, place: str
) -> None:
    """Positional arguments come before named ones; of messages, the last counts."""
    found = text_of(args, kwargs)

    assert found is not None
    assert (found.text, found.place) == (text, place)
    assert text not in repr((found.args, {**found.kwargs, "text": 0} if args == () else found.args))


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((), {}),
        ((3, "hello"), {}),
        (([],), {}),
        ((["hello"],), {}),
        (([{"role": "user", "content": [{"type": "image"}]}],), {}),
        (({"system": "hello"},), {}),
        ((), {"system": "hello"}),
        ((), {"prompt": {"prompt": "hello"}}),
        ((3,), {"prompt": "hello"}),
    ],
)
def test_nothing_else_is_taken_for_the_text(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """A guess would put different requests into one group."""
    assert text_of(args, kwargs) is None


def test_finding_the_text_leaves_the_request_as_it_is() -> None:
    """The function still receives the text."""
    request = {"messages": [dict(message) for message in CHAT]}
    text_of((request,), {})

    assert request == {"messages": CHAT}


def test_requests_that_differ_in_their_text_alone_have_one_group() -> None:
    """The group follows the documented recipe."""
    assert query_of("hello").group == query_of("bye").group
    group = query_of("hello 2023", 1, name="n", task="t", embed={"m": embed}).group
    canonical = msgspec.msgpack.encode(["sidecard", 2, "t", None, "n", [[None, 1], "args[0]", ["2023"], "m"], {}])
    assert group == "g2-" + hashlib.sha256(canonical).hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        query_of("hello", 0.5),
        query_of("hello", keywords={"temperature": 0.5}),
        query_of("hello", task="other"),
        query_of("hello", model="other"),
        query_of("hello", name="other"),
        query_of("hello", stream=True),
        query_of("hello", embed={"other": embed}),
        query_of("hello", vector=[1.0, 0.0]),
        query_of("hello 2023"),
        query_of({"prompt": "hello"}),
        query_of(CHAT),
    ],
)
def test_whatever_else_differs_makes_another_group(other: QueryVector) -> None:
    """Arguments, task, model, function, stream, embedder, numbers in the text, and its place matter."""
    assert other.group != query_of("hello").group


def test_a_text_has_one_place_however_it_is_given() -> None:
    """As the first argument, or by the name of the first parameter."""
    assert query_of(keywords={"prompt": "hello"}).group == query_of("hello").group


def test_earlier_messages_are_part_of_the_group() -> None:
    """A last question means something else after other messages."""
    other = [{"role": "system", "content": "Be long."}, CHAT[1]]

    assert query_of(CHAT).group != query_of(other).group


def test_the_group_ignores_what_the_key_ignores() -> None:
    """Both leave out the same."""
    assert query_of({"prompt": "hello", "trace": 1}, ignore=["trace"]).group == (
        query_of({"prompt": "hello", "trace": 2}, ignore=["trace"]).group
    )


def test_calls_with_keys_of_their_own_have_groups_by_their_functions() -> None:
    """An explicit key does not change the group."""
    assert query_of("hello", key="one").group == query_of("bye", key="two").group == query_of("hello").group


def test_a_call_sends_a_vector_only_if_it_can_be_shared() -> None:
    """Not without an embedder, not with a null key, and not for an own call."""
    assert prepare(Options(), answer, ("hello",), {}).similar is None
    assert prepare(Options(), answer, ("hello",), {"embed": embed, "key": None}).similar is None
    call = prepare(Options(), answer, ("hello",), {"embed": embed})
    assert call.similar is CAN_EMBED
    assert unshared(embedded(call)).similar is None


def test_a_begin_offers_a_vector_and_then_carries_it() -> None:
    """As little-endian float 32."""
    call = prepare(Options(), answer, ("hello",), {"embed": embed})
    first = call.begin(1)
    assert (first.embeds, first.vector, first.group) == (True, None, None)
    second = embedded(call).begin(2)

    assert (second.embeds, second.vector) == (False, struct.pack("<2f", 1.0, 0.0))
    assert second.group == query_of("hello").group


def test_a_vector_is_wanted_at_most_once() -> None:
    """A second request for it is an error of the daemon."""
    call = prepare(Options(), answer, ("hello",), {"embed": embed})
    assert resolve(call, VectorWanted(1), 0.0) is NextStep.SEND_VECTOR
    for asked in (embedded(call), prepare(Options(), answer, ("hello",), {})):
        with pytest.raises(ProtocolError, match="by VectorWanted"):
            resolve(asked, VectorWanted(1), 0.0)


def test_an_outcome_says_how_similar() -> None:
    """None if the answer is the request's own."""
    call = prepare(Options(), answer, ("hello",), {})
    for similarity in (None, 0.97):
        outcome = resolve(call, Hit(1, "v", 0.0, False, 0.0, 0.0, "b", {}, similarity), 0.0)
        assert isinstance(outcome, Outcome)
        assert (outcome.source, outcome.similarity) == ("cache", similarity)


def faulty(text: str) -> Any:
    """Raise."""
    raise ConnectionError(text)


@pytest.mark.parametrize("embedder", [faulty, {"zero": lambda _: [0.0]}, {"none": lambda _: None}, {"words": str}])
def test_a_faulty_embedder_costs_one_warning_and_not_the_call(embedder: Any) -> None:
    """The call goes on by its key alone."""
    call = prepare(Options(), answer, ("hello",), {"embed": embedder})
    with pytest.warns(SidecardWarning, match="embed= failed .* not compared with similar requests"):
        assert embedded(call).similar is None

    again: Call = embedded(call)
    assert (again.similar, again.key) == (None, call.key)


def test_a_request_without_a_text_is_shared_by_its_key_alone() -> None:
    """One warning names the function."""
    call = prepare(Options(), answer, (3,), {"embed": embed})
    with pytest.warns(SidecardWarning, match="finds no text in the arguments of answer"):
        assert embedded(call).similar is None

    assert embedded(call).similar is None


def test_a_request_that_has_no_group_is_shared_by_its_key_alone() -> None:
    """With an explicit key, its arguments may have no stable form."""
    call = prepare(Options(), answer, ("hello", object()), {"embed": embed, "key": "k"})
    with pytest.warns(SidecardWarning, match="finds no group for answer"):
        assert embedded(call).similar is None


def test_a_given_vector_is_for_one_call() -> None:
    """``cached`` and ``wrap`` refuse it."""
    fake = FakeClient()
    with pytest.raises(TypeError, match="vector= is for one call"):
        fake.cached(vector=[1.0])(answer)

    with pytest.raises(TypeError, match="vector= is for one call"):
        fake.wrap(fake, vector=[1.0])


# The client for tests -----------------------------------------------------------------------------------------------


def test_the_fake_client_serves_similar_requests_by_the_same_rules() -> None:
    """Within one namespace and group, above its threshold."""
    fake = FakeClient(similar_threshold=0.9, embed=embed)
    assert fake.outcome(answer, "hello").source == "upstream"
    hit = fake.outcome(answer, "hi")
    assert (hit.value, hit.source) == ("hello 0.0", "cache")
    assert hit.similarity == pytest.approx(0.9949, abs=1e-3)
    assert fake.outcome(answer, "hello").similarity is None
    assert fake.outcome(answer, "bye").source == "upstream"
    assert fake.outcome(answer, "hi", namespace="other").source == "upstream"
    assert fake.outcome(answer, "hi", temperature=1.0).source == "upstream"
    assert fake.outcome(answer, "hi", mode="refresh").source == "upstream"
    assert fake.outcome(answer, "hi").similarity is None
    assert fake.stats().similar_hits == fake.report().total.similar_hits == 1
    assert [asked.similarity is not None for asked in fake.asked].count(True) == 1


def test_the_fake_client_looks_for_similar_requests_only_with_a_threshold() -> None:
    """Without one, the embedder does not run."""
    fake = FakeClient(embed=faulty)

    assert fake.outcome(answer, "hello").source == "upstream"
    assert fake.outcome(answer, "hi").source == "upstream"


def test_the_fake_client_compares_no_vectors_of_different_lengths() -> None:
    """A daemon refuses them too."""
    fake = FakeClient(similar_threshold=0.1)
    fake.outcome(answer, "hello", vector=[1.0, 0.0])

    assert fake.outcome(answer, "hi", vector=[1.0, 0.0, 0.0]).source == "upstream"
    assert Options().key is UNSET


def test_the_fake_client_refuses_changed_meanings() -> None:
    """Equal vectors are not enough: its guard is the daemon's."""
    fake = FakeClient(similar_threshold=0.9, embed={"constant": lambda _: [1.0, 0.0]})
    for text in ("Is it safe here?", "Is it not safe here?", "Is Rome safe?", "Is Oslo safe?"):
        assert fake.outcome(answer, text).similarity is None

    assert fake.outcome(answer, "is it safe here").similarity == 1.0
