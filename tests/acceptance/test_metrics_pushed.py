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
from tests.push_servers import VictoriaMetrics, running

INTERVAL_SECONDS = 0.2


def counting(path: str, stop: threading.Event) -> None:
    """Count and call, as fast as the daemon likes."""
    with Client(path) as client:
        work = client.counter("work")
        for number in itertools.count():
            work.inc()
            client.call(str.upper, f"question {number % 50}", name="upper", ttl=5)
            if stop.is_set():
                return


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("format_path", ["/api/v1/import", "/api/v1/import/prometheus", "/api/v1/write"])
def test_an_outage_and_a_kill_leave_no_gap_and_no_duplicate(
    daemon: Callable[..., Daemon], socket_path: str, tmp_path: Path, format_path: str
) -> None:
    """What was collected while the target was away is there with its own instants, those before the kill too."""
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
        poll(lambda: len(target.points("work_total")) > 5, "nothing pushed")
        target.stop()
        time.sleep(2.0)
        one.kill()
        killed_at, restarted_at = time.time_ns() // 1_000_000, 0
        one.start_again()
        restarted_at = time.time_ns() // 1_000_000
        time.sleep(2.0)
        target.start()
        poll(lambda: samples(socket_path)["sidecard_spool_bytes"] == 0, "the spool did not empty")
        stop.set()
        load.join()
        counted = samples(socket_path)["work_total"]
        poll(lambda: target.points("work_total")[-1][1] == counted, "the last value did not arrive")
        points = target.points("work_total")
        assert one.terminate() == 0

    instants = [at for at, _ in points]
    assert len(set(instants)) == len(instants), "a sample is there twice"
    late = [
        (earlier, later)
        for earlier, later in itertools.pairwise(instants)
        if later - earlier > 2.5 * INTERVAL_SECONDS * 1000 and not earlier <= killed_at <= restarted_at <= later
    ]
    assert not late, f"samples are missing between {late}"
    resets = [later for (_, low), (later, high) in itertools.pairwise(points) if high < low]
    assert len(resets) == 1
    assert resets[0] >= killed_at
    assert sum(instant < killed_at for instant in instants) > 10
