"""Metrics of workers in a real daemon: nothing is counted twice, however workers, connections and daemons end."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.protocol.wire import FRAME_HEADER_BYTES
from tests.daemons import Daemon, ask, poll
from tests.metrics import samples

Start = Callable[..., Daemon]


@pytest.fixture
def path(daemon: Start, socket_path: str) -> str:
    """Start a daemon."""
    daemon("--no-state")
    return socket_path


@pytest.fixture
def worker(path: str) -> Iterator[Callable[[str], subprocess.Popen[bytes]]]:
    """Run code in a process of its own, with a ``client``; the test reads its output."""
    running: list[subprocess.Popen[bytes]] = []

    def start(code: str) -> subprocess.Popen[bytes]:
        program = f"import os, sys, time\nfrom sidecard_client import Client\nclient = Client({path!r})\n{code}"
        process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stdin=subprocess.PIPE)
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def line(process: subprocess.Popen[bytes]) -> str:
    """Return the next line that a worker prints."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def measure(client: Client | AsyncClient) -> None:
    """Use each kind of metric once."""
    client.counter("jobs", "Jobs done.").labels(kind="pdf").inc(2)
    client.gauge("queue").set(5)
    client.histogram("sizes", buckets=(1.0, 10.0)).observe(3.0)
    with client.timer("took"):
        pass

    assert client.flush_metrics(5.0)


MEASURED = {"jobs_total kind=pdf": 2.0, "queue": 5.0, "sizes_bucket le=1.0": 0.0, "sizes_bucket le=10.0": 1.0,
            "sizes_bucket le=+Inf": 1.0, "sizes_count": 1.0, "sizes_sum": 3.0, "took_count": 1.0}  # fmt: skip


def test_a_blocking_client_measures(path: str) -> None:
    """All kinds of metrics arrive; at the client's end its gauge disappears, and its counts stay."""
    with Client(path) as client:
        measure(client)
        assert samples(path).items() >= MEASURED.items()

    poll(lambda: "queue" not in samples(path), "the gauge stayed")
    assert samples(path)["jobs_total kind=pdf"] == 2.0


@pytest.mark.anyio
async def test_an_async_client_measures(path: str) -> None:
    """An async client measures as a blocking one; sending does not need its event loop."""
    async with AsyncClient(path) as client:
        await anyio.to_thread.run_sync(measure, client)
        assert samples(path).items() >= MEASURED.items()

    poll(lambda: "queue" not in samples(path), "the gauge stayed")


