"""Clients and daemons of 0.1.0 and of this version understand each other.

0.1.0 is exported from git and run as subprocesses; without its commit (a shallow clone) there is nothing to compare with.
"""

import io
import json
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

from tests.daemons import Daemon, ask, poll

REPOSITORY = Path(__file__).parents[2]
COMMIT_OF_0_1_0 = "0e42e99e15a056f6d85c74146406075126055558"
WORKER = Path(__file__).with_name("version_worker.py")

Start = Callable[..., Daemon]


class Version(NamedTuple):
    """Where the code of one version is."""

    name: str
    root: Path

    @property
    def environ(self) -> dict[str, str]:
        """Variables with which a Python process imports this version, whatever its working directory."""
        return {"PYTHONPATH": f"{self.root / 'client'}:{self.root}", "PYTHONSAFEPATH": "1"}


NEW = Version("new", REPOSITORY)


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Version:
    """Export 0.1.0."""
    command = ["git", "-C", str(REPOSITORY), "archive", COMMIT_OF_0_1_0, "client", "sidecard"]
    try:
        exported = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("git is not installed, so 0.1.0 cannot be exported")

    if exported.returncode:
        pytest.skip(f"the history has no commit of 0.1.0: {exported.stderr.decode().strip()}")

    root = tmp_path_factory.mktemp("0.1.0")
    with tarfile.open(fileobj=io.BytesIO(exported.stdout)) as archive:
        archive.extractall(root, filter="data")

    return Version("0.1.0", root)


@pytest.fixture(params=["old client, new daemon", "new client, old daemon"])
def pair(request: pytest.FixtureRequest, old: Version) -> tuple[Version, Version]:
    """Return the versions of client and daemon."""
    return (old, NEW) if request.param.startswith("old") else (NEW, old)


class Worker:
    """A process of `version_worker`, with the client of one version."""

    def __init__(self, version: Version, path: str, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), path, *arguments],
            env={name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
            | version.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> object:
        """Return the next value that it shows."""
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())

    def go_on(self) -> None:
        """Send the line that a holder waits for."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def rest(self) -> list[object]:
        """Return all further values, after its end."""
        output, _ = self._process.communicate(timeout=30)
        assert self._process.returncode == 0
        return [json.loads(line) for line in output.splitlines()]

    def end(self) -> None:
        """End it whatever its state."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def worker() -> Iterator[Callable[..., Worker]]:
    """Start workers, which end with the test."""
    started: list[Worker] = []

    def start(*arguments: object) -> Worker:
        started.append(Worker(*arguments))  # type: ignore[arg-type]  # those of `Worker`
        return started[-1]

    yield start
    for one in started:
        one.end()


def test_one_client_uses_everything(
    pair: tuple[Version, Version], daemon: Start, worker: Callable[..., Worker]
) -> None:
    """Ping, miss, hit, streams, entries, metrics, state: each returns what it does within one version."""
    client, server = pair
    path = daemon("--no-state", **server.environ).socket
    assert worker(client, path, "alone").rest() == [
        str(client.root / "client" / "sidecard_client"),
        1,
        ["upstream", "cache", "answer to a"],
        [["x", "y", "z"], "upstream"],
        [["x", "y", "z"], "cache"],
        [True, True],
        [1, 0, None],
        [1, None],
        [True, "ok", False, True],
        ["closed", True],
    ]
    families = ask(path, {"op": "metrics"})["families"]
    assert isinstance(families, list)
    assert next(one["samples"][0]["value"] for one in families if one["name"] == "documents") == 3.0
    assert worker(client, path, "batch").rest() == [
        {"1": "pong", "2": "stored", "3": "hit", "4": "hit", "5": "recorded", "6": "lease"},
        "v",
    ]
    assert worker(client, path, "async").rest() == [["answer to c0", "answer to c1"]]
    assert origin_of_daemon(server) == str(server.root / "sidecard" / "__init__.py")


def test_computed_keys_of_the_other_version_are_missed_once(
    old: Version, pair: tuple[Version, Version], daemon: Start, worker: Callable[..., Worker]
) -> None:
    """The recipe has another version: no call gets an answer that another recipe stored."""
    client, server = pair
    path = daemon("--no-state", **server.environ).socket
    for version in (client, NEW if client is old else old):
        assert worker(version, path, "alone").rest()[2] == ["upstream", "cache", "answer to a"]


def test_limits_of_age_hold_with_an_old_daemon(old: Version, daemon: Start, worker: Callable[..., Worker]) -> None:
    """The daemon of 0.1.0 knows neither ``max_age`` nor invalid answers: its client sees to both."""
    path = daemon("--no-state", **old.environ).socket
    assert worker(NEW, path, "fresh").rest() == [
        [[1, "upstream"], [1, "cache"], [2, "upstream"], [2, "cache"], [3, "upstream"], [3, "cache"]],
        [[4, "upstream"], [3, "cache"], 5],
    ]


def test_limits_of_age_hold_for_an_old_client(old: Version, daemon: Start, worker: Callable[..., Worker]) -> None:
    """The daemon applies ``ttl`` to every answer of a caller that sends it."""
    path = daemon("--no-state", **NEW.environ).socket
    assert worker(old, path, "bounded").rest() == [["upstream", "upstream", "cache"]]
    assert worker(NEW, path, "fresh").rest()[0][0] == [1, "upstream"]  # type: ignore[index]  # a JSON list


