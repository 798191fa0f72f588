"""Both clients and the real daemon: answers to similar requests, found by the real index."""

import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecard_client import Client, RequestRefused, SidecardWarning
from sidecard_client.call import warn
from tests.bench import hard_negatives
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon, ask

pytestmark = pytest.mark.usefixtures("patient_clients")

DEGREES = {"what is the time?": 0, "what time is it?": 5, "where is it?": 60, "where is this?": 64, "bad": 0}


class Embedder:
    """CanEmbed the questions that this module knows, by their angles, and counts."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.threads: set[int] = set()

    def embed(self, text: str) -> list[float]:
        """Return a vector of two dimensions."""
        self.texts.append(text)
        self.threads.add(threading.get_ident())
        if text == "bad":
            raise ConnectionError("the model is down")

        angle = math.radians(DEGREES[text])
        return [math.cos(angle), math.sin(angle)]

    async def embed_async(self, text: str) -> list[float]:
        """Do the same, asynchronously."""
        return self.embed(text)


class Model:
    """Answers with the question, and counts."""

    def __init__(self) -> None:
        self.calls = 0

    def generate(self, prompt: str, temperature: float = 0.0) -> str:
        """Answer."""
        self.calls += 1
        return f"about {prompt} {temperature}"

    def stream(self, prompt: str) -> Iterator[str]:
        """Answer in pieces."""
        self.calls += 1
        yield "about "
        yield prompt


SETTINGS = ("--set", "tasks.faq.similar=true", "--set", "tasks.faq.similar_threshold=0.99")
"""The task faq looks for similar requests."""


@pytest.fixture(scope="module")
def filled(module_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with the entries of earlier tests."""
    return module_daemon(*SETTINGS)


@pytest.fixture
def running(filled: Daemon) -> Daemon:
    """The daemon, without entries."""
    filled.purge()
    return filled


