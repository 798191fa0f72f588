"""`FakeClient`, for tests of apps, behaves like `Client`."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from sidecard_client import CallRejected, Client, SidecardWarning, UnshareableValue, WrongAnswers
from sidecard_client.call.call import prepare
from sidecard_client.call.options import Options
from sidecard_client.http import SidecardTransport
from sidecard_client.protocol import wire
from sidecard_client.testing import TTL_SECONDS, FakeClient
from tests.typed_values import SHARED, Line, PricedLine, event, line_by_line, numbered, portrait


class Clock:
    """Monotonic seconds, moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        """Return the current instant."""
        return self.now


class Upstream:
    """A backend that counts its calls."""

    def __init__(self) -> None:
        self.count = 0

    def generate(self, prompt: str) -> str:
        """Return another answer each time."""
        self.count += 1
        return f"{prompt}{self.count}"


def test_call_runs_the_function_once() -> None:
    """The second call gets the first one's answer."""
    clock, upstream = Clock(), Upstream()
    with FakeClient(clock=clock) as sidecard:
        assert sidecard.call(upstream.generate, "p") == "p1"
        clock.now += 3
        outcome = sidecard.outcome(upstream.generate, "p")

    assert (outcome.value, outcome.source, outcome.age_seconds) == ("p1", "cache", 3.0)
    assert [asked.source for asked in sidecard.asked] == ["upstream", "cache"]
    assert repr(sidecard) == "<FakeClient 2 asked, 1 entries>"


def test_call_uses_the_key_of_the_real_client() -> None:
    """The key includes task and model, as in production."""
    sidecard = FakeClient(task="rag")
    upstream = Upstream()
    sidecard.call(upstream.generate, "p", model="m")
    real = prepare(Options(task="rag"), upstream.generate, ("p",), {"model": "m"})
    assert sidecard.asked[0].key == real.key


def test_call_after_the_lifetime_runs_the_function() -> None:
    """An entry lives for ``ttl=``, or for the daemon's default."""
    clock, upstream = Clock(), Upstream()
    sidecard = FakeClient(clock=clock)
    sidecard.call(upstream.generate, "short", ttl=10)
    sidecard.call(upstream.generate, "long")
    sidecard.call(upstream.generate, "never", ttl=0)
    clock.now += 10
    for prompt in ("short", "long", "never"):
        sidecard.call(upstream.generate, prompt)

    assert [asked.source for asked in sidecard.asked[3:]] == ["upstream", "cache", "upstream"]
    clock.now += TTL_SECONDS
    assert sidecard.outcome(upstream.generate, "long").source == "upstream"


def test_limits_of_age_hold_as_in_production() -> None:
    """An answer of the age of ``ttl=`` or ``max_age=`` is a miss for its caller, and stays for others."""
    clock, upstream = Clock(), Upstream()
    sidecard = FakeClient(clock=clock)
    sidecard.call(upstream.generate, "p", key="k")
    assert sidecard.outcome(upstream.generate, "p", key="k", max_age=0).value == "p2"
    clock.now += 5
    assert sidecard.outcome(upstream.generate, "p", key="k", max_age=5.5).source == "cache"
    assert (sidecard.get("k", max_age=5.5), sidecard.get("k", max_age=5)) == ("p2", None)
    with pytest.raises(CallRejected, match="not_cached"):
        sidecard.call(upstream.generate, "p", key="k", ttl=5, mode="only_if_cached")

    assert sidecard.call(upstream.generate, "p", key="k", ttl=0) == "p3"
    assert sidecard.call(upstream.generate, "p", key="k") == "p2"
    assert sidecard.call(upstream.generate, "p", key="k", ttl=5, max_age=60) == "p4"


