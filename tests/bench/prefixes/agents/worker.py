"""One process with some of the workers: ``python -m tests.bench.prefixes.agents.worker ASSIGNMENT`` (JSON), prints `Streamed` (JSON).

Each worker is a thread that makes its turns one after another, as streams of Anthropic's API. All begin when a line arrives on
standard input.
"""

import json
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
from sidecard_client.protocol.values import BYTES_PER_TOKEN
from tests.bench.prefixes.agents.provider import BURST_SECONDS, Turn, is_first

SECONDS = 120.0
BACKEND = "cloud"
MODEL = "claude-opus-5"
MARK = {"cache_control": {"type": "ephemeral"}}


class AgentAssignment(Struct, frozen=True):
    """The turns of each worker of the process. Times of the turns are divided by ``scale``."""

    url: str
    socket: str
    work: list[list[Turn]]
    scale: float


class Streamed(Struct, frozen=True):
    """One call: when it was wanted and when its first output arrived, in the provider's time, and its usage."""

    wanted_at: float
    first_output_at: float
    turn: Turn
    read_tokens: int
    written_tokens: int
    plain_tokens: int
    output_tokens: int


def body_of(turn: Turn) -> dict[str, Any]:
    """Return the request of a turn, marked as an agent marks it: after the instructions and at the end."""
    ends = [tokens * BYTES_PER_TOKEN for tokens in turn.tokens]
    texts = [_text(digest, end - start) for digest, start, end in zip(turn.prefix, [0, *ends], ends, strict=False)]
    messages: list[dict[str, Any]] = []
    for text in texts[1:]:
        messages += [_message("user", text), _message("assistant", "done")]

    messages.pop()
    messages[-1]["content"][0] |= MARK
    system = [{"type": "text", "text": texts[0], **MARK}]
    return {
        "model": MODEL, "max_tokens": turn.output_tokens, "stream": True, "system": system, "messages": messages
    }  # fmt: skip


def _message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _text(name: str, length: int) -> str:
    line = f"{name} "
    return (line * (length // len(line) + 1))[:length]


class AgentWorker:
    """Makes the calls of one assignment."""

    def __init__(self, assignment: AgentAssignment) -> None:
        self._assignment = assignment
        self._scale = assignment.scale
        self._made: list[Streamed] = []
        self._failures: list[BaseException] = []

    def work(self) -> list[Streamed]:
        """Make all calls. Raises what the first failed one has raised."""
        transport = SidecardTransport(
            httpx.HTTPTransport(), Client(self._assignment.socket, daemon_timeout=SECONDS), backend=BACKEND
        )
        headers = {"x-api-key": "key", "anthropic-version": "2023-06-01"}
        with httpx.Client(
            transport=transport, base_url=self._assignment.url, timeout=SECONDS, headers=headers
        ) as http_client:
            print("ready", flush=True)
            sys.stdin.readline()
            began_at = monotonic()
            threads = [
                threading.Thread(target=self._run, args=(http_client, turns, began_at))
                for turns in self._assignment.work
            ]
            for thread in threads:
                thread.start()

            for thread in threads:
                thread.join()

        if self._failures:
            raise self._failures[0]

        return self._made

    def _run(self, http_client: httpx.Client, turns: list[Turn], began_at: float) -> None:
        bursts = 0
        try:
            for turn in turns:
                wanted_at = monotonic() + turn.pause_seconds / self._scale
                if is_first(turn):
                    wanted_at = began_at + (bursts * BURST_SECONDS + turn.pause_seconds) / self._scale
                    bursts += 1

                sleep(max(0.0, wanted_at - monotonic()))
                self._ask(http_client, turn)
        except BaseException as error:  # noqa: BLE001 - raised in the main thread
            self._failures.append(error)

    def _ask(self, http_client: httpx.Client, turn: Turn) -> None:
        body = body_of(turn)
        wanted_at, first_output_at, data = monotonic(), 0.0, b""
        with http_client.stream("POST", "/v1/messages", json=body) as response:
            source = response.headers.get("x-sidecard-source")
            if response.status_code != httpx.codes.OK or source != "upstream":
                raise SidecardError(
                    f"a call was answered {response.status_code} from {source}: {response.read()[:500]!r}"
                )

            for piece in response.iter_raw():
                first_output_at = first_output_at or monotonic()
                data += piece

        events = [json.loads(line[5:]) for line in data.decode().splitlines() if line.startswith("data:")]
        usage = events[0]["message"]["usage"] | events[-2]["usage"]
        self._made.append(
            Streamed(
                wanted_at * self._scale,
                first_output_at * self._scale,
                turn,
                usage["cache_read_input_tokens"],
                usage["cache_creation_input_tokens"],
                usage["input_tokens"],
                usage["output_tokens"],
            )
        )


if __name__ == "__main__":
    made = AgentWorker(msgspec.json.decode(sys.argv[1], type=AgentAssignment)).work()
    sys.stdout.write(msgspec.json.encode(made).decode())
