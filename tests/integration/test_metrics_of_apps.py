"""What workers measure, in a real daemon: whatever becomes of workers, connections and daemons, nothing is counted twice."""

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
    """Run code in a process of its own; ``client`` is there, what it prints can be read."""
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
    """Wait for what a worker prints next."""
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def measure(client: Client | AsyncClient) -> None:
    """Use each kind once."""
    client.counter("jobs", "Jobs done.").labels(kind="pdf").inc(2)
    client.gauge("queue").set(5)
    client.histogram("sizes", buckets=(1.0, 10.0)).observe(3.0)
    with client.timer("took"):
        pass

    assert client.flush_metrics(5.0)


MEASURED = {"jobs_total kind=pdf": 2.0, "queue": 5.0, "sizes_bucket le=1.0": 0.0, "sizes_bucket le=10.0": 1.0,
            "sizes_bucket le=+Inf": 1.0, "sizes_count": 1.0, "sizes_sum": 3.0, "took_count": 1.0}  # fmt: skip


def test_a_blocking_client_measures(path: str) -> None:
    """Each kind arrives, and with the client the gauge goes and the rest stays."""
    with Client(path) as client:
        measure(client)
        assert samples(path).items() >= MEASURED.items()

    poll(lambda: "queue" not in samples(path), "the gauge stayed")
    assert samples(path)["jobs_total kind=pdf"] == 2.0


@pytest.mark.anyio
async def test_an_async_client_measures(path: str) -> None:
    """As the blocking one; nothing of it waits for the loop."""
    async with AsyncClient(path) as client:
        await anyio.to_thread.run_sync(measure, client)
        assert samples(path).items() >= MEASURED.items()

    poll(lambda: "queue" not in samples(path), "the gauge stayed")


def test_workers_are_added_up_and_a_killed_one_takes_its_gauges_along(
    path: str, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """Its counts stay: they have happened."""
    code = (
        "client.counter('jobs').inc({0}); client.gauge('busy').set({0}); print(client.flush_metrics(5.0), flush=True)"
    )
    first, second = (worker(code.format(number) + "; time.sleep(60)") for number in (1, 10))
    assert (line(first), line(second)) == ("True", "True")
    told = samples(path)
    assert (told["jobs_total"], told["busy"]) == (11.0, 11.0)
    second.kill()
    poll(lambda: samples(path)["busy"] == 1.0, "the killed worker's gauge stayed")
    assert samples(path)["jobs_total"] == 11.0


def test_what_a_process_counted_before_its_end_arrives(
    path: str, worker: Callable[[str], subprocess.Popen[bytes]]
) -> None:
    """Without a close, and without a flush."""
    assert worker("client.counter('jobs').inc(3)").wait(20) == 0
    assert samples(path)["jobs_total"] == 3.0


def test_the_child_of_a_fork_counts_for_itself(path: str, worker: Callable[[str], subprocess.Popen[bytes]]) -> None:
    """What the parent has counted but not sent is the parent's to send."""
    code = (
        "jobs = client.counter('jobs'); jobs.inc(1); child = os.fork(); jobs.inc(10 if child else 100)\n"
        "sent = client.flush_metrics(5.0)\n"
        "if child: print(sent and not os.waitpid(child, 0)[1], flush=True)\n"
        "os._exit(not sent)"
    )
    process = worker(code)
    assert line(process) == "True"
    assert samples(path)["jobs_total"] == 111.0


def test_a_restarted_daemon_is_told_the_gauges_and_what_was_counted_meanwhile(daemon: Start, socket_path: str) -> None:
    """Of the counters it gets what the last one has not got: a counter that begins anew is what Prometheus expects."""
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
        poll(lambda: samples(socket_path).get("jobs_total") == 3.0, "what was counted while it was away did not arrive")
        poll(lambda: samples(socket_path).get("queue") == 7.0, "the gauge was not told again")


class CuttingProxy:
    """Passes connections on, and cuts some of them when the daemon has taken a request and before its answer is through."""

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
        """Accept no more."""
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


def test_what_was_taken_is_counted_once_though_its_answer_was_lost(path: str, socket_directory: Path) -> None:
    """The client sends it again, and the daemon knows it: four times in a row."""
    near = str(socket_directory / "proxy.sock")
    with closing(CuttingProxy(near, path, cuts=4)) as proxy, Client(near) as client:
        client.counter("jobs").inc(5)
        poll(lambda: client.flush_metrics(1.0), "never through")
        assert proxy.cuts == 0
        assert samples(path)["jobs_total"] == 5.0
        client.counter("jobs").inc(5)
        assert client.flush_metrics(5.0)
        assert samples(path)["jobs_total"] == 10.0


def test_what_no_client_can_keep_is_counted(path: str) -> None:
    """Labels made of user input: the client has room for 10,000 series, the daemon for 1,000 of a metric."""
    with Client(path) as client:
        jobs = client.counter("jobs")
        for number in range(12_000):
            jobs.labels(user=str(number)).inc()

        poll(lambda: client.flush_metrics(5.0), "never through")

    told = samples(path)
    of_jobs = {name: value for name, value in told.items() if name.startswith("jobs_total")}
    assert len(of_jobs) == 1001
    assert of_jobs["jobs_total overflow=true"] == told["sidecard_series_overflow_total metric=jobs"] > 8000.0
    assert sum(of_jobs.values()) + told["sidecard_dropped_total what=client"] == 12_000.0


def test_a_registry_is_forwarded_with_one_line(path: str, worker: Callable[[str], subprocess.Popen[bytes]]) -> None:
    """Of two workers that know nothing but prometheus_client; counters are added up, gauges are each worker's."""
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
    told = samples(path)
    assert told["served_total path=/"] == 4.0
    assert told["latency_seconds_count"] == 2.0
    assert {told[f"open worker={pid}"] for pid in pids} == {4.0}
    assert workers[0].stdin is not None
    workers[0].stdin.write(b"\n")
    workers[0].stdin.flush()
    assert line(workers[0]) == "True"
    assert samples(path)["served_total path=/"] == 5.0


def test_anybody_may_record_by_hand(path: str) -> None:
    """One line, and no answer where none is wanted."""
    record = {"op": "record", "metrics": [{"name": "lamps", "kind": "counter", "value": 2, "labels": {"room": "hall"}}]}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(json.dumps(record).encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(100) == b""

    assert ask(path, record | {"acknowledge": True})["type"] == "recorded"
    assert samples(path)["lamps_total room=hall"] == 4.0


def test_measuring_costs_no_call_its_time_while_the_daemon_hangs(daemon: Start, socket_path: str) -> None:
    """A daemon that is stopped keeps the sender's thread waiting, and nobody else."""
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
        poll(lambda: samples(socket_path)["jobs_total"] == 100_001.0, "what was counted meanwhile did not arrive")
