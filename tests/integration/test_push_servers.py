"""Pushes to real servers that stop, hang and return, by pushers that are killed meanwhile."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from sidecard.config.schema import PushSettings
from sidecard.observe.push.push import Push
from sidecard_client.protocol.wire import Family, Sample
from tests.daemons import poll
from tests.push_servers import MetricsServer, Points, Prometheus, VictoriaMetrics, running

INTERVAL_SECONDS = 0.05
STEP_MILLISECONDS = 50

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> str:
    """Run on what the daemon runs on."""
    return "asyncio"


class Pusher:
    """A push whose collections are a pure function of their number: the number itself, at an instant that follows from it."""

    def __init__(self, url: str, directory: Path | None, began_at: float, **settings: Any) -> None:
        self.collected = 0
        self.lost: dict[str, int] = {}
        self.said: list[tuple[str, dict[str, Any]]] = []
        self.push = Push(
            PushSettings(
                url=url, instance="host", **{"interval_seconds": INTERVAL_SECONDS, "timeout_seconds": 1.0} | settings
            ),
            self._collect,
            directory=directory,
            clock=time.monotonic,
            wall=lambda: began_at + self.collected * STEP_MILLISECONDS / 1000,
            log=lambda _, event, **fields: self.said.append((event, fields)),
            count=self._count,
            jitter=lambda: 1.0,  # the shortest pauses
        )

    def _collect(self) -> list[Family]:
        self.collected += 1
        return [Family("tests", "counter", "Counts.", [Sample("tests_total", self.collected)])]

    def _count(self, what: str, number: int) -> None:
        self.lost[what] = self.lost.get(what, 0) + number

    async def reaches(self, number: int) -> None:
        """Wait until so much was collected."""
        await until(lambda: self.collected >= number)

    async def empties(self) -> None:
        """Wait until nothing waits to be sent."""
        await until(lambda: not self.push.spool_bytes)


async def until(condition: Callable[[], bool]) -> None:
    """Wait, at most half a minute."""
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - of states that send no event
            await anyio.sleep(0.01)


def began() -> float:
    """Return an instant that servers take samples of: a little while ago, in whole seconds."""
    return float(time.time_ns() // 1_000_000_000 - 60)


def stored(server: MetricsServer, count: int) -> Points:
    """Return what a server has stored, once it shows so many samples."""
    points: Callable[[str], Points] = server.points  # type: ignore[attr-defined]
    poll(lambda: len(points("tests_total")) >= count, f"only {len(points('tests_total'))} of {count} samples are there")
    return points("tests_total")


async def broken_and_unbroken(
    steady: MetricsServer, broken: MetricsServer, path: str, directory: Path | None, end: str
) -> None:
    """Push the same to two servers, one of which disconnects twice; both must store the same."""
    began_at = began()
    one, other = (
        Pusher(steady.url + path, None, began_at),
        Pusher(broken.url + path, directory, began_at),
    )
    stops: list[range] = []
    """Collections that may have been on their way while the server stopped: a few, on a slow machine."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.push.run)
        tasks.start_soon(other.push.run)
        for outage in (1, 2):
            await other.reaches(20 * outage)
            first = other.collected - 5
            await anyio.to_thread.run_sync(broken.stop if end == "stopped" else broken.pause)
            stops.append(range(first, other.collected + 1))
            await other.reaches(other.collected + 40)
            await anyio.to_thread.run_sync(broken.start if end == "stopped" else broken.resume)
            await other.empties()

        await other.reaches(other.collected + 10)
        await one.reaches(other.collected + 10)
        tasks.cancel_scope.cancel()

    await other.push.close()
    await one.push.close()
    assert (one.lost, other.lost) == ({}, {})
    assert other.collected > 100
    expected = stored(steady, one.collected)[: other.collected]
    assert expected == [
        (round(began_at * 1000) + STEP_MILLISECONDS * (n - 1), n) for n in range(1, other.collected + 1)
    ]
    found = stored(broken, other.collected)
    # A server that hangs or stops may have stored a block without acknowledging it: the block is sent again, exactly.
    assert sorted(set(found)) == expected
    if end == "stopped":
        repeated = [n for (_, n), times in Counter(found).items() if times > 1]
        assert all(any(n in stop for stop in stops) for n in repeated), (repeated, stops)
    assert [event for event, _ in other.said].count("metrics not pushed") >= 2


