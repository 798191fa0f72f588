"""Several daemons on one Redis, each of them a host, with their callers."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.acceptance.host_worker import Account, Plan
from tests.daemons import Daemon, ask, poll

Start = Callable[..., Daemon]


class Callers:
    """The callers of one host."""

    def __init__(self, plan: Plan) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.host_worker", msgspec.json.encode(plan).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def go(self) -> None:
        """Let them call."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def account(self) -> Account:
        """Wait for the end of all calls."""
        assert self.process.stdout is not None
        line = self.process.stdout.read()
        self.process.wait(timeout=20)
        return msgspec.json.decode(line, type=Account)

    def close(self) -> None:
        """End it whatever its state."""
        self.process.kill()
        self.process.wait(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def hosts(start: Start, count: int, url: str, **environ: str) -> list[Daemon]:
    """Start daemons on one store, and wait until each has it."""
    daemons = [start("--no-state", SIDECARD_STORE_URL=url, **environ) for _ in range(count)]
    for one in daemons:
        poll(lambda one=one: stat(one, "store") == "up", "the store does not come up")  # type: ignore[misc]  # bound now

    return daemons


def stat(daemon: Daemon, name: str) -> object:
    """Return one number of a daemon."""
    return ask(daemon.socket, {"op": "stats"})[name]


def reasons(daemon: Daemon) -> str:
    """Return what a daemon says is not fine."""
    said = ask(daemon.socket, {"op": "health"})["reasons"]
    assert isinstance(said, list)
    return " ".join(map(str, said))


def calls_in(ledger: Path) -> list[str]:
    """Return the keys of the calls that reached the upstream."""
    return ledger.read_text().split() if ledger.exists() else []