def test_rejected_answers_are_not_stored() -> None:
    """A stored answer that ``valid=`` rejects is replaced; a rejected one goes to its caller only."""
    upstream = Upstream()
    sidecard = FakeClient()
    assert sidecard.call(upstream.generate, "p", key="k", valid=lambda value: value == "p2") == "p1"
    assert sidecard.call(upstream.generate, "p", key="k") == "p2"
    assert sidecard.call(upstream.generate, "p", key="k", valid=lambda value: value == "p2") == "p2"
    assert sidecard.call(upstream.generate, "p", key="k", valid=lambda _: False) == "p3"
    assert sidecard.call(upstream.generate, "p", key="k") == "p2"
    assert list(sidecard.stream(upstream.generate, "xy", valid=lambda pieces: len(pieces) == 3)) == ["x", "y", "4"]
    assert list(sidecard.stream(upstream.generate, "xy", valid=lambda pieces: len(pieces) == 4)) == ["x", "y", "5"]
    assert list(sidecard.stream(upstream.generate, "xy")) == ["x", "y", "4"]


def test_answers_of_another_type_are_replaced() -> None:
    """One key for two types is a call for each, as in production."""
    fake = FakeClient()
    fake.put("k", "plain")
    assert fake.call(lambda: Line(text="a"), key="k", returns=Line) == Line(text="a")
    assert fake.call(lambda: Line(text="b"), key="k", returns=Line) == Line(text="a")
    assert fake.call(lambda: ["plain", 1], key="k") == ["plain", 1]
    assert fake.call(lambda: ["other", 2], key="k") == ["plain", 1]


def test_outcomes_are_refreshed() -> None:
    """A refresh accepts a newer answer of another caller."""
    clock, upstream = Clock(), Upstream()
    sidecard = FakeClient(clock=clock)
    one, other = (sidecard.outcome(upstream.generate, "p") for _ in range(2))
    clock.now += 1
    assert (one.refresh().value, one.refresh().value) == ("p2", "p2")
    clock.now += 1
    assert other.refresh().value == "p2"
    assert other.refresh().refresh().value == "p3"
    each = sidecard.outcome_each(lambda texts: [upstream.generate(text) for text in texts], ["a", "b"], name="each")
    assert each[1].refresh().value == "b6"


def test_samples_are_answers_of_their_own() -> None:
    """Each sample has its own answer, also beside ``key=``."""
    upstream = Upstream()
    sidecard = FakeClient()
    for policy in ({}, {"key": "k"}):
        drawn = [sidecard.call(upstream.generate, "p", sample=number, **policy) for number in range(5)]
        assert len(set(drawn)) == 5
        assert [sidecard.call(upstream.generate, "p", sample=number, **policy) for number in range(5)] == drawn


def test_force_miss_runs_every_call() -> None:
    """With ``force_miss`` no stored answer is used."""
    upstream = Upstream()
    sidecard = FakeClient(force_miss=True)
    sidecard.call(upstream.generate, "p")
    assert sidecard.call(upstream.generate, "p") == "p2"


def test_modes_select_stored_answers_or_calls() -> None:
    """``refresh`` ignores stored answers; ``only_if_cached`` makes no call."""
    upstream = Upstream()
    sidecard = FakeClient()
    with pytest.raises(CallRejected, match="not_cached"):
        sidecard.call(upstream.generate, "p", mode="only_if_cached")

    sidecard.call(upstream.generate, "p")
    assert sidecard.call(upstream.generate, "p", mode="refresh") == "p2"
    assert sidecard.call(upstream.generate, "p", mode="only_if_cached") == "p2"


def test_backends_are_called_in_order() -> None:
    """After a transient failure the next backend is called; the last one's failure is raised."""

    def down(prompt: str) -> str:
        raise ConnectionError(prompt)

    sidecard = FakeClient()
    outcome = sidecard.outcome({"local": down, "cloud": Upstream().generate}, "p", name="n")
    assert (outcome.value, outcome.backend) == ("p1", "cloud")
    with pytest.raises(ConnectionError):
        sidecard.call(down, "p")


class Flaky:
    """A backend that fails ``failures`` times, then answers."""

    def __init__(self, failures: int, error: type[Exception] = ConnectionError) -> None:
        self.failures = failures
        self.error = error
        self.count = 0

    def generate(self, prompt: str) -> str:
        """Answer, or fail."""
        self.count += 1
        if self.count <= self.failures:
            raise self.error(prompt)

        return prompt