@pytest.mark.parametrize(
    ("path", "end", "spool"),
    [
        ("/api/v1/import", "stopped", "on disk"),
        ("/api/v1/import", "hangs", "on disk"),
        ("/api/v1/import", "stopped", "in memory"),
        ("/api/v1/import/prometheus", "stopped", "on disk"),
        ("/api/v1/write", "stopped", "on disk"),
        ("/api/v1/write", "hangs", "on disk"),
    ],
)
async def test_victoria_metrics_has_no_gap_after_an_outage(tmp_path: Path, path: str, end: str, spool: str) -> None:
    """In each format. The only duplicates are exact: the blocks on their way when the server stopped."""
    steady, broken = VictoriaMetrics(tmp_path / "steady"), VictoriaMetrics(tmp_path / "broken")
    with running(steady, broken):
        directory = tmp_path / "spool" if spool == "on disk" else None
        await broken_and_unbroken(steady, broken, path, directory, end)


@pytest.mark.parametrize("end", ["stopped", "hangs"])
async def test_prometheus_has_no_gap_after_an_outage(tmp_path: Path, end: str) -> None:
    """It rejects samples out of order: there are none."""
    steady, broken = Prometheus(tmp_path / "steady"), Prometheus(tmp_path / "broken")
    with running(steady, broken):
        await broken_and_unbroken(steady, broken, "/api/v1/write", tmp_path / "spool", end)


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[bytes]]]:
    """End what a test has started."""
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for worker in started:
        worker.kill()
        worker.wait(timeout=10)


@pytest.mark.parametrize(
    ("kind", "path"),
    [(VictoriaMetrics, "/api/v1/import"), (Prometheus, "/api/v1/write")],
    ids=["victoria", "prometheus"],
)
def test_a_killed_pusher_loses_at_most_the_current_collection(
    tmp_path: Path, kind: type[MetricsServer], path: str, workers: list[subprocess.Popen[bytes]]
) -> None:
    """Killed five times while the server is unavailable, once while the backlog drains: spooled blocks arrive once."""
    server = kind(tmp_path / "server")
    journal = tmp_path / "journal"
    journal.touch()

    def collected() -> int:
        return int((journal.read_text().split() or ["0"])[-1])

    def live(count: int) -> None:
        command = [sys.executable, "-m", "tests.push_worker", server.url + path, str(tmp_path / "spool")]
        first = collected() + 1
        workers.append(subprocess.Popen([*command, str(first), str(journal)], stdout=subprocess.DEVNULL))
        poll(lambda: collected() >= first + count, "nothing is collected")

    def kill() -> int:
        workers[-1].kill()
        workers[-1].wait(timeout=10)
        return collected()

    with running(server):
        last_of_lives = set()
        live(20)
        first = collected() - 5
        server.stop()
        # It may have stored a block without acknowledging it, which is sent again.
        on_their_way = range(first, collected() + 1)
        for _ in range(5):
            goal = collected() + 20
            poll(lambda goal=goal: collected() >= goal, "nothing is collected")  # type: ignore[misc]
            last_of_lives.add(kill())
            live(5)

        server.start()
        last_of_lives.add(kill())
        live(100)
        made = collected()
        wanted = set(range(1, made + 1)) - last_of_lives
        # The worker pushes on meanwhile.
        poll(
            lambda: wanted <= {int(value) for _, value in stored(server, made // 2)},
            "what had been spooled has not arrived",
        )
        found = stored(server, made // 2)
        assert found == sorted(found)
        assert len({value for _, value in found}) == len(set(found))
        assert all(times == 1 or value in on_their_way for (_, value), times in Counter(found).items())
