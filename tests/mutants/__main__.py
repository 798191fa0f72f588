"""Change random small things in the product's code and see whether a test fails: ``python -m tests.mutants --count 300 --seed 1``.

Mutants are drawn from `sidecard/core`, `sidecard/server` and the client's `call`. First, all their unit tests and properties run
once and record which functions each test executes. Then each mutant meets the tests that execute its function: the most
specific ones first, then all others. Survivors are printed with their change; exit code 1 if there are any.

The libraries for this (mutmut, cosmic-ray) rewrite files or copies of the tree and start pytest anew for each mutant: two to
three times as slow as a fork with a changed module, and they cannot run two mutants of one tree at once.
"""

import argparse
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import msgspec

from tests.mutants.mutation import CONTROL, Mutant, enumerate_mutants
from tests.mutants.running import ROOT, Forked, Function, Recorded, preload, record, test_mutant

FOLDERS = ("sidecard/core", "sidecard/server", "client/sidecard_client/call")
TESTS = (
    ("tests/unit/core", "tests/unit/server", "tests/unit/bench"),
    ("tests/unit/client/call", "tests/unit/client/_sync", "tests/unit/client/test_testing.py", "tests/properties"),
)
"""Recorded side by side, one process each."""

FIRST_TESTS = 40
CONTROLS = 6
RECORD_SECONDS = 600.0

Tests = dict[str, Recorded]


class Verdict(msgspec.Struct):
    """What became of a mutant."""

    mutant: Mutant
    result: str
    """``killed``, ``timeout`` (killed as well), ``survived`` or ``untested`` (no test executes it)."""
    seconds: float