def test_retries_repeat_all_backends() -> None:
    """Each retry is a round over all backends; a fatal failure ends them."""
    sidecard = FakeClient()
    outcome = sidecard.outcome(Flaky(2).generate, "p", retries=2)
    assert (outcome.value, outcome.attempts, outcome.passed_over) == ("p", 3, {})

    local, cloud = Flaky(9), Flaky(1)
    outcome = sidecard.outcome({"local": local.generate, "cloud": cloud.generate}, "p", name="n", retries=1)
    assert (outcome.backend, outcome.attempts) == ("cloud", 4)

    for flaky, count in ((Flaky(9), 3), (Flaky(9, ValueError), 1)):
        with pytest.raises(flaky.error):
            sidecard.call(flaky.generate, "q", retries=2)

        assert flaky.count == count


def test_sovereign_leaves_out_remote_backends() -> None:
    """In sovereign mode only local backends are called, as by a client without daemon."""
    upstream = Upstream()
    sidecard = FakeClient(sovereign=True)
    assert sidecard.sovereign
    outcome = sidecard.outcome({"cloud": upstream.generate, "local": upstream.generate}, "p")
    assert (outcome.backend, upstream.count) == ("local", 1)
    with pytest.raises(CallRejected, match="sovereign"):
        sidecard.call(upstream.generate, "q", backend="cloud")

    assert not FakeClient().sovereign


def test_breakers_shows_called_backends() -> None:
    """Every breaker stays closed, and counts calls and failures."""
    sidecard = FakeClient()
    assert sidecard.breakers().backends == {}
    sidecard.call({"local": Flaky(1).generate, "cloud": Flaky(0).generate}, "p", name="n")
    sidecard.breaker("cloud", "open")
    states = sidecard.breakers().backends
    assert {name: (one.state, one.locality, one.calls, one.failures) for name, one in states.items()} == {
        "local": ("closed", "local", 1, 1),
        "cloud": ("closed", "remote", 1, 0),
    }
    assert sidecard.config().settings == {"cache.ttl_seconds": TTL_SECONDS}


def test_unshareable_values_warn_and_are_not_stored() -> None:
    """The caller gets such a value with a warning, as in production."""

    def unshareable_fake() -> object:
        return object()

    sidecard = FakeClient()
    with pytest.warns(SidecardWarning, match="unshareable_fake"):
        sidecard.call(unshareable_fake)

    assert sidecard.outcome(unshareable_fake).source == "upstream"
    with pytest.raises(UnshareableValue):
        sidecard.put("k", object())


def test_cached_and_wrap_share_calls() -> None:
    """Decorated functions and wrapped objects are called once per key."""
    sidecard = FakeClient()
    upstream = Upstream()

    @sidecard.cached(task="rag", name="answer")
    def answer(question: str) -> str:
        return upstream.generate(question)

    assert answer("q") == answer("q")
    assert upstream.count == 1
    llm = sidecard.wrap(upstream)
    assert llm.generate("x") == llm.generate("x")
    assert llm.count == 2


def test_calls_without_a_key_are_not_stored() -> None:
    """With ``key=None`` every call runs the function."""
    sidecard = FakeClient()
    upstream = Upstream()
    assert [sidecard.call(upstream.generate, "p", key=None) for _ in range(2)] == ["p1", "p2"]


def test_entries_can_be_read_written_and_removed() -> None:
    """Entries are addressed by key, tag, task and namespace."""
    sidecard = FakeClient()
    assert sidecard.get("k") is None
    assert sidecard.get("k", 3) == 3
    assert sidecard.put("k", {"a": 1}, tags=["t"])
    assert not sidecard.put("gone", 1, ttl=0)
    assert sidecard.get("k") == {"a": 1}
    assert sidecard.get("k", namespace="other") is None
    assert (sidecard.delete("k"), sidecard.delete("k")) == (1, 0)
    sidecard.put("a", 1, tags=["t"])
    sidecard.put("b", 1, namespace="other")
    assert sidecard.purge(tag="t") == 1
    assert sidecard.purge(namespace="default") == 0
    assert sidecard.purge(task="rag") == 0
    assert sidecard.purge(task="general") == 1


