"""Several daemons on one Redis, each of them a host, with their callers."""

from collections.abc import Callable
from pathlib import Path

from tests.acceptance.host_worker import Account, Plan
from tests.daemons import Daemon, ask, poll
from tests.workers import Workers

Start = Callable[..., Daemon]
WORKER = "tests.acceptance.host_worker"


class Callers(Workers[Account]):
    """The callers of one host."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(WORKER, Account)
        self.start(plan, 1)

    def account(self) -> Account:
        """Wait for the end of all calls."""
        (account,) = self.results()
        return account


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
