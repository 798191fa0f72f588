"""A run of the demo: starts its processes, lets the workers ask, and collects what each party counted."""

import contextlib
import select
import sys
from pathlib import Path
from queue import SimpleQueue
from subprocess import PIPE, Popen, TimeoutExpired
from threading import Thread
from time import perf_counter

import msgspec

from sidecard.cli.asking import ask
from sidecard.cli.children import END_SECONDS, Children
from sidecard.cli.demo import summary as demo_summary
from sidecard.cli.demo import workload as demo_workload
from sidecard.cli.demo.model import Listening, Served
from sidecard.cli.demo.progress import Progress, Show, say, showing
from sidecard.cli.demo.summary import Summary
from sidecard.cli.demo.worker import Asked, Plan, Waiting, opener
from sidecard.cli.tables import plain
from sidecard.errors import SidecardError
from sidecard_client.call.options import MAX_NAME_CHARACTERS
from sidecard_client.protocol import wire

LOADING_SECONDS = 300.0
"""The demo's own model takes one second; a large one on a slow disk gets a few minutes."""

Process = Popen[bytes]


def perform(model: Path, workers: int, questions: int, *, quiet: bool) -> Summary:
    """Run the whole demo. Raises `SidecardError` where a part of it does not work."""
    name = plain(model.stem)[:MAX_NAME_CHARACTERS]
    plans = demo_workload.turns(workers, questions)
    planned = [turn.question for plan in plans for turn in plan]
    with Children() as children:
        say(f"Starting a daemon, the model {name} and {workers} workers.", quiet=quiet)
        socket, _ = children.start_daemon("s")
        model_process, model_url = _start_model(children, model)
        processes = [_start_worker(children, Plan(socket, model_url, name, plan)) for plan in plans]
        with showing(len(planned), quiet=quiet) as show:
            began = perf_counter()
            asked = _conduct(children, processes, model_process, show)
            took_seconds = perf_counter() - began

        report = ask(socket, wire.GetReport(id=1), wire.Report)
        with opener.open(model_url) as response:
            served = msgspec.json.decode(response.read(), type=list[Served])

    return demo_summary.summarize(
        planned, asked, report.total, served, model=name, workers=workers, took_seconds=took_seconds
    )


def _start_model(children: Children, file: Path) -> tuple[Process, str]:
    """Return the model's process and where it answers, once it does."""
    process = children.start(sys.executable, "-m", "sidecard.cli.demo.model", str(file), stdin=PIPE, stdout=PIPE)
    assert process.stdout is not None  # noqa: S101 - it was made with one
    in_time, _, _ = select.select([process.stdout], [], [], LOADING_SECONDS)
    line = process.stdout.readline() if in_time else b""
    said = msgspec.json.decode(line, type=Listening) if line else Listening(error="It says nothing.")
    if not said.url:
        # What it said last is complete when it has ended; one that is stuck is ended by `children`.
        with contextlib.suppress(TimeoutExpired):
            process.wait(END_SECONDS)

        raise SidecardError(f"The model {file} does not load: {said.error} It said:\n{children.said(process).rstrip()}")

    return process, said.url


def _start_worker(children: Children, plan: Plan) -> Process:
    process = children.start(sys.executable, "-m", "sidecard.cli.demo.worker", stdin=PIPE, stdout=PIPE)
    _tell(process, msgspec.json.encode(plan))
    return process


def _conduct(children: Children, workers: list[Process], model: Process, show: Show) -> list[Asked]:
    """Let the workers ask all their questions, each burst together, and return what they got."""
    lines: SimpleQueue[tuple[Process, bytes]] = SimpleQueue()
    for process in workers:
        Thread(target=_listen, args=(process, lines), daemon=True).start()

    asked: list[Asked] = []
    progress = Progress()
    waiting = 0
    working = len(workers)
    while working:
        process, line = lines.get()
        if not line:
            working -= 1
            if process.wait():
                who, culprit = ("A worker", process) if model.poll() is None else ("The model", model)
                raise SidecardError(f"{who} ended before its time; it said:\n{children.said(culprit).rstrip()}")

            continue

        match msgspec.json.decode(line, type=Waiting | Asked):
            case Waiting():
                waiting += 1
                if waiting == len(workers):
                    waiting = 0
                    for each in workers:
                        _tell(each, b"")

            case Asked() as one:
                asked.append(one)
                progress.count(one.source)
                show(progress)

    return asked


def _listen(process: Process, lines: "SimpleQueue[tuple[Process, bytes]]") -> None:
    """Pass a worker's lines on, and an empty one when it has ended."""
    for line in process.stdout or ():
        lines.put((process, line))

    lines.put((process, b""))


def _tell(process: Process, line: bytes) -> None:
    if process.stdin:
        # One that has ended is met by `_conduct`, which reads its last words.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(line + b"\n")
            process.stdin.flush()