def test_normal_forms_and_explanations_match_the_real_client() -> None:
    """No task has normal forms, because there are no settings; ``normalize=`` of a call works."""
    sidecard = FakeClient(normalize="task")
    assert sidecard.normal_forms("rag") == ()
    sidecard.call(str, "a  b", name="n")
    sidecard.call(str, "a b", name="n", normalize=["space"])
    sidecard.call(str, " a b", name="n", normalize=["space"])
    assert [asked.source for asked in sidecard.asked] == ["upstream", "upstream", "cache"]
    assert sidecard.explain(str, "a  b", name="n").key == sidecard.asked[0].key
    assert sidecard.explain(str, "a b ", name="n", normalize=["space"]).key == sidecard.asked[1].key


def test_state_replies_count_calls_and_hits() -> None:
    """Reports and statistics count calls and hits; all other fields are 0."""
    sidecard = FakeClient()
    upstream = Upstream()
    for _ in range(4):
        sidecard.call(upstream.generate, "p", task="rag")

    report = sidecard.report()
    assert (report.total.calls, report.total.hits, report.total.hit_rate) == (4, 3, 0.75)
    assert report.tasks["rag"].upstream_calls == 1
    stats = sidecard.stats()
    assert (stats.begins, stats.hits, stats.cache_entries, stats.peers) == (4, 3, 1, 0)
    assert sidecard.health().status == "ok"
    assert sidecard.ping().protocol == wire.PROTOCOL_VERSION
    assert FakeClient().report().total.hit_rate == 0


def test_fake_client_has_every_public_method_of_client() -> None:
    """A program under test may use any method."""
    public = {name for name in dir(Client) if not name.startswith("_")}
    assert public <= set(dir(FakeClient))


def test_streams_are_recorded_and_replayed() -> None:
    """The second stream replays the first; ``store=`` decides about storing it."""
    sidecard = FakeClient(name="pieces")
    calls = []

    def pieces(prompt: str) -> Iterator[str]:
        calls.append(prompt)
        yield from prompt

    assert list(sidecard.stream(pieces, "abc")) == ["a", "b", "c"]
    assert list(sidecard.cached()(pieces)("abc")) == ["a", "b", "c"]
    assert calls == ["abc"]
    assert [asked.source for asked in sidecard.asked] == ["upstream", "cache"]
    assert list(sidecard.stream(pieces, "de", store=lambda value: len(value) > 2)) == ["d", "e"]
    assert list(sidecard.stream(pieces, "de")) == ["d", "e"]
    assert calls == ["abc", "de", "de"]


def test_a_stream_reports_its_source_and_closes() -> None:
    """The stream's facts are known with its first piece, as those of `Client.stream`."""
    sidecard = FakeClient()
    for source in ("upstream", "cache"):
        with sidecard.stream(iter, "abc") as stream:
            assert next(stream) == "a"
            assert (stream.source, stream.backend) == (source, "default")

        assert list(stream) == []

    with sidecard.stream(iter, "never read"):
        pass

    assert len(sidecard.asked) == 2


