"""The modeled llama.cpp server behind a real engine in virtual time: each way of a workload in a tenth of a second."""

import hashlib
from collections.abc import Callable
from itertools import accumulate, count

from msgspec import Struct

from sidecard.core.settings import BackendSettings
from sidecard_client.protocol import wire
from sidecard_client.protocol.values import BYTES_PER_TOKEN, PREFIX_CHARACTERS
from tests.bench.prefixes.harness import PROCESSES
from tests.bench.prefixes.server_model import Machine, Prompt, Server, Task
from tests.bench.prefixes.virtual_time import VirtualTime
from tests.bench.prefixes.workloads import Script, Workload
from tests.host import Actor, Host, packed

STEP_SECONDS = 0.005
TOKENS_PER_WORD = 1.15
WAIT_SECONDS = 36_000.0


class Modeled(Struct, frozen=True):
    """A workload, served in one way."""

    seconds: float
    processed_tokens: int


def serve(workload: Workload, settings: BackendSettings, machine: Machine, slots: int) -> Modeled:
    """Serve a workload through the engine, with these settings of its backend."""
    return _Served(workload, settings, Server(machine, slots)).run()


class _Served:
    def __init__(self, workload: Workload, settings: BackendSettings, server: Server) -> None:
        self._host = Host(backends={"local": settings}, lease_seconds=WAIT_SECONDS)
        self._server = server
        self._time = VirtualTime(self._host)
        self._answers = count()
        self._computing: dict[int, tuple[Callable[[], None], Callable[[], None]]] = {}
        """By the task's identity: what its first token and its end cause."""
        self._batch_ends = False
        self._processed = 0
        self._began_at = self._host.now
        for place, script in enumerate(workload.scripts):
            actor = self._host.peer(pid=1 + place % PROCESSES)
            self._time.at(self._host.now + place * STEP_SECONDS, self._turns(actor, script))

    def run(self) -> Modeled:
        """Run until every call has its answer."""
        ended_at = self._began_at
        while self._time.goes_on or self._computing:
            for event in self._time.due():
                event()
                ended_at = self._host.now

            self._time.deliver()

        return Modeled(ended_at - self._began_at, self._processed)

    def _turns(self, actor: Actor, script: Script) -> Callable[[], None]:
        """Return what lets one script make its next call."""
        left = list(script.turns)
        prompt: Prompt = (_segment(script.system),)

        def go_on() -> None:
            nonlocal prompt
            if not left:
                return

            prompt = (*prompt, _segment(left.pop(0)))
            self._want(actor, Task(prompt, f"answer {next(self._answers)}", script.answer_tokens), answered)

        def answered(task: Task) -> None:
            nonlocal prompt
            prompt = (*prompt, (task.answer, task.answer_tokens))
            go_on()

        return go_on

    def _want(self, actor: Actor, task: Task, then: Callable[[Task], None]) -> None:
        def send(lease: wire.Lease) -> None:
            began_at = self._host.now
            first_at = began_at

            def first() -> None:
                nonlocal first_at
                first_at = self._host.now
                if lease.prefix:
                    actor.asks(wire.Started(lease.lease))

            def end() -> None:
                self._processed += task.processed
                tokens = sum(count for _, count in task.prompt)
                usage = wire.Usage(
                    model="m",
                    prompt_tokens=tokens,
                    cached_prompt_tokens=tokens - task.processed,
                    completion_tokens=task.answer_tokens,
                    first_chunk_seconds=first_at - began_at,
                )
                actor.asks(wire.Complete(lease.lease, packed(task.answer), id=2, usage=usage))
                then(task)

            self._computing[id(task)] = first, end
            self._server.add(task)
            self._compute()

        digests = accumulate((name for name, _ in task.prompt), _digest, initial="")
        lengths = accumulate(tokens * BYTES_PER_TOKEN for _, tokens in task.prompt)
        prefix, prefix_bytes = tuple(digests)[1:][-16:], tuple(lengths)[-16:]
        begin = wire.Begin(
            None, id=1, backends=("local",), wait_seconds=WAIT_SECONDS, prefix=prefix, prefix_bytes=prefix_bytes
        )
        self._time.begin(actor, begin, send)

    def _compute(self) -> None:
        """Let the server compute its next batch, if it computes none."""
        if self._batch_ends or (batch := self._server.step()) is None:
            return

        seconds, first, ended = batch

        def end_of_batch() -> None:
            self._batch_ends = False
            for task in first:
                self._computing[id(task)][0]()

            for task in ended:
                self._computing.pop(id(task))[1]()

            self._compute()

        self._batch_ends = True
        self._time.at(self._host.now + seconds, end_of_batch)


def _segment(text: str) -> tuple[str, int]:
    return text, round(len(text.split()) * TOKENS_PER_WORD)


def _digest(before: str, name: str) -> str:
    return hashlib.sha256(f"{before} {name}".encode()).hexdigest()[:PREFIX_CHARACTERS]