@pytest.fixture
def new(daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon of one test."""
    return daemon(*SETTINGS)


@pytest.fixture
def unwarned() -> Iterator[None]:
    """Let each test be warned as if it were the first, and those of other modules as well."""
    warn._warned_of.clear()
    yield
    warn._warned_of.clear()


@pytest.fixture(params=KINDS)
def connect(request: pytest.FixtureRequest, running: Daemon, unwarned: None) -> Iterator[Callable[..., Caller]]:
    """Make clients of each kind."""
    with connecting(request.param, running.socket) as connect:
        yield connect


@pytest.fixture(params=KINDS)
def connect_new(request: pytest.FixtureRequest, new: Daemon, unwarned: None) -> Iterator[Callable[..., Caller]]:
    """Make clients of each kind, of a daemon that has counted nothing yet."""
    with connecting(request.param, new.socket) as connect:
        yield connect


def test_a_similar_request_has_the_answer_and_says_so(connect_new: Callable[..., Caller]) -> None:
    """The embedder runs where nothing else is known, once, and never for a hit."""
    embedder, model = Embedder(), Model()
    client = connect_new(embed={"angles": embedder.embed}, task="faq")
    first = client.outcome(model.generate, "what is the time?")
    second = client.outcome(model.generate, "what time is it?")
    third = client.outcome(model.generate, "what is the time?")
    other = client.outcome(model.generate, "where is it?")

    assert (first.source, first.similarity) == ("upstream", None)
    assert (second.source, second.value) == ("cache", first.value)
    assert second.similarity == pytest.approx(math.cos(math.radians(5)), abs=1e-3)
    assert (third.source, third.similarity) == ("cache", None)
    assert (other.source, model.calls) == ("upstream", 2)
    assert embedder.texts == ["what is the time?", "what time is it?", "where is it?"]
    stats, report = client.ask("stats"), client.ask("report")
    assert (stats.hits, stats.similar_hits, stats.vectors, stats.vectors_wanted) == (2, 1, 2, 3)
    assert report.tasks["faq"].similar_hits == 1


def test_another_temperature_is_another_question(connect: Callable[..., Caller]) -> None:
    """Everything but the text must be equal."""
    embedder, model = Embedder(), Model()
    client = connect(embed={"angles": embedder.embed}, task="faq")
    client.outcome(model.generate, "what is the time?")

    assert client.outcome(model.generate, "what time is it?", temperature=1.0).source == "upstream"
    assert client.outcome(model.generate, "what time is it?", namespace="other").source == "upstream"
    assert client.outcome(model.generate, "what time is it?", mode="refresh").source == "upstream"


def test_where_the_task_looks_for_nothing_the_embedder_does_not_run(connect: Callable[..., Caller]) -> None:
    """Nor without a daemon."""
    embedder, model = Embedder(), Model()
    client = connect(embed={"angles": embedder.embed})

    assert client.outcome(model.generate, "what is the time?").source == "upstream"
    assert client.outcome(model.generate, "what time is it?").source == "upstream"
    assert embedder.texts == []


def test_without_a_daemon_the_embedder_does_not_run(connect_new: Callable[..., Caller], new: Daemon) -> None:
    """The call is made, and no caller would use the vector."""
    embedder, model = Embedder(), Model()
    client = connect_new(embed={"angles": embedder.embed}, task="faq")
    new.terminate()

    assert client.outcome(model.generate, "what is the time?").source == "fallback"
    assert embedder.texts == []


def test_a_faulty_embedder_breaks_no_call(connect: Callable[..., Caller]) -> None:
    """One warning; the call is shared by its key."""
    embedder, model = Embedder(), Model()
    client = connect(embed={"angles": embedder.embed}, task="faq")
    with pytest.warns(SidecardWarning, match="embed= failed"):
        assert client.outcome(model.generate, "bad").source == "upstream"

    assert client.outcome(model.generate, "bad").source == "cache"


def test_an_asynchronous_embedder_is_awaited_and_a_plain_one_blocks_no_loop(connect: Callable[..., Caller]) -> None:
    """A plain one runs in a thread; the blocking client cannot await, which is the embedder's failure."""
    embedder, model = Embedder(), Model()
    client = connect(embed={"angles": embedder.embed_async}, task="faq")
    if client.portal is None:
        with (
            pytest.warns(SidecardWarning, match="embed= failed"),
            pytest.warns(RuntimeWarning, match="never awaited"),
        ):
            client.outcome(model.generate, "what is the time?")

        return

    client.outcome(model.generate, "what is the time?")
    assert client.outcome(model.generate, "what time is it?").similarity is not None
    loop_thread = client.portal.call(threading.get_ident)
    assert embedder.threads == {loop_thread}
    embedder.threads.clear()
    client.outcome(model.generate, "where is it?", embed={"angles": embedder.embed})
    assert embedder.threads
    assert loop_thread not in embedder.threads


def test_a_ready_vector_needs_no_embedder(connect: Callable[..., Caller]) -> None:
    """Numbers or bytes."""
    model = Model()
    client = connect(task="faq")
    client.outcome(model.generate, "the time?", vector=[1.0, 0.0])

    assert client.outcome(model.generate, "what time is it?", vector=(0.5, 0.0)).similarity == pytest.approx(1.0)


def test_another_number_of_dimensions_is_an_error_that_says_what_to_change(connect: Callable[..., Caller]) -> None:
    """With ``on_unavailable="raise"`` the caller sees it; otherwise the call is made without the daemon, with a warning."""
    model = Model()
    client = connect(task="faq")
    client.outcome(model.generate, "the time?", vector=[1.0, 0.0])
    with pytest.raises(RequestRefused, match=r"has 3 dimensions, and those of its group have 2; let all callers"):
        client.outcome(model.generate, "what time is it?", vector=[1.0, 0.0, 0.0], on_unavailable="raise")

    with pytest.warns(SidecardWarning, match="3 dimensions"):
        assert client.outcome(model.generate, "what time is it?", vector=[1.0, 0.0, 0.0]).source == "fallback"


def test_a_deleted_answer_is_not_served(connect: Callable[..., Caller]) -> None:
    """Its vector goes with it."""
    model = Model()
    client = connect(task="faq")
    client.outcome(model.generate, "the time?", vector=[1.0, 0.0], key="mine")
    assert client.ask("delete", "mine") == 1

    assert client.outcome(model.generate, "what time is it?", vector=[1.0, 0.0]).source == "upstream"


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_is_replayed_to_a_similar_request(running: Daemon, kind: str) -> None:
    """Piece by piece, with the similarity from the first one on."""
    embedder, model = Embedder(), Model()
    with connecting(kind, running.socket) as connect:
        client = connect(embed={"angles": embedder.embed}, task="faq")
        assert read(client, model, "what is the time?") == (["about ", "what is the time?"], "upstream", None)
        pieces, source, similarity = read(client, model, "what time is it?")
        assert (pieces, source, model.calls) == (["about ", "what is the time?"], "cache", 1)
        assert similarity == pytest.approx(math.cos(math.radians(5)), abs=1e-3)
        assert client.outcome(model.generate, "what time is it?").source == "upstream"


def read(client: Caller, model: Model, prompt: str) -> tuple[list[str], Any, Any]:
    """Read a whole stream; return its pieces, its source and its similarity."""
    if client.portal is None:
        stream = client.sidecard.stream(model.stream, prompt)
        return list(stream), stream.source, stream.similarity

    async def read_all() -> tuple[list[str], Any, Any]:
        stream = client.sidecard.stream(model.stream, prompt)
        return [piece async for piece in stream], stream.source, stream.similarity

    result: tuple[list[str], Any, Any] = client.portal.call(read_all)
    return result


def test_settings_that_are_read_again_begin_it_and_end_it(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The library is loaded then; no connection is lost by it."""
    file, model = tmp_path / "sidecard.toml", Model()
    file.write_text("[tasks.faq]\nttl_seconds = 60\n")
    running = daemon("--config", str(file))
    with Client(running.socket, task="faq") as sidecard:
        sidecard.call(model.generate, "the time?", vector=[1.0, 0.0])
        assert sidecard.outcome(model.generate, "what time is it?", vector=[1.0, 0.0]).source == "upstream"
        file.write_text("[tasks.faq]\nttl_seconds = 60\nsimilar = true\n")
        assert ask(running.socket, {"op": "reload"}, 20.0)["problems"] == []
        sidecard.call(model.generate, "where is the station?", vector=[1.0, 0.0])
        assert (
            sidecard.outcome(model.generate, "Where is the station, please?", vector=[1.0, 0.1]).similarity is not None
        )
        file.write_text("[tasks.faq]\nttl_seconds = 60\n")
        assert ask(running.socket, {"op": "reload"}, 20.0)["problems"] == []
        assert sidecard.stats().vectors == 0
        assert sidecard.outcome(model.generate, "Is this where the station is?", vector=[1.0, 0.0]).source == "upstream"


def test_decorated_functions_and_wrapped_clients_do_the_same(running: Daemon) -> None:
    """Methods have groups of their own."""
    embedder, model = Embedder(), Model()
    with Client(running.socket, task="faq", embed={"angles": embedder.embed}) as sidecard:

        @sidecard.cached(name="answer")
        def answer(question: str) -> str:
            return model.generate(question)

        wrapped = sidecard.wrap(model, name="llm")
        assert answer("what is the time?") == answer("what time is it?")
        assert wrapped.generate("where is it?") == wrapped.generate("where is this?")
        assert answer(question="where is it?") == "about where is it? 0.0"
        assert model.calls == 3


def test_changed_meanings_are_never_served(connect: Callable[..., Caller]) -> None:
    """Negations, other names and opposites get calls of their own, even if the vectors are equal, and are counted."""
    model = Model()
    client = connect(embed={"constant": lambda _: [1.0, 0.0]}, task="faq")
    pairs = [pair for pair in hard_negatives.pairs() if pair[0] != "number"]
    before = client.ask("stats")
    for number, (_, *texts) in enumerate(pairs):
        for text in texts:
            outcome = client.outcome(model.generate, text, name=f"model {number}")
            assert (outcome.source, outcome.value) == ("upstream", f"about {text} 0.0")

        assert client.outcome(model.generate, f"Please, {texts[0]}", name=f"model {number}").similarity == 1.0

    stats = client.ask("stats")
    assert stats.similar_hits - before.similar_hits == 30
    assert sum(stats.similar_refused.values()) - sum(before.similar_refused.values()) >= 30


def test_changed_meanings_are_never_replayed(running: Daemon) -> None:
    """Streams have the same guard."""
    model = Model()
    with connecting("sync", running.socket) as connect:
        client = connect(embed={"constant": lambda _: [1.0, 0.0]}, task="faq")
        assert read(client, model, "Is it safe here?")[1] == "upstream"
        assert read(client, model, "Is it not safe here?") == (["about ", "Is it not safe here?"], "upstream", None)
        assert read(client, model, "is it safe here")[1:] == ("cache", 1.0)
