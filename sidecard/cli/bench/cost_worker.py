"""A worker process of the bench of cost: takes a `Shift` as JSON, makes its calls, and prints a `Day` as JSON.

``python -m sidecard.cli.bench.cost_worker SHIFT``
"""

import sys
import threading
from time import perf_counter, sleep

import msgspec
from msgspec import Struct

from sidecard_client import CallRejected, Client
from sidecard_client.protocol.wire import Usage

LOCAL_SECONDS = 0.02
CLOUD_SECONDS = 0.012
"""How long an answer takes: about a tenth of what small models take, so that the bench takes seconds."""

PROMPT_TOKENS = 1000
COMPLETION_TOKENS = 250


class Ask(Struct, frozen=True):
    """One call: a prompt, and whether only the dear model can answer it."""

    prompt: str
    hard: bool


class Shift(Struct, frozen=True):
    """What one worker asks, each of its threads its own part. An empty ``socket``: without a daemon, always remote."""

    socket: str
    parts: list[list[Ask]]
    overflow: bool = True
    """Whether easy calls may go to the dear backend while the free one is full; else they wait for it."""


class Day(Struct, frozen=True):
    """How it went: the seconds of each call, and what the backends were asked."""

    seconds: list[float]
    cloud_calls: int
    local_calls: int
    rejected: int


class Worker:
    """Two models, and the calls of one shift."""

    def __init__(self, shift: Shift) -> None:
        self._shift = shift
        self._lock = threading.Lock()
        self._calls = {"local": 0, "cloud": 0}
        self._rejected = 0
        self._seconds: list[float] = []

    def local(self, prompt: str) -> str:
        """Stand for a small model on this host: free and slower."""
        return self._answer("local", prompt, LOCAL_SECONDS)

    def cloud(self, prompt: str) -> str:
        """Stand for a large one elsewhere."""
        return self._answer("cloud", prompt, CLOUD_SECONDS)

    def _answer(self, backend: str, prompt: str, seconds: float) -> str:
        with self._lock:
            self._calls[backend] += 1

        sleep(seconds)
        return f"{backend}: {prompt}"

    def work(self) -> Day:
        """Make all calls."""
        client = Client(self._shift.socket) if self._shift.socket else None
        threads = [threading.Thread(target=self._part, args=(client, part)) for part in self._shift.parts]
        for thread in threads:
            thread.start()

        for thread in threads:
            thread.join()

        if client is not None:
            client.close()

        return Day(self._seconds, self._calls["cloud"], self._calls["local"], self._rejected)

    def _part(self, client: Client | None, asks: list[Ask]) -> None:
        for ask in asks:
            began = perf_counter()
            try:
                self._call(client, ask)
            except CallRejected:
                with self._lock:
                    self._rejected += 1

            with self._lock:
                self._seconds.append(perf_counter() - began)

    def _call(self, client: Client | None, ask: Ask) -> None:
        if client is None:
            self.cloud(ask.prompt)
        elif ask.hard:
            client.call(self.cloud, ask.prompt, backend="cloud", task="hard", usage=_usage)
        elif self._shift.overflow:
            backends = {"cloud": self.cloud, "local": self.local}
            client.call(backends, ask.prompt, route="cheapest", task="easy", usage=_usage)
        else:
            client.call(self.local, ask.prompt, backend="local", task="easy", usage=_usage)


def _usage(_: str) -> Usage:
    return Usage(model="m", prompt_tokens=PROMPT_TOKENS, completion_tokens=COMPLETION_TOKENS)


if __name__ == "__main__":
    day = Worker(msgspec.json.decode(sys.argv[1], type=Shift)).work()
    sys.stdout.write(msgspec.json.encode(day).decode())
