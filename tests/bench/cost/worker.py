"""Worker process of the cost bench: makes the calls of one `Assignment` (JSON argument) and prints a `Result` (JSON).

``python -m tests.bench.cost.worker ASSIGNMENT``
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
"""Duration of an answer: about a tenth of a small model's, so that the bench takes seconds."""

PROMPT_TOKENS = 1000
COMPLETION_TOKENS = 250


class Prompt(Struct, frozen=True):
    """One prompt; if ``hard``, only the expensive model can answer it."""

    text: str
    hard: bool


class Assignment(Struct, frozen=True):
    """One worker's calls, one list per thread. With an empty ``socket`` there is no daemon and each call is remote."""

    socket: str
    parts: list[list[Prompt]]
    overflow: bool = True
    """Whether easy calls may use the expensive backend while the free one is full; otherwise they wait."""


class Result(Struct, frozen=True):
    """Seconds of each call, and the number of calls per backend."""

    seconds: list[float]
    cloud_calls: int
    local_calls: int
    rejected: int


class Worker:
    """Run one assignment against two simulated models."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._lock = threading.Lock()
        self._calls = {"local": 0, "cloud": 0}
        self._rejected = 0
        self._seconds: list[float] = []

    def local(self, prompt: str) -> str:
        """Simulate a small model on this host: free and slower."""
        return self._answer("local", prompt, LOCAL_SECONDS)

    def cloud(self, prompt: str) -> str:
        """Simulate a large remote model: expensive and faster."""
        return self._answer("cloud", prompt, CLOUD_SECONDS)

    def _answer(self, backend: str, prompt: str, seconds: float) -> str:
        with self._lock:
            self._calls[backend] += 1

        sleep(seconds)
        return f"{backend}: {prompt}"

    def work(self) -> Result:
        """Make all calls and return the result."""
        client = Client(self._assignment.socket) if self._assignment.socket else None
        threads = [threading.Thread(target=self._run_thread, args=(client, part)) for part in self._assignment.parts]
        for thread in threads:
            thread.start()

        for thread in threads:
            thread.join()

        if client is not None:
            client.close()

        return Result(self._seconds, self._calls["cloud"], self._calls["local"], self._rejected)

    def _run_thread(self, client: Client | None, prompts: list[Prompt]) -> None:
        for prompt in prompts:
            began = perf_counter()
            try:
                self._call(client, prompt)
            except CallRejected:
                with self._lock:
                    self._rejected += 1

            with self._lock:
                self._seconds.append(perf_counter() - began)

    def _call(self, client: Client | None, prompt: Prompt) -> None:
        if client is None:
            self.cloud(prompt.text)
        elif prompt.hard:
            client.call(self.cloud, prompt.text, backend="cloud", task="hard", usage=_usage)
        elif self._assignment.overflow:
            backends = {"cloud": self.cloud, "local": self.local}
            client.call(backends, prompt.text, route="cheapest", task="easy", usage=_usage)
        else:
            client.call(self.local, prompt.text, backend="local", task="easy", usage=_usage)


def _usage(_: str) -> Usage:
    return Usage(model="m", prompt_tokens=PROMPT_TOKENS, completion_tokens=COMPLETION_TOKENS)


if __name__ == "__main__":
    result = Worker(msgspec.json.decode(sys.argv[1], type=Assignment)).work()
    sys.stdout.write(msgspec.json.encode(result).decode())
