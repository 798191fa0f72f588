"""Attacks that make a daemon, or another process' client, wrong rather than slow: ``python -m tests.bench.bystanders --outcomes``.

Each check returns what is wrong, or nothing.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.bench.bystanders.attack import Attack, Connection
from tests.bench.bystanders.served import environ_of, serving

LARGEST = 2**53
SCRIPT_SECONDS = 60.0

Check = Callable[[Path, Path], str]
"""Takes a source tree and the directory of a running daemon."""

OUTCOMES: dict[str, tuple[Check, tuple[str, ...]]] = {}


def outcome(name: str, *settings: str) -> Callable[[Check], Check]:
    """Register a check of a daemon with these settings."""

    def register(check: Check) -> Check:
        OUTCOMES[name] = check, settings
        return check

    return register


def check_all(tree: Path, beginning: str = "") -> dict[str, str]:
    """Run the checks whose names begin so, and return what each has found wrong."""
    found = {}
    for name, (check, settings) in OUTCOMES.items():
        if not name.startswith(beginning):
            continue

        with tempfile.TemporaryDirectory(prefix="by-", dir="/tmp") as text:
            directory = Path(text)
            fake = Attack(name, name, lambda _target: None, settings=settings)
            with serving(tree, directory, 0, fake, quiet=False):
                try:
                    found[name] = check(tree, directory)
                except (OSError, AssertionError, subprocess.TimeoutExpired) as error:
                    found[name] = f"{error!r}"[:300]

    return found


def _connect(directory: Path) -> Connection:
    return Connection(str(directory / "s"))


def _complete(connection: Connection, **usage: Any) -> None:
    lease = connection.lease(None, backends=["paid"])
    reply = connection.ask(op="complete", lease=lease, value=1, usage=usage)
    assert reply["type"] == "stored", reply


def _script(tree: Path, directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", text, str(directory / "s")],
        env=environ_of(tree), capture_output=True, text=True, check=False, timeout=SCRIPT_SECONDS,
    )  # fmt: skip


@outcome("one dear answer does not exhaust later periods of a budget", "budgets.day.dollars=10", "budgets.day.period_seconds=2", "budgets.day.hard=true")  # fmt: skip
def _budget(_: Path, directory: Path) -> str:
    connection = _connect(directory)
    _complete(connection, cost_dollars=300.0)
    time.sleep(4.5)
    replies = [connection.ask(op="begin", key=None, backends=["paid"]) for _repetition in range(3)]
    return "" if replies[0]["type"] == "lease" else f"two periods later: {replies}"


@outcome("the largest numbers of usage and metrics leave `report` and `metrics` intact")
def _sums(_: Path, directory: Path) -> str:
    connection = _connect(directory)
    for _repetition in range(2100):
        lease = connection.lease(None)
        connection.ask(
            op="complete", lease=lease, value=1, usage={"prompt_tokens": LARGEST, "completion_tokens": LARGEST}
        )

    bounds = {"bounds": [1.0], "counts": [LARGEST, LARGEST]}
    for _repetition in range(5):
        metrics = [
            {"name": "h", "kind": "histogram", "value": 1e308, **bounds},
            {"name": "c", "kind": "counter", "value": 1e308},
        ]
        connection.ask(op="record", acknowledge=True, metrics=metrics)

    replies = [connection.ask(op=op)["type"] for op in ("report", "stats", "metrics", "health")]
    return "" if replies == ["report", "stats", "metrics", "health"] else f"replies: {replies}"


NESTED = """
import sys, threading
from sidecard_client import Client
sys.setrecursionlimit(1000)
def deep(level, client):
    return deep(level - 1, client) if level else client.get("nested", "none")
with Client(sys.argv[1]) as client:
    client.put("flat", 1)
    found = []
    thread = threading.Thread(target=lambda: found.append(deep(600, client)))
    thread.start(); thread.join()
    assert found, "the reader failed"
    assert client.outcome(lambda: 1, key="flat", name="flat").source != "fallback", "the daemon counts as unreachable"
    assert client.get("flat") == 1
