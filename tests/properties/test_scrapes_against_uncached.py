"""Pages of `GET /metrics` built in pieces from cached text equal pages built at once, and prometheus-client can parse them."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from sidecard.core.accounts import app_metric
from sidecard.core.accounts.app_metrics import AppMetrics, FamilySource, merged
from sidecard.core.accounts.memory import MemoryAccounts
from sidecard.core.events import Peer
from sidecard.core.settings import EngineSettings, LiveSettings
from sidecard.observe.exposition import OPENMETRICS, TEXT, TextFormat
from sidecard.observe.http.scrapes import Scrapes
from sidecard_client.protocol.wire import Family, Measurement, RecordMetrics, Sample
from tests.thoroughness import cases

PARSERS: dict[TextFormat, Any] = {TEXT: parse_text, OPENMETRICS: parse_openmetrics}

texts = st.text(st.characters(codec="utf-8"), max_size=4)
labels = st.dictionaries(st.sampled_from(("a", "b")), texts, max_size=2)
measurements = st.one_of(
    st.builds(
        Measurement,
        name=st.sampled_from(("docs", "pages")),
        kind=st.just("counter"),
        value=st.floats(0, 100),
        labels=labels,
        help=texts,
    ),
    st.builds(
        Measurement,
        name=st.sampled_from(("queue", "load")),
        kind=st.just("gauge"),
        value=st.floats(),
        labels=labels,
        aggregate=st.sampled_from(("sum", "each", "max")),
    ),
    st.builds(Measurement, name=st.just("took"), kind=st.just("histogram"), value=st.floats(0, 20), labels=labels),
)
steps = st.one_of(
    st.tuples(st.just("record"), st.integers(1, 3), st.lists(measurements, max_size=4)),
    st.tuples(st.just("lost"), st.integers(1, 3)),
    st.tuples(st.just("ask"), st.sampled_from((TEXT, OPENMETRICS))),
    st.tuples(st.just("turn")),
    st.tuples(st.just("scrape"), st.sampled_from((TEXT, OPENMETRICS))),
)


class ManualScheduler:
    """Gives a turn of one piece when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.waiting: list[Any] = []

    def clock(self) -> float:
        """Return a later time with each call, so that each piece uses up a turn."""
        self.seconds += 1.0
        return self.seconds

    def enqueue(self, work: Any, _: int) -> None:
        """Queue work."""
        if work not in self.waiting:
            self.waiting.append(work)

    def remove(self, work: Any) -> None:
        """Take work out."""
        self.waiting.remove(work)

    def charge(self, uid: int, seconds: float) -> None:
        """Ignore charges."""

    def turn(self) -> None:
        """Give one turn."""
        if self.waiting:
            work = self.waiting.pop(0)
            if work.serve_turn():
                self.enqueue(work, 0)


class World:
    """Metrics of apps and one family of the daemon's own, whose samples change without a number."""

    def __init__(self) -> None:
        live = LiveSettings(EngineSettings(max_series=4))
        self.apps = AppMetrics(live, Counter(), MemoryAccounts(1 << 30).app_metrics)
        self.scheduler = ManualScheduler()
        self.scrapes = Scrapes(self.sources, self.scheduler)
        self.own = 0

    def sources(self) -> Iterator[FamilySource]:
        """Yield all families."""
        samples = [Sample("sidecard_own", float(self.own), {"n": str(number)}) for number in range(self.own % 3)]
        if samples:
            yield FamilySource("sidecard_own", 0, iter((Family("sidecard_own", "gauge", "Own.", samples),)))

        yield from self.apps.sources()


@settings(deadline=None, max_examples=cases(50))
@given(st.lists(steps, max_size=25))
def test_a_scrape_equals_an_uncached_build(actions: list[tuple[Any, ...]]) -> None:
    """After any changes, in either format, also while an earlier scrape's page was half built."""
    asyncio.run(_live(actions))


async def _live(actions: list[tuple[Any, ...]]) -> None:
    world = World()
    asked: list[asyncio.Task[Any]] = []
    for action in (*actions, ("scrape", TEXT), ("scrape", OPENMETRICS), ("scrape", OPENMETRICS)):
        match action:
            case "record", number, batch:
                world.own += 1
                peer = Peer(number, number, number, 100 + number // 2, operator=False)
                world.apps.record_part(peer, RecordMetrics(metrics=tuple(batch)), 0.0)
            case "lost", number:
                world.apps.peer_lost(Peer(number, number, number, 100 + number // 2, operator=False))
            case "ask", form:
                asked.append(asyncio.get_running_loop().create_task(world.scrapes.page(form, 0)))
                await asyncio.sleep(0)
            case ("turn",):
                world.scheduler.turn()
            case "scrape", form:
                page = asyncio.get_running_loop().create_task(world.scrapes.page(form, 0))
                while not page.done():
                    await asyncio.sleep(0)
                    world.scheduler.turn()

                text = b"".join(page.result().blocks())
                world.scrapes.sent(page.result())
                assert text == form.text(merged(world.sources()))
                list(PARSERS[form](text.decode()))

    # Whoever asked before has a page too.
    for task in asked:
        assert task.done()
        world.scrapes.sent(task.result())

    assert not world.scrapes._pages


@settings(deadline=None, max_examples=cases(10))
@given(st.integers(1, 700), st.sampled_from((TEXT, OPENMETRICS)))
def test_large_families_are_built_in_pieces(series: int, form: TextFormat) -> None:
    """Without a break, a doubled heading or a missing series between two pieces."""

    async def live() -> None:
        world = World()
        world.apps._max_series = 1000
        world.own = 1
        counted = (Measurement(name="docs", kind="counter", labels={"n": str(number)}) for number in range(series))
        request = RecordMetrics(metrics=tuple(counted))
        while world.apps.record_part(Peer(1, 1, 1, 1, operator=False), request, 0.0).dropped is None:
            pass

        page = asyncio.get_running_loop().create_task(world.scrapes.page(form, 0))
        turns = 0
        while not page.done():
            await asyncio.sleep(0)
            world.scheduler.turn()
            turns += 1

        assert turns >= series * 3 // app_metric.PIECE_LABELS
        assert b"".join(page.result().blocks()) == form.text(merged(world.sources()))

    asyncio.run(live())
