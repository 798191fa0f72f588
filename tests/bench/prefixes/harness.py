"""Run workloads in every way, each with a model server and a daemon of its own, so that every cache is cold at the start."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from time import monotonic

import msgspec
from msgspec import Struct

from sidecard.cli.processes import Processes
from sidecard.errors import SidecardError
from tests.bench.prefixes.ways import SLOTS, Way
from tests.bench.prefixes.worker import Assignment, Made
from tests.bench.prefixes.workloads import Workload

PROCESSES = 3


class Run(Struct, frozen=True):
    """One workload, once, in one way."""

    workload: str
    way: str
    seconds: float
    """From the start of all scripts to the last answer."""
    median_seconds: float
    """Of a call, with its waiting."""
    processed_tokens: int
    cached_tokens: int
    completion_tokens: int


class Model(Struct, frozen=True):
    """The model server of a run."""

    file: Path
    threads: int
    slots: int = SLOTS


def run(model: Model, workload: Workload, way: Way) -> Run:
    """Run it. Raises `SidecardError` if a process fails or a call is not made."""
    with Processes() as processes:
        url = _start_model(processes, model)
        socket = ""
        if way.settings is not None:
            socket, _ = processes.start_daemon("sidecard", *way.flags())

        scripts = way.scripts(workload)
        places = tuple(range(len(scripts)))
        workers = [
            _start_worker(processes, Assignment(url, socket, scripts[number::PROCESSES], places[number::PROCESSES]))
            for number in range(PROCESSES)
        ]
        for worker in workers:
            _line(processes, worker)

        began = monotonic()
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write(b"\n")
            worker.stdin.flush()

        made = [call for worker in workers for call in _result(processes, worker)]

    if len(made) != workload.calls:
        raise SidecardError(f"{len(made)} of {workload.calls} calls were made")

    return Run(
        workload.name,
        way.name,
        max(call.answered_at for call in made) - began,
        median(call.answered_at - call.wanted_at for call in made),
        sum(call.processed_tokens for call in made),
        sum(call.cached_tokens for call in made),
        sum(call.completion_tokens for call in made),
    )


def _start_model(processes: Processes, model: Model) -> str:
    command = (sys.executable, "-m", "tests.bench.prefixes.model_server", str(model.file))
    process = processes.start(
        *command, str(model.slots), str(model.threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    return _line(processes, process)


def _start_worker(processes: Processes, assignment: Assignment) -> "subprocess.Popen[bytes]":
    command = (sys.executable, "-m", "tests.bench.prefixes.worker", msgspec.json.encode(assignment).decode())
    return processes.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _line(processes: Processes, process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip()
    if not line:
        process.wait()
        raise SidecardError(f"a process of the bench failed:\n{processes.stderr_of(process)}")

    return line


def _result(processes: Processes, worker: "subprocess.Popen[bytes]") -> list[Made]:
    output, _ = worker.communicate()
    if worker.returncode:
        raise SidecardError(f"a worker of the bench failed:\n{processes.stderr_of(worker)}")

    return msgspec.json.decode(output, type=list[Made])


# Many runs -----------------------------------------------------------------------------------------------------------


class Plan(Struct, frozen=True):
    """What is run: the ways on whose time a target depends in each round, the others once, after the first round."""

    workloads: Sequence[Workload]
    ways: Sequence[Way]
    rounds: int
    seconds: float
    """What would end later is left out, except in the first round."""

    def passes(self) -> list[list[tuple[Workload, Way]]]:
        """Return the runs of the first round, those of the other ways, and those of the further rounds."""
        first, *further = (self._pass(number, repeated=True) for number in range(self.rounds))
        return [first, self._pass(0, repeated=False), *further]

    def _pass(self, number: int, *, repeated: bool) -> list[tuple[Workload, Way]]:
        """Return runs: the ways in another order each time, and the workloads backwards every other time."""
        runs = []
        for workload in self.workloads[:: -1 if number % 2 else 1]:
            ways = [way for way in self.ways if way.repeated == repeated and (workload.long or way.everywhere)]
            turned = number % len(ways) if ways else 0
            runs += [(workload, way) for way in (*ways[turned:], *ways[:turned])]

        return runs


def run_all(model: Model, plan: Plan, results: list[Run], report: Callable[[str], None]) -> None:
    """Execute a plan: add each run to ``results``, and report it."""
    began = monotonic()
    took: dict[tuple[str, str], float] = {}
    passes = plan.passes()
    total = sum(map(len, passes))
    place = 0
    for number, runs in enumerate(passes):
        for workload, way in runs:
            place += 1
            passed = monotonic() - began
            if number and passed + _expected(took, workload, way) > plan.seconds:
                report(
                    f"{passed / 60:4.1f} min  {place} of {total}: {workload.name}, {way.name}: left out, for lack of time"
                )
                continue

            started = monotonic()
            results.append(result := run(model, workload, way))
            took[workload.name, way.name] = monotonic() - started
            report(
                f"{passed / 60:4.1f} min  {place} of {total}: {workload.name}, {way.name}: "
                f"{result.seconds:.1f} s, {result.processed_tokens:,} prompt tokens processed"
            )


def _expected(took: Mapping[tuple[str, str], float], workload: Workload, way: Way) -> float:
    """Return how long a run took the last time; if it is the first, twice as long as the longest of its workload."""
    of_workload = [seconds for (name, _), seconds in took.items() if name == workload.name]
    return took.get((workload.name, way.name), 2 * max(of_workload, default=0.0))


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0))