"""


@outcome("a value nested 900 deep harms no reader")
def _nesting(tree: Path, directory: Path) -> str:
    connection = _connect(directory)
    value: Any = 1
    for _repetition in range(900):
        value = [value]

    with suppress(OSError):
        connection.ask(op="put", key="nested", value=value)

    done = _script(tree, directory, NESTED)
    return done.stderr.strip().splitlines()[-1][:200] if done.returncode else ""


@outcome("a call that hangs in a live process ends, and `health` names it", "flights.max_call_seconds=2")
def _hung(_: Path, directory: Path) -> str:
    holder, waiter = _connect(directory), _connect(directory)
    lease = holder.lease("hung")
    waiter.send({"op": "begin", "key": "hung", "id": 1})
    assert waiter.receive()["type"] == "pending"
    until = time.monotonic() + 6
    waiter.socket.settimeout(0.5)
    while time.monotonic() < until:
        holder.ask(op="renew", lease=lease)
        with suppress(TimeoutError):
            reply = waiter.receive()
            return "" if reply["type"] == "lease" else f"{reply}"

    return "the waiter still waits, though the call takes longer than it may"


DROPPED = """
import gc, os, sys, threading, time
from sidecard_client import Client
def use():
    client = Client(sys.argv[1])
    client.counter("n").inc()
    client.call(lambda: 1, key="k", name="k") if False else client.get("k")
use(); gc.collect(); time.sleep(1.5)
threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
for _ in range(20):
    use()
gc.collect(); time.sleep(2.5); gc.collect()
assert threading.active_count() <= threads, f"{threading.active_count() - threads} threads are left"
assert len(os.listdir("/proc/self/fd")) <= files, "descriptors are left"
"""


@outcome("clients dropped without close() leave no thread or descriptor")
def _dropped(tree: Path, directory: Path) -> str:
    done = _script(tree, directory, DROPPED)
    return done.stderr.strip().splitlines()[-1][:200] if done.returncode else ""


TIMEOUTS = """
import math, sys
from sidecard_client import Client
for seconds in (math.inf, math.nan, 1e10, -1.0, 0.0):
    try:
        client = Client(sys.argv[1], daemon_timeout=seconds)
    except ValueError:
        continue
    client.get("k")
    sys.exit(f"daemon_timeout={seconds} is accepted")
"""


@outcome("impossible timeouts are rejected by the client's constructor")
def _timeouts(tree: Path, directory: Path) -> str:
    done = _script(tree, directory, TIMEOUTS)
    return done.stderr.strip().splitlines()[-1][:200] if done.returncode else ""


@outcome("names with terminal escapes reach no terminal", "log.format=console", "log.level=debug")
def _escapes(tree: Path, directory: Path) -> str:
    connection = _connect(directory)
    name = "evil\x1b[2J\x1b]0;title\x07\x9b"
    for _repetition in range(3):
        lease = connection.lease(name, task=name, backends=[name])
        connection.ask(op="fail", lease=lease, kind="fatal", message=name)

    metrics = [{"name": "m", "kind": "counter", "value": 1, "labels": {"l": name}}]
    connection.ask(op="record", acknowledge=True, metrics=metrics)
    time.sleep(0.5)
    texts = {"log": (directory / "log").read_text()}
    for command in ("metrics", "report", "stats", "breakers"):
        shown = subprocess.run(
            [sys.executable, "-m", "sidecard", command, "--socket", str(directory / "s")],
            env=environ_of(tree) | {"NO_COLOR": "1", "TERM": "dumb"}, capture_output=True, text=True, check=False, timeout=SCRIPT_SECONDS,
        )  # fmt: skip
        texts[command] = shown.stdout + shown.stderr

    found = [where for where, text in texts.items() if "\x1b]0" in text or "\x1b[2J" in text or "\x9b" in text]
    return f"escapes in: {', '.join(found)}" if found else ""


@outcome("names that are never used again leave all tables", "limits.max_backends=64")
def _names(_: Path, directory: Path) -> str:
    connection = _connect(directory)
    for number in range(300):
        reply = connection.ask(op="begin", key=None, backends=[f"gone{number}"])
        if reply["type"] == "lease":
            connection.ask(op="fail", lease=reply["lease"], retry_after_seconds=1)

    other = _connect(directory)
    time.sleep(1.5)
    lease = other.lease(None, backends=["mine"])
    other.ask(op="fail", lease=lease, retry_after_seconds=100)
    reply = other.ask(op="begin", key=None, backends=["another"])
    return (
        ""
        if reply["type"] == "lease"
        else f"a new backend shares a breaker with others: {reply['type']}, {reply.get('reason')}"
    )