def test_the_transports_of_sdks_accept_a_fake_client() -> None:
    """A test of an app with an SDK needs no daemon either."""
    served = []

    def serve(request: httpx2.Request) -> httpx2.Response:
        served.append(request)
        choice = {"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}
        return httpx2.Response(200, json={"model": "m", "choices": [choice]})

    transport = SidecardTransport(httpx2.MockTransport(serve), FakeClient())
    with httpx2.Client(transport=transport) as http:
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        replies = [http.post("http://h/v1/chat/completions", json=asked) for _ in range(2)]

    assert [reply.headers["x-sidecard-source"] for reply in replies] == ["upstream", "cache"]
    assert replies[0].json() == replies[1].json()
    assert len(served) == 1


def test_an_answer_that_is_not_shared_reaches_its_own_caller() -> None:
    """As in production: it is incomplete, or an error."""

    def serve(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json={"model": "m", "choices": []})

    transport = SidecardTransport(httpx2.MockTransport(serve), FakeClient())
    with httpx2.Client(transport=transport) as http:
        asked = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
        replies = [http.post("http://h/v1/chat/completions", json=asked) for _ in range(2)]

    assert [reply.headers["x-sidecard-source"] for reply in replies] == ["upstream", "upstream"]
    assert replies[0].json() == {"model": "m", "choices": []}


def test_call_each_asks_for_the_missing_inputs_together() -> None:
    """As `Client.call_each`: in order, each once, ``max_batch`` at a time; every input is recorded."""
    asked: list[list[str]] = []

    def shout(texts: list[str]) -> list[str]:
        asked.append(texts)
        return [text.upper() for text in texts]

    sidecard = FakeClient()
    assert sidecard.call_each(shout, ["a", "b", "a"], name="shout") == ["A", "B", "A"]
    outcomes = sidecard.outcome_each(shout, ["c", "b", "d", "e"], name="shout", max_batch=2)
    assert [outcome.source for outcome in outcomes] == ["upstream", "cache", "upstream", "upstream"]
    assert asked == [["a", "b"], ["c", "d"], ["e"]]
    assert sidecard.call(str.upper, "a", name="shout") == "A"
    assert [record.args for record in sidecard.asked][:2] == [("a",), ("b",)]
    assert sidecard.call_each(shout, []) == []


def test_call_each_uses_the_whole_answer_for_usage_and_backends() -> None:
    """A failing backend is followed by the next one, for all inputs together."""
    seen: list[object] = []

    def fail(_: list[str]) -> list[str]:
        raise ConnectionError("down")

    sidecard = FakeClient(usage=seen.append)
    outcomes = sidecard.outcome_each({"local": fail, "cloud": list}, ["a", "b"], name="f")
    assert [(outcome.value, outcome.backend) for outcome in outcomes] == [("a", "cloud"), ("b", "cloud")]
    assert seen == [["a", "b"]]


@pytest.mark.parametrize("answers", [["A"], ["A", "B", "C"], "AB"])
def test_call_each_checks_the_number_of_answers(answers: Any) -> None:
    """A wrong number of answers raises, and none is stored, as with the real client."""
    sidecard = FakeClient()
    with pytest.raises(WrongAnswers, match="for 2 inputs"):
        sidecard.call_each(lambda _: answers, ["a", "b"], name="f")

    assert sidecard.stats().cache_entries == 0


def test_transports_use_it_for_embeddings() -> None:
    """One request for the texts that are missing."""
    bodies: list[bytes] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        bodies.append(request.read())
        return httpx2.Response(200, json={"data": [{"index": 0, "embedding": [1.5]}], "model": "m"})

    with httpx2.Client(transport=SidecardTransport(httpx2.MockTransport(answer), FakeClient())) as http:
        http.post("http://h/v1/embeddings", json={"input": "a", "model": "m"})
        response = http.post("http://h/v1/embeddings", json={"input": ["b", "a"], "model": "m"})

    assert len(bodies) == 2
    assert [item["index"] for item in response.json()["data"]] == [0, 1]


def test_typed_answers_come_back_as_in_production(recwarn: pytest.WarningsRecorder) -> None:
    """Calls, streams and what is refused: from the real client's code."""
    fake = FakeClient()
    for _ in range(2):
        assert portrait(fake.call(event, "2026-01-02")) == portrait(event("2026-01-02"))
        assert portrait(list(fake.stream(line_by_line, "a b"))) == portrait(list(line_by_line("a b")))
        assert portrait(fake.call(numbered, 0, returns=SHARED[0][0])) == portrait(numbered(0))

    assert [asked.source for asked in fake.asked] == ["upstream"] * 3 + ["cache"] * 3
    assert not recwarn.list

    def sliced() -> Line:
        return PricedLine(text="a")

    with pytest.warns(SidecardWarning, match=r"value is of type .*PricedLine, not .*Line"):
        assert type(fake.call(sliced, name="sliced")) is PricedLine