def origin_of_daemon(version: Version) -> str:
    """Return what the daemon's processes import as ``sidecard``."""
    command = [sys.executable, "-c", "import sidecard; print(sidecard.__file__)"]
    return subprocess.run(
        command, env=os.environ | version.environ, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("failure", ["", "the holder's backend is down"])
def test_a_waiter_shares_or_replaces_a_holder_of_the_other_version(
    old: Version, pair: tuple[Version, Version], failure: str, daemon: Start, worker: Callable[..., Worker]
) -> None:
    """A key that the app gives means the same in both versions; a holder that fails transiently is replaced by its waiter."""
    client, server = pair
    other = NEW if client is old else old
    path = daemon("--no-state", **server.environ).socket
    holder = worker(client, path, "hold", failure)
    assert holder.line() == "running"
    waiter = worker(other, path, "wait")
    poll(lambda: ask(path, {"op": "stats"})["waiters"] == 1, "the waiter did not join the holder's flight")
    holder.go_on()
    assert waiter.line() == (["the waiter's", "upstream"] if failure else ["the holder's", "shared"])
    assert holder.rest() == [failure or "upstream"]


def test_fatal_failure_of_an_old_holder_concerns_callers_without_a_context(
    old: Version, daemon: Start, worker: Callable[..., Worker]
) -> None:
    """Old clients share the failure; a caller whose request has parts outside the key is elected."""
    path = daemon("--no-state", **NEW.environ).socket
    holder = worker(old, path, "hold", "fatal: a wrong model")
    assert holder.line() == "running"
    waiter = worker(old, path, "wait")
    with JsonPeer(path) as newer:
        newer.send(op="begin", key="shared", context="flex tier", wanted=True, id=1)
        assert newer.receive()["type"] == "pending"
        poll(lambda: ask(path, {"op": "stats"})["waiters"] == 2, "the callers did not join the holder's flight")
        holder.go_on()
        assert "fatal" in str(waiter.line())
        assert newer.receive()["type"] == "lease"

    assert holder.rest() == ["fatal: a wrong model"]


def test_old_holder_is_not_notified_of_waiters(old: Version, daemon: Start, worker: Callable[..., Worker]) -> None:
    """An old holder gets no `Wanted`: it would close its connection and lose its lease."""
    path = daemon("--no-state", **NEW.environ).socket
    holder = worker(old, path, "hold")
    assert holder.line() == "running"
    with JsonPeer(path) as newer:
        newer.send(op="begin", key="shared", wanted=True, id=1)
        assert newer.receive()["type"] == "pending"
        holder.go_on()
        shared = newer.receive()
        assert (shared["type"], shared["value"]) == ("shared", "the holder's")

    assert holder.rest() == ["upstream"]


def test_old_daemon_ignores_what_it_does_not_know(old: Version, daemon: Start) -> None:
    """One conversation sends every new field of a request."""
    path = daemon("--no-state", **old.environ).socket
    with JsonPeer(path) as newer:
        prefix = {"has_prefix": True, "prefix": ["0" * 32], "prefix_bytes": [9000]}
        newer.send(op="begin", key="k", context="flex tier", wanted=True, id=1, **prefix)
        lease = newer.receive()
        assert lease["type"] == "lease"
        newer.send(op="fail", lease=lease["lease"], kind="fatal", detail={"status": 400}, status=400, id=2)
        assert newer.receive()["type"] == "ok"
        newer.send(op="begin", key="k", id=3)
        lease = newer.receive()
        newer.send(op="complete", lease=lease["lease"], value="v", store=False, not_stored="length", id=4)
        assert newer.receive() == {"type": "stored", "id": 4, "stored": False}
        newer.send(op="record", passed=[{"reason": "state", "family": "ollama"}], acknowledge=True, id=5)
        assert newer.receive()["type"] == "recorded"


def test_old_client_is_not_asked_for_prefixes(old: Version, daemon: Start, worker: Callable[..., Worker]) -> None:
    """Its calls are made on a backend that schedules by them as if it did not; a new client's carry them."""
    affinity = ("--set", "backends.default.prefix_affinity=provider")
    path = daemon("--no-state", *affinity, **NEW.environ).socket
    assert worker(old, path, "prefixed").rest() == [["upstream", "cache"]]
    assert ask(path, {"op": "stats"})["prefixes_wanted"] == 0
    assert worker(NEW, path, "prefixed", "prefix").rest() == [["upstream", "cache"]]
    assert ask(path, {"op": "stats"})["prefixes_wanted"] == 1


class JsonPeer:
    """A connection that speaks JSON lines."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(path)
        self._lines = self._socket.makefile("r")

    def __enter__(self) -> Self:
        """Use it in a block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the connection."""
        self._lines.close()
        self._socket.close()

    def send(self, **request: object) -> None:
        """Send a request."""
        self._socket.sendall(json.dumps(request).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        """Return the next reply."""
        reply: dict[str, Any] = json.loads(self._lines.readline())
        return reply