def test_workers_are_added_up_and_gauges_end_with_their_worker(
    path: str, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """The gauge of a killed worker disappears; its counts stay."""
    code = (
        "client.counter('jobs').inc({0}); client.gauge('busy').set({0}); print(client.flush_metrics(5.0), flush=True)"
    )
    first, second = (worker(code.format(number) + "; time.sleep(60)") for number in (1, 10))
    assert (line(first), line(second)) == ("True", "True")
    exposed = samples(path)
    assert (exposed["jobs_total"], exposed["busy"]) == (11.0, 11.0)
    second.kill()
    poll(lambda: samples(path)["busy"] == 1.0, "the killed worker's gauge stayed")
    assert samples(path)["jobs_total"] == 11.0


def test_counts_arrive_before_a_process_ends(path: str, worker: Callable[[str], subprocess.Popen[bytes]]) -> None:
    """They are sent at exit, without a close and without a flush."""
    assert worker("client.counter('jobs').inc(3)").wait(20) == 0
    assert samples(path)["jobs_total"] == 3.0


def test_the_child_of_a_fork_counts_for_itself(path: str, worker: Callable[[str], subprocess.Popen[bytes]]) -> None:
    """The parent sends what it counted before the fork; the child starts from zero."""
    code = (
        "jobs = client.counter('jobs'); jobs.inc(1); child = os.fork(); jobs.inc(10 if child else 100)\n"
        "sent = client.flush_metrics(5.0)\n"
        "if child: print(sent and not os.waitpid(child, 0)[1], flush=True)\n"
        "os._exit(not sent)"
    )
    process = worker(code)
    assert line(process) == "True"
    assert samples(path)["jobs_total"] == 111.0


def test_a_restarted_daemon_receives_gauges_and_pending_counts(daemon: Start, socket_path: str) -> None:
    """Its counters start from zero, as Prometheus expects, with what the previous daemon did not receive."""
    one = daemon("--no-state")
    with Client(socket_path) as client:
        jobs, queue = client.counter("jobs"), client.gauge("queue")
        jobs.inc(5)
        queue.set(7)
        assert client.flush_metrics(5.0)
        one.kill()
        jobs.inc(2)
        assert not client.flush_metrics(0.2)
        jobs.inc(1)
        one.start_again()
        poll(lambda: samples(socket_path).get("jobs_total") == 3.0, "the pending counts did not arrive")
        poll(lambda: samples(socket_path).get("queue") == 7.0, "the gauge was not sent again")


class CuttingProxy:
    """Forwards connections, and cuts ``cuts`` of them between the daemon's reply and the client."""

    def __init__(self, path: str, target: str, cuts: int) -> None:
        self.cuts = cuts
        self._target = target
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(path)
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return

            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with near, socket.socket(socket.AF_UNIX) as far:
            far.connect(self._target)
            while frame := _frame(near):
                far.sendall(frame)
                answer = _frame(far)
                if self.cuts:
                    self.cuts -= 1
                    return

                near.sendall(answer)

    def close(self) -> None:
        """Stop accepting."""
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()


def _frame(connection: socket.socket) -> bytes:
    head = _exactly(connection, FRAME_HEADER_BYTES)
    return head + _exactly(connection, int.from_bytes(head, "big")) if head else b""


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            return b""

        data += piece

    return data


def test_a_batch_whose_reply_was_lost_is_counted_once(path: str, socket_directory: Path) -> None:
    """The client sends it again, up to four times, and the daemon recognizes its sequence number."""
    near = str(socket_directory / "proxy.sock")
    with closing(CuttingProxy(near, path, cuts=4)) as proxy, Client(near) as client:
        client.counter("jobs").inc(5)
        poll(lambda: client.flush_metrics(1.0), "the metrics did not arrive")
        assert proxy.cuts == 0
        assert samples(path)["jobs_total"] == 5.0
        client.counter("jobs").inc(5)
        assert client.flush_metrics(5.0)
        assert samples(path)["jobs_total"] == 10.0


def test_series_above_the_limits_are_counted(path: str) -> None:
    """With labels from user input, the client keeps 10,000 series, and the daemon 1,000 per metric."""
    with Client(path) as client:
        jobs = client.counter("jobs")
        for number in range(12_000):
            jobs.labels(user=str(number)).inc()

        poll(lambda: client.flush_metrics(5.0), "the metrics did not arrive")

    exposed = samples(path)
    of_jobs = {name: value for name, value in exposed.items() if name.startswith("jobs_total")}
    assert len(of_jobs) == 1001
    assert of_jobs["jobs_total overflow=true"] == exposed["sidecard_series_overflow_total metric=jobs"] > 8000.0
    assert sum(of_jobs.values()) + exposed["sidecard_dropped_total what=client"] == 12_000.0


def test_a_registry_is_forwarded_with_one_line(path: str, worker: Callable[[str], subprocess.Popen[bytes]]) -> None:
    """Two workers use prometheus_client only: counters are added up, and gauges kept per worker."""
    code = (
        "import prometheus_client as p\n"
        "client.forward()\n"
        "c = p.Counter('served', 'Requests.', ['path']); c.labels('/').inc(2)\n"
        "p.Gauge('open', 'Connections.').set(4)\n"
        "p.Histogram('latency_seconds', 'Time.').observe(0.2)\n"
        "print(client.flush_metrics(5.0), os.getpid(), flush=True)\n"
        "sys.stdin.readline(); c.labels('/').inc(); print(client.flush_metrics(5.0), flush=True); time.sleep(60)"
    )
    workers = [worker(code), worker(code)]
    pids = [line(process).split()[1] for process in workers]
    exposed = samples(path)
    assert exposed["served_total path=/"] == 4.0
    assert exposed["latency_seconds_count"] == 2.0
    assert {exposed[f"open worker={pid}"] for pid in pids} == {4.0}
    assert workers[0].stdin is not None
    workers[0].stdin.write(b"\n")
    workers[0].stdin.flush()
    assert line(workers[0]) == "True"
    assert samples(path)["served_total path=/"] == 5.0


def test_any_peer_may_record_with_json_lines(path: str) -> None:
    """A ``record`` gets no reply without ``acknowledge``."""
    record = {"op": "record", "metrics": [{"name": "lamps", "kind": "counter", "value": 2, "labels": {"room": "hall"}}]}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(json.dumps(record).encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""

    assert ask(path, record | {"acknowledge": True})["type"] == "recorded"
    assert samples(path)["lamps_total room=hall"] == 4.0


def test_measuring_does_not_block_while_the_daemon_hangs(daemon: Start, socket_path: str) -> None:
    """Only the sender's thread waits for a stopped daemon."""
    one = daemon("--no-state")
    with Client(socket_path) as client:
        jobs = client.counter("jobs")
        jobs.inc()
        assert client.flush_metrics(5.0)
        os.kill(one.pid, signal.SIGSTOP)
        for _ in range(100_000):
            jobs.inc()

        assert not client.flush_metrics(0.3)
        os.kill(one.pid, signal.SIGCONT)
        poll(lambda: samples(socket_path)["jobs_total"] == 100_001.0, "the pending counts did not arrive")
