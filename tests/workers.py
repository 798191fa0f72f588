"""Worker processes of acceptance tests, as the test sees them: see `tests.worker_process`."""

import subprocess
import sys
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

Result = TypeVar("Result")

_ROOT = Path(__file__).parents[1]
_END_SECONDS = 90


class Workers(Generic[Result]):
    """Processes of one module, whose result is of one type."""

    def __init__(self, module: str, result_type: type[Result]) -> None:
        self.processes: list[subprocess.Popen[str]] = []
        self._module = module
        self._result_type = result_type

    def start(self, plan: msgspec.Struct, count: int) -> None:
        """Start processes with one plan, and wait until they are ready."""
        command = [sys.executable, "-m", self._module, msgspec.json.encode(plan).decode()]
        started = [
            subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for _ in range(count)
        ]
        self.processes += started
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"

    @property
    def pids(self) -> list[int]:
        """Return all of them, the dead ones too."""
        return [process.pid for process in self.processes]

    def go(self) -> None:
        """Let all of them begin."""
        for process in self.processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()

    def results(self, seconds: float = _END_SECONDS) -> list[Result]:
        """Wait for the processes that are alive, and return what they print."""
        outputs = [(process.communicate(timeout=seconds)[0], process.returncode) for process in self.processes]
        return [msgspec.json.decode(output, type=self._result_type) for output, code in outputs if code == 0]

    def kill(self) -> None:
        """End the processes that still run."""
        for process in self.processes:
            process.kill()
            process.communicate()
