"""Lists of texts from a power law, asked for by several processes: every distinct text is embedded upstream exactly once."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.embedding_caller import Embedded, EmbeddingPlan
from tests.daemons import Daemon
from tests.embedding_server import EmbeddingServer
from tests.llm_servers import real_model
from tests.workers import Workers

KINDS = ["function", "sync", "async"]


@pytest.fixture
def workers() -> Iterator[Workers[Embedded]]:
    """Start workers, and end them with the test."""
    some = Workers("tests.acceptance.embedding_caller", Embedded)
    yield some
    some.kill()


def _embed(workers: Workers[Embedded], plan: EmbeddingPlan, processes: int) -> Counter[str]:
    """Let processes embed their lists; return how often each text was sent upstream."""
    Path(plan.ledger).touch()
    workers.start(plan, processes)
    workers.go()
    results = workers.results(600)
    assert len(results) == processes
    vectors: dict[str, float] = {}
    for result in results:
        assert result.wrong == []
        for text, vector in result.vectors.items():
            assert vectors.setdefault(text, vector) == vector

    sent = Counter(Path(plan.ledger).read_text().splitlines())
    assert set(sent) == set(vectors)
    return sent


@pytest.mark.parametrize("kind", KINDS)
def test_each_text_is_embedded_once(
    kind: str, daemon: Callable[..., Daemon], workers: Workers[Embedded], tmp_path: Path
) -> None:
    """For functions and for transports, with two processes at a time."""
    server = EmbeddingServer()
    plan = EmbeddingPlan(daemon().socket, server.url, str(tmp_path / "ledger"), kind, lists=40, length=50, texts=800)
    sent = _embed(workers, plan, 2)
    server.close()

    assert set(sent.values()) == {1}
    assert sorted(server.texts) == sorted(sent)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_a_real_server_embeds_each_text_once(
    kind: str, daemon: Callable[..., Daemon], workers: Workers[Embedded], tmp_path: Path
) -> None:
    """1,000 lists of 100 texts, by four processes, with llama.cpp's server."""
    with real_model(embedding=True) as model:
        ledger = str(tmp_path / "ledger")
        plan = EmbeddingPlan(daemon().socket, model.url, ledger, kind, lists=250, length=100, texts=800)
        sent = _embed(workers, plan, 4)

    assert set(sent.values()) == {1}
    assert len(sent) > 750
