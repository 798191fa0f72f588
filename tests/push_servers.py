"""Targets of pushes: real VictoriaMetrics and Prometheus as processes, and one whose answers a test chooses."""

import gzip
import json
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from tests.daemons import poll
from tests.loopback import LoopbackServer
from tests.servers import free_port

Points = list[tuple[int, float]]
"""Milliseconds and value, as they were stored."""


class MetricsServer:
    """A server in a directory of its own, at a port of its own, that can be stopped and started again."""

    program = ""
    ready_path = ""

    def __init__(self, directory: Path) -> None:
        found = shutil.which(self.program)
        if found is None:
            pytest.skip(f"there is no {self.program}: install Debian's")

        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [found, *self.options()]
        self.start()

    def options(self) -> list[str]:
        """Return the command's arguments."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it with what it has stored."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

        poll(self._ready, f"no {self.program} in {self.directory}")

    def stop(self) -> None:
        """Let it end as it likes, which stores what it has taken."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(timeout=30)

    def pause(self) -> None:
        """Let it hang."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def get(self, path: str, **query: str) -> str:
        """Ask it."""
        return httpx.get(self.url + path, params=query, timeout=10.0, trust_env=False).raise_for_status().text

    def _ready(self) -> bool:
        assert self.process.poll() is None, (self.directory / "log").read_text()
        try:
            return bool(self.get(self.ready_path))
        except httpx.HTTPError:
            return False


class VictoriaMetrics(MetricsServer):
    """Debian's ``victoria-metrics``, which keeps each sample it gets: one that comes twice is there twice."""

    program = "victoria-metrics"
    ready_path = "/health"

    def options(self) -> list[str]:
        """See `MetricsServer`."""
        return [f"-storageDataPath={self.directory}/data", f"-httpListenAddr=127.0.0.1:{self.port}"]

    def points(self, name: str) -> Points:
        """Return the samples of a metric that has one series, in the order of their instants."""
        self.get("/internal/force_flush")
        lines = self.get("/api/v1/export", **{"match[]": name}).splitlines()
        return sorted(
            point for line in map(json.loads, lines) for point in zip(line["timestamps"], line["values"], strict=True)
        )


class Prometheus(MetricsServer):
    """Debian's ``prometheus``, as a receiver of remote writes."""

    program = "prometheus"
    ready_path = "/-/ready"

    def options(self) -> list[str]:
        """See `MetricsServer`."""
        config = self.directory / "prometheus.yml"
        config.write_text("global: {}\n")
        return [
            f"--config.file={config}",
            f"--storage.tsdb.path={self.directory}/data",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--web.enable-remote-write-receiver",
        ]

    def points(self, name: str) -> Points:
        """Return the samples of a metric that has one series, in the order of their instants."""
        result = json.loads(self.get("/api/v1/query", query=f"{name}[1h]"))["data"]["result"]
        return [(round(at * 1000), float(value)) for one in result for at, value in one["values"]]


class Received(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def values(self) -> list[float]:
        """The values of JSON lines."""
        return [json.loads(line)["values"][0] for line in gzip.decompress(self.body).splitlines()]


Answer = tuple[int, dict[str, str], str]
"""Status, headers, body."""


class ChosenTarget:
    """A server whose answers are chosen by ``answer(request)``, and which remembers what it was sent."""

    def __init__(self, answer: Callable[[Received], Answer]) -> None:
        self.answer = answer
        self.received: list[Received] = []
        self.taken: list[Received] = []
        """Those that were answered with 2xx."""
        target = self

        class Handler(BaseHTTPRequestHandler):
            """Takes one request."""

            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Take it."""
                body = self.rfile.read(int(self.headers["Content-Length"]))
                received = Received(self.path, dict(self.headers.items()), body)
                target.received.append(received)
                status, headers, text = target.answer(received)
                if status < 300:
                    target.taken.append(received)

                self.send_response(status)
                for name, value in {"Content-Length": str(len(text)), **headers}.items():
                    self.send_header(name, value)

                self.end_headers()
                with suppress(BrokenPipeError):  # the client may have read enough
                    self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = LoopbackServer(Handler)
        self.port = self._server.server_port
        self.url = self._server.url
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def values(self) -> list[float]:
        """All values that were taken as JSON lines, in the order in which they were."""
        return [value for received in list(self.taken) for value in received.values]

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextmanager
def running(*servers: MetricsServer) -> Iterator[None]:
    """End servers, whatever happens."""
    try:
        yield
    finally:
        for server in servers:
            server.process.send_signal(signal.SIGCONT)
            server.process.kill()
            server.process.wait(timeout=10)
