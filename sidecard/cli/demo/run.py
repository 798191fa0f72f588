"""Run the demo: start its processes, let the workers ask, and collect the counts of all parties."""

import contextlib
import select
import sys
from pathlib import Path
from queue import SimpleQueue
from subprocess import PIPE, Popen, TimeoutExpired
from threading import Thread
from time import perf_counter

import msgspec

from sidecard.cli.demo.model import Listening, Served
from sidecard.cli.demo.progress import Progress, Show, say, showing
from sidecard.cli.demo.summary import Summary, summarize
from sidecard.cli.demo.worker import DemoAnswer, Plan, Waiting, opener
from sidecard.cli.demo.workload import turns
from sidecard.cli.processes import END_SECONDS, Processes
from sidecard.cli.query import query
from sidecard.errors import SidecardError
from sidecard.printable import printable
from sidecard_client.call.option_checks import MAX_NAME_CHARACTERS
from sidecard_client.protocol import wire

LOADING_SECONDS = 300.0
"""Time limit for loading the model: the default one takes a second, a large one on a slow disk minutes."""

Process = Popen[bytes]


def perform(model: Path, workers: int, questions: int, *, quiet: bool) -> Summary:
    """Run the whole demo. Raises `SidecardError` if a part of it fails."""
    name = printable(model.stem)[:MAX_NAME_CHARACTERS]
    plans = turns(workers, questions)
    planned = [turn.question for plan in plans for turn in plan]
    with Processes() as processes:
        say(f"Starting a daemon, the model {name} and {workers} workers.", quiet=quiet)
        socket, _ = processes.start_daemon("s")
        model_process, model_url = _start_model(processes, model)
        worker_processes = [_start_worker(processes, Plan(socket, model_url, name, plan)) for plan in plans]
        with showing(len(planned), quiet=quiet) as show:
            began = perf_counter()
            asked = _conduct(processes, worker_processes, model_process, show)
            took_seconds = perf_counter() - began

        report = query(socket, wire.GetReport(id=1), wire.Report)
        with opener.open(model_url) as response:
            served = msgspec.json.decode(response.read(), type=list[Served])

    return summarize(planned, asked, report.total, served, model=name, workers=workers, took_seconds=took_seconds)


def _start_model(processes: Processes, file: Path) -> tuple[Process, str]:
    """Start the model; return its process and URL once it answers."""
    process = processes.start(sys.executable, "-m", "sidecard.cli.demo.model", str(file), stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    in_time, _, _ = select.select([process.stdout], [], [], LOADING_SECONDS)
    line = process.stdout.readline() if in_time else b""
    listening = msgspec.json.decode(line, type=Listening) if line else Listening(error="no output")
    if not listening.url:
        # Its standard error is complete once it has ended; `Processes` ends one that hangs.
        with contextlib.suppress(TimeoutExpired):
            process.wait(END_SECONDS)

        stderr = processes.stderr_of(process).rstrip()
        raise SidecardError(f"cannot load the model {file}: {listening.error}; standard error:\n{stderr}")

    return process, listening.url


def _start_worker(processes: Processes, plan: Plan) -> Process:
    process = processes.start(sys.executable, "-m", "sidecard.cli.demo.worker", stdin=PIPE, stdout=PIPE)
    _send(process, msgspec.json.encode(plan))
    return process


def _conduct(processes: Processes, workers: list[Process], model: Process, show: Show) -> list[DemoAnswer]:
    """Let the workers ask all questions, synchronizing the bursts; return the outcomes."""
    lines: SimpleQueue[tuple[Process, bytes]] = SimpleQueue()
    for process in workers:
        Thread(target=_listen, args=(process, lines), daemon=True).start()

    asked: list[DemoAnswer] = []
    progress = Progress()
    waiting = 0
    working = len(workers)
    while working:
        process, line = lines.get()
        if not line:
            working -= 1
            if process.wait():
                who, culprit = ("a worker", process) if model.poll() is None else ("the model", model)
                stderr = processes.stderr_of(culprit).rstrip()
                raise SidecardError(f"{who} ended unexpectedly; standard error:\n{stderr}")

            continue

        match msgspec.json.decode(line, type=Waiting | DemoAnswer):
            case Waiting():
                waiting += 1
                if waiting == len(workers):
                    waiting = 0
                    for each in workers:
                        _send(each, b"")

            case DemoAnswer() as one:
                asked.append(one)
                progress.count(one.source)
                show(progress)

    return asked


def _listen(process: Process, lines: "SimpleQueue[tuple[Process, bytes]]") -> None:
    """Queue a worker's lines, and an empty line when it has ended."""
    for line in process.stdout or ():
        lines.put((process, line))

    lines.put((process, b""))


def _send(process: Process, line: bytes) -> None:
    if process.stdin:
        # If the process has ended, `_conduct` reports it.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line + b"\n")
            process.stdin.flush()