def draw(count: int, seed: int, only: str) -> list[Mutant]:
    """Return random mutants of the files whose path contains ``only``; all of them if ``count`` is 0."""
    files = [str(file.relative_to(ROOT)) for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    mutants = [
        mutant
        for file in files
        if only in file
        for mutant in enumerate_mutants(file, (ROOT / file).read_text(encoding="utf-8"))
    ]
    return random.Random(seed).sample(mutants, min(count, len(mutants))) if count else mutants


def record_tests(jobs: int) -> tuple[Tests, bool]:
    """Return what each test executes, and whether all tests pass without a mutant."""
    files = [str(file.relative_to(ROOT)) for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
    tests: Tests = {}
    passed = True
    with tempfile.TemporaryDirectory() as directory:
        waiting = [(folders, Path(directory) / str(number)) for number, folders in enumerate(TESTS)]
        for batch in (waiting[start : start + jobs] for start in range(0, len(waiting), jobs)):
            running = [
                (Forked.run(lambda folders=folders, to=to: record(files, folders, to), RECORD_SECONDS), to)  # type: ignore[misc] # mypy cannot infer lambdas with defaults
                for folders, to in batch
            ]
            for forked, to in running:
                _, status = os.waitpid(forked.pid, 0)
                passed = passed and status == 0
                tests |= msgspec.json.decode(to.read_bytes(), type=Tests)

    return tests, passed


class Plan:
    """Which tests a mutant meets."""

    def __init__(self, tests: Tests) -> None:
        self._tests = tests
        self._by_function: dict[Function, list[str]] = {}
        for name, recorded in tests.items():
            for path, line in recorded.functions:
                self._by_function.setdefault((path, line), []).append(name)

            for path in {path for path, _ in recorded.functions}:
                self._by_function.setdefault((path, 0), []).append(name)

    def stages(self, mutant: Mutant) -> Iterator[tuple[list[str], float]]:
        """Yield sets of tests, the most specific first, each with the seconds that it may take."""
        names = self._by_function.get((mutant.path, mutant.function_line), [])
        if not names and not mutant.function_line:
            # A module without functions: messages, events, settings.
            names = list(self._tests)

        mirror = f"test_{Path(mutant.path).name}"

        def priority(name: str) -> tuple[bool, int]:
            return mirror not in name, len(self._tests[name].functions)

        ordered = sorted(names, key=priority)
        for stage in (ordered[:FIRST_TESTS], ordered[FIRST_TESTS:]):
            if stage:
                yield stage, 30 + 5 * sum(self._tests[name].seconds for name in stage)


class Running(NamedTuple):
    """A mutant whose tests run."""

    forked: Forked
    mutant: Mutant
    later: Iterator[tuple[list[str], float]]
    began: float


class Runner:
    """Tests mutants, ``jobs`` at a time."""

    def __init__(self, plan: Plan, jobs: int) -> None:
        self._plan = plan
        self._jobs = jobs
        self._running: dict[int, Running] = {}

    def run(self, mutants: Sequence[Mutant]) -> Iterator[Verdict]:
        """Yield the verdict of each mutant as it is known."""
        waiting = list(reversed(mutants))
        while waiting or self._running:
            while waiting and len(self._running) < self._jobs:
                mutant = waiting.pop()
                if not self._start(mutant, self._plan.stages(mutant), time.monotonic()):
                    yield Verdict(mutant, "untested", 0.0)

            if self._running and (verdict := self._ended()) is not None:
                yield verdict

    def _start(self, mutant: Mutant, stages: Iterator[tuple[list[str], float]], began: float) -> bool:
        """Run the next stage of a mutant's tests, if there is one."""
        stage = next(stages, None)
        if stage is None:
            return False

        tests, seconds = stage
        forked = Forked.run(lambda: test_mutant(mutant, tests), seconds)
        self._running[forked.pid] = Running(forked, mutant, stages, began)
        return True

    def _ended(self) -> Verdict | None:
        """Return the verdict of a process that has ended, unless more tests follow; kill what takes too long."""
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            time.sleep(0.02)
            for running in self._running.values():
                if time.monotonic() > running.forked.deadline:
                    running.forked.kill()

            return None

        _, mutant, later, began = self._running.pop(pid)
        took = time.monotonic() - began
        if status:
            return Verdict(mutant, "timeout" if os.WIFSIGNALED(status) else "killed", took)

        return None if self._start(mutant, later, began) else Verdict(mutant, "survived", took)


def main() -> int:
    """Draw mutants, test them, and list the survivors."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=300, help="number of mutants; 0 is all (300)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the draw (1)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 2, help="mutants at a time (number of processors)"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="only files whose path contains this")
    parsed = parser.parse_args()
    os.chdir(ROOT)
    os.environ.setdefault("TEST_THOROUGHNESS", "3")  # read when the tests are imported
    preload()
    mutants = draw(parsed.count, parsed.seed, parsed.only)
    print(f"{len(mutants)} mutants; recording what each test executes ...", flush=True)
    tests, passed = record_tests(parsed.jobs)
    if not passed:
        print(
            "The tests fail without a mutant. Run them: pytest -n 0",
            *(folder for folders in TESTS for folder in folders),
        )
        return 2

    runner = Runner(Plan(tests), parsed.jobs)
    controls = [replace(mutant, number=CONTROL) for mutant in mutants[:CONTROLS]]
    if any(verdict.result not in {"survived", "untested"} for verdict in runner.run(controls)):
        print("Unchanged code is killed as well: the selection of tests is faulty.")
        return 2

    verdicts: list[Verdict] = []
    for verdict in runner.run(mutants):
        verdicts.append(verdict)
        mutant = verdict.mutant
        place = f"{mutant.path}:{mutant.line}"
        print(
            f"[{len(verdicts)}/{len(mutants)}] {verdict.result:8} {verdict.seconds:5.1f} s  {place}  {mutant.kind}",
            flush=True,
        )

    survivors = [verdict for verdict in verdicts if verdict.result in {"survived", "untested"}]
    for verdict in sorted(survivors, key=lambda one: (one.mutant.path, one.mutant.line)):
        mutant = verdict.mutant
        print(f"\n{verdict.result}: {mutant.path}:{mutant.line} ({mutant.kind})")
        print(*(f"- {text}" for text in mutant.before.splitlines()), sep="\n")
        print(*(f"+ {text}" for text in mutant.after.splitlines()), sep="\n")

    counts = Counter(verdict.result for verdict in verdicts)
    print(f"\n{len(verdicts) - len(survivors)} of {len(verdicts)} killed:", dict(counts))
    return int(bool(survivors))


if __name__ == "__main__":
    raise SystemExit(main())
