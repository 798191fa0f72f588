"""Run tests in forked processes: once to record which functions each test executes, then once per mutant."""

import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, ModuleType

import msgspec
import pytest

from tests.mutants.mutation import Mutant, mutate

ROOT = Path(__file__).parents[2]
MAX_MEMORY_BYTES = 4 << 30
PYTEST_OPTIONS = (
    "-q", "-x", "-n", "0", "-p", "no:cacheprovider", "--no-header", "--hypothesis-seed=0", "--timeout=30",
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip

Function = tuple[str, int]
"""A file, relative to the root, and the first line of a function in it; line 0 stands for the whole module."""


class Recorded(msgspec.Struct):
    """What one test executes, and how long it takes."""

    functions: list[Function]
    seconds: float


def module_name(path: str) -> str:
    """Return the name under which a file is imported."""
    parts = Path(path).with_suffix("").parts
    parts = parts[1:] if parts[0] == "client" else parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _Recorder:
    """A pytest plugin that records which functions of the product each test executes."""

    def __init__(self, files: Sequence[str]) -> None:
        self._files = {str(ROOT / file): file for file in files}
        self.tests: dict[str, Recorded] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Observe a test with its fixtures."""
        seen: set[CodeType] = set()

        def observe(frame: FrameType, event: str, _: object) -> None:
            if event == "call":
                seen.add(frame.f_code)

        started = time.monotonic()
        threading.setprofile(observe)
        sys.setprofile(observe)
        try:
            return (yield)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            functions = {
                (self._files[code.co_filename], code.co_firstlineno) for code in seen if code.co_filename in self._files
            }
            self.tests[item.nodeid] = Recorded(sorted(functions), time.monotonic() - started)


class _MutantLoader(importlib.machinery.SourceFileLoader):
    """Load a module with one change."""

    def __init__(self, name: str, path: str, number: int) -> None:
        super().__init__(name, path)
        self._number = number

    def get_code(self, fullname: str) -> CodeType:
        """Compile the changed tree; compiled files are not used."""
        source = Path(self.get_filename(fullname)).read_text(encoding="utf-8")
        return compile(mutate(source, self._number), self.path, "exec", dont_inherit=True)


class _MutantFinder:
    """Find one module, before all other finders."""

    def __init__(self, mutant: Mutant) -> None:
        self._name = module_name(mutant.path)
        self._path = str(ROOT / mutant.path)
        self._number = mutant.number

    def find_spec(
        self, name: str, _path: object = None, _target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the changed module's spec."""
        if name != self._name:
            return None

        loader = _MutantLoader(name, self._path, self._number)
        return importlib.util.spec_from_file_location(name, self._path, loader=loader)


def preload() -> None:
    """Import what is large and not mutated, so that forked processes need not."""
    import anyio.pytest_plugin  # noqa: F401, PLC0415
    import hypothesis  # noqa: PLC0415
    import hypothesis.stateful  # noqa: PLC0415
    import trio  # noqa: F401, PLC0415

    # A failure needs no smallest example, and an example of one mutant is none of another.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", phases=phases, database=None, deadline=None)
    hypothesis.settings.load_profile("mutants")
    loaded = [name for name in sys.modules if name.partition(".")[0] in {"sidecard", "sidecard_client"}]
    assert not loaded, f"already imported: {loaded}"


@dataclass
class Forked:
    """A process that runs tests; it is killed with all its children at its deadline."""

    pid: int
    deadline: float
    started: float = field(default_factory=time.monotonic)

    @classmethod
    def run(cls, work: Callable[[], int], seconds: float) -> "Forked":
        """Fork a process that ends with the exit code that ``work`` returns."""
        pid = os.fork()
        if pid:
            return cls(pid, time.monotonic() + seconds)

        code = 70
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
            null = os.open(os.devnull, os.O_RDWR)
            for descriptor in (0, 1, 2):
                os.dup2(null, descriptor)

            code = work()
        finally:
            os._exit(code)

    def kill(self) -> None:
        """End the process and its children."""
        os.killpg(self.pid, signal.SIGKILL)


def record(files: Sequence[str], folders: Sequence[str], to: Path) -> int:
    """Run all tests of ``folders`` and write what they execute. For a forked process."""
    recorder = _Recorder(files)
    options = [option for option in PYTEST_OPTIONS if option != "-x"]
    code = pytest.main([*options, *folders], plugins=[recorder])
    to.write_bytes(msgspec.json.encode(recorder.tests))
    return int(code)


def test_mutant(mutant: Mutant, tests: Sequence[str]) -> int:
    """Run tests against a mutant. For a forked process."""
    sys.meta_path.insert(0, _MutantFinder(mutant))
    return int(pytest.main([*PYTEST_OPTIONS, *tests]))
