"""A real daemon that pushes to a real VictoriaMetrics: away for a while under load, and the daemon killed meanwhile."""

import itertools
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecard_client import Client
from tests.daemons import Daemon, poll
from tests.metrics import samples
from tests.push_servers import Points, VictoriaMetrics, running

pytestmark = pytest.mark.usefixtures("patient_clients")

INTERVAL_SECONDS = 0.2
BLOCKS = 6
"""That are waited for, before each fault."""


def counting(path: str, stop: threading.Event) -> None:
    """Count and call, as fast as the daemon likes."""
    with Client(path) as client:
        work = client.counter("work")
        for number in itertools.count():
            work.inc()
            client.call(str.upper, f"question {number % 50}", name="upper", ttl=5)
            if stop.is_set():
                return


def spooled(path: str, blocks: int) -> None:
    """Wait until about so many blocks wait: one that goes from memory to the disk is in both for a moment."""
    sizes: set[float] = set()

    def enough() -> bool:
        sizes.add(samples(path)["sidecard_spool_bytes"])
        held = sizes - {0.0}
        return bool(held) and max(held) >= blocks * min(held)

    poll(enough, "nothing was put aside")


def lost(life: Points, missed: int) -> float:
    """Return how many samples of one daemon's run are missing, except those that it logged as missed.

    The last one may be late by one interval, and by those that it then missed: on a busy machine up to 1 is none.
    """
    intervals = (life[-1][0] - life[0][0]) / 1000 / INTERVAL_SECONDS
    return intervals - (len(life) - 1) - missed


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("format_path", ["/api/v1/import", "/api/v1/import/prometheus", "/api/v1/write"])
def test_metrics_pushed_after_outage_and_kill_have_no_gap_and_no_duplicate(
    daemon: Callable[..., Daemon], socket_path: str, tmp_path: Path, format_path: str
) -> None:
    """Samples collected during the outage, before the kill too, arrive with their own instants.

    A sample's timestamp shows which of the two daemons sent it: what the apps have counted without a daemon is in the
    second one's first sample, which may be more than all that the first one had.
    """
    target = VictoriaMetrics(tmp_path / "metrics")
    with running(target):
        one = daemon(
            f"--set=push.url={target.url}{format_path}",
            f"--set=push.interval_seconds={INTERVAL_SECONDS}",
            STATE_DIRECTORY=str(tmp_path),
        )
        stop = threading.Event()
        load = threading.Thread(target=counting, args=(socket_path, stop))
        load.start()
        try:
            poll(lambda: len(target.points("work_total")) > BLOCKS, "nothing pushed")
            stopped_at = time.time_ns() // 1_000_000
            target.stop()
            spooled(socket_path, BLOCKS)
            one.kill()
            killed_at = time.time_ns() // 1_000_000
            missed_before = missed(one)
            one.start_again()
            spooled(socket_path, BLOCKS)
            target.start()
            poll(lambda: samples(socket_path)["sidecard_spool_bytes"] == 0, "the spool did not empty", seconds=60.0)
        finally:
            stop.set()
            load.join()

        counted = samples(socket_path)["work_total"]
        poll(lambda: target.points("work_total")[-1][1] == counted, "the last value did not arrive")
        points = target.points("work_total")
        assert one.terminate() == 0

    instants = [at for at, _ in points]
    assert len(set(instants)) == len(instants), "a sample is there twice"
    before = [point for point in points if point[0] <= killed_at]
    after = [point for point in points if point[0] > killed_at]
    assert sum(instant > stopped_at for instant, _ in before) >= BLOCKS - 2
    for life, missed_then in [(before, missed_before), (after, missed(one) - missed_before)]:
        assert all(low <= high for (_, low), (_, high) in itertools.pairwise(life))
        assert lost(life, missed_then) < 1.5, f"samples are missing in {life}"


def missed(one: Daemon) -> int:
    """Return how many collections the daemon missed according to its log."""
    return sum(int(line["missed"]) for line in one.said("metrics collected late"))
