"""One process of an application: ``python -m tests.bench.prefixes.worker ASSIGNMENT`` (JSON), and prints `Made` (JSON).

Each script has a thread. When a line arrives on standard input, all begin one after another, in the order of the whole workload.
"""

import sys
import threading
from time import monotonic, sleep
from typing import Any

import httpx
import msgspec
from msgspec import Struct

from sidecard.errors import SidecardError
from sidecard_client import Client
from sidecard_client.http import SidecardTransport
from tests.bench.prefixes.workloads import Script

SECONDS = 900.0
"""No call takes longer, whatever else the machine does."""

DAEMON_SECONDS = 60.0

BACKEND = "local"

STEP_SECONDS = 0.005
"""Between the starts of two scripts: longer than a request needs to arrive, so that the order is the same in each run."""


class Assignment(Struct, frozen=True):
    """One process's scripts. With an empty ``socket`` the server is asked without sidecard."""

    url: str
    socket: str
    scripts: tuple[Script, ...]
    places: tuple[int, ...]
    """Of each script among those of all processes."""


class Made(Struct, frozen=True):
    """One call: when it was wanted and when its answer was there, and what the server has reported."""

    wanted_at: float
    answered_at: float
    cached_tokens: int
    processed_tokens: int
    completion_tokens: int


class Worker:
    """Makes the calls of one assignment."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._made: list[Made] = []
        self._failures: list[BaseException] = []

    def work(self) -> list[Made]:
        """Make all calls. Raises what the first failed one has raised."""
        with self._client() as http_client:
            threads = [
                threading.Thread(target=self._run, args=(http_client, script, place * STEP_SECONDS))
                for script, place in zip(self._assignment.scripts, self._assignment.places, strict=True)
            ]
            print("ready", flush=True)
            sys.stdin.readline()
            for thread in threads:
                thread.start()

            for thread in threads:
                thread.join()

        if self._failures:
            raise self._failures[0]

        return self._made

    def _client(self) -> httpx.Client:
        transport: Any = httpx.HTTPTransport()
        if self._assignment.socket:
            # Patient: the model occupies every processor, and a call without the daemon would measure something else.
            sidecard = Client(self._assignment.socket, daemon_timeout=DAEMON_SECONDS)
            transport = SidecardTransport(transport, sidecard, backend=BACKEND, wait=SECONDS)

        return httpx.Client(transport=transport, base_url=self._assignment.url, timeout=SECONDS)

    def _run(self, http_client: httpx.Client, script: Script, delay_seconds: float) -> None:
        sleep(delay_seconds)
        messages = [{"role": "system", "content": script.system}]
        try:
            for turn in script.turns:
                messages.append({"role": "user", "content": turn})
                text = self._ask(http_client, messages, script.answer_tokens)
                messages.append({"role": "assistant", "content": text})
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            self._failures.append(error)

    def _ask(self, http_client: httpx.Client, messages: list[dict[str, str]], answer_tokens: int) -> str:
        # Answers of equal length in all ways of scheduling, whatever the model says.
        body = {"model": "m", "messages": messages, "max_tokens": answer_tokens, "temperature": 0, "ignore_eos": True}
        wanted_at = monotonic()
        response = http_client.post("/v1/chat/completions", json=body)
        answered_at = monotonic()
        source = response.headers.get("x-sidecard-source", "upstream")
        if response.status_code != httpx.codes.OK or source != "upstream":
            raise SidecardError(f"a call was answered {response.status_code} from {source}: {response.text[:500]}")

        answer = response.json()
        timings = answer["timings"]
        made = Made(wanted_at, answered_at, timings["cache_n"], timings["prompt_n"], timings["predicted_n"])
        self._made.append(made)
        text: str = answer["choices"][0]["message"]["content"]
        return text


if __name__ == "__main__":
    made = Worker(msgspec.json.decode(sys.argv[1], type=Assignment)).work()
    sys.stdout.write(msgspec.json.encode(made).decode())
