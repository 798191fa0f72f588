"""Run one attack beside a bystander and a daemon, and measure the bystander's calls and the daemon's memory."""

import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.bench.bystanders.attack import ATTACKS, Attack
from tests.bench.bystanders.served import MIB, ROOT, bounds, environ_of, memory, serving
from tests.servers import free_port

BYSTANDER_UID, ATTACKER_UID = 61001, 61100

BYSTANDER_PRIORITY = 10
"""Real-time priority: what is measured is how long the daemon takes, not how long a runnable bystander waits for a processor."""

ATTACKER_NICE = -10
"""Above other work on the machine, and below the daemon, which leaves them processor time."""

PREPARE_SECONDS = 180.0
HEALTH_CHECK_SECONDS, HEALTH_TIMEOUT_SECONDS = 0.2, 1.0
MAX_RESIDENT_BYTES = 6 * 1024 * MIB
"""Beyond it, a round of an older version ends early, for the sake of the machine."""

RIGHT_ENDS = frozenset({"cache", "upstream", "shared", "fallback"})


class Seen(Struct):
    """What a bystander has seen in one period: seconds of each call, and how many ended in which way."""

    taken: list[float]
    ends: dict[str, int]

    def add(self, other: "Seen") -> None:
        """Add another period."""
        self.taken += other.taken
        for end, count in other.ends.items():
            self.ends[end] = self.ends.get(end, 0) + count

    @property
    def wrong(self) -> list[str]:
        """Ends that no attack may cause."""
        return [f"{end} ({count})" for end, count in self.ends.items() if end not in RIGHT_ENDS]

    def quantile_ms(self, share: float) -> float:
        """Return the milliseconds within which this share of the calls ended."""
        taken = sorted(self.taken)
        return taken[min(len(taken) - 1, int(len(taken) * share))] * 1000 if taken else 0.0


class Measured(Struct, frozen=True):
    """One row: what an attack did to the bystander and to the daemon."""

    name: str
    about: str
    calls: int
    p50_ms: float
    p999_ms: float
    max_ms: float
    fallbacks: int
    wrong: list[str]
    """Ends of the bystander's calls that no attack may cause, and internal errors of the daemon."""
    start_mib: float
    peak_mib: float
    bound_mib: float
    """The configured bounds, plus 40 MiB."""

    def misses(self, p999_ms: float = 20.0, max_ms: float = 100.0) -> list[str]:
        """Return which targets the row misses."""
        missed = [f"wrong: {', '.join(self.wrong)}"] if self.wrong else []
        if self.fallbacks:
            missed.append(f"{self.fallbacks} fallbacks")
        if self.p999_ms > p999_ms:
            missed.append(f"p99.9 {self.p999_ms:.1f} ms")
        if self.max_ms > max_ms:
            missed.append(f"max {self.max_ms:.1f} ms")
        if self.peak_mib > self.bound_mib:
            missed.append(f"{self.peak_mib:.0f} MiB of {self.bound_mib:.0f}")
        return missed


def measure(attack: Attack | None, seconds: float = 6.0, tree: Path = ROOT, *, quiet: bool = False) -> Measured:
    """Run an attack (none: only the bystander) against the daemon of ``tree``."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="by-", dir="/tmp")))
        directory.chmod(0o755)
        port = free_port()
        path, log = str(directory / "s"), directory / "log"
        daemon = stack.enter_context(serving(tree, directory, port, attack, quiet=quiet))
        bound = bounds(path)
        start = memory(daemon.pid, "VmHWM")

        if attack is not None and attack.prepare is not None:
            with _attackers(attack, "prepare", path, port, quiet=quiet) as (one, *_):
                assert one.wait(PREPARE_SECONDS) == 0, "the preparation failed"

        refused: list[str] = []
        if attack is not None and any("http.listen" in setting for setting in attack.settings):
            stack.enter_context(_health_checks(port, refused))

        stalled = attack is not None and attack.stalled_disk
        bystander = stack.enter_context(bystanding(tree, path, quiet=quiet, misses=not stalled))
        _period(bystander, 0.5)
        if stalled:
            (directory / "stalled").touch()

        if attack is None:
            seen = _period(bystander, seconds)
        else:
            with _attackers(attack, "run", path, port, quiet=quiet) as attackers:
                if attack.stopped:
                    time.sleep(1.5)
                    for process in attackers:
                        process.send_signal(signal.SIGSTOP)

                seen = _period(bystander, seconds, daemon.pid)
                assert all(process.poll() is None for process in attackers), "an attacker has ended"

        # How the daemon copes with the end of all that.
        seen.add(_period(bystander, 0.7))
        peak = memory(daemon.pid, "VmHWM")
        errors = _errors(log)

    return Measured(
        name=attack.name if attack else "nothing",
        about=attack.about if attack else "No attack",
        calls=len(seen.taken),
        p50_ms=seen.quantile_ms(0.5),
        p999_ms=seen.quantile_ms(0.999),
        max_ms=seen.quantile_ms(1.0),
        fallbacks=seen.ends.get("fallback", 0),
        wrong=seen.wrong + refused + errors,
        start_mib=start / MIB,
        peak_mib=peak / MIB,
        bound_mib=bound / MIB,
    )


def _errors(log: Path) -> list[str]:
    """Return the daemon's errors, each once, with their count."""
    counts: dict[str, int] = {}
    for text in log.read_text(errors="replace").splitlines():
        if '"level":"error"' in text.replace(" ", "") or "Traceback" in text:
            event = re.sub(r'.*"event": ?"([^"]*)".*', r"\1", text)[:100]
            counts[event] = counts.get(event, 0) + 1

    return [f"daemon logged: {event} ({count})" for event, count in counts.items()]


@contextmanager
def _health_checks(port: int, refused: list[str]) -> Iterator[None]:
    """Ask for `/health` again and again, as an orchestrator does; add to ``refused`` how often that fails."""
    ended = threading.Event()
    asked, failed = 0, 0

    def check() -> None:
        nonlocal asked, failed
        while not ended.wait(HEALTH_CHECK_SECONDS):
            asked += 1
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/health", timeout=HEALTH_TIMEOUT_SECONDS
                ) as answer:
                    answer.read()
            except OSError:
                failed += 1

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if failed:
            refused.append(f"{failed} of {asked} GET /health failed")


@contextmanager
def bystanding(tree: Path, path: str, *, quiet: bool, misses: bool = True) -> Iterator[subprocess.Popen[bytes]]:
    """Start a bystander with the client of ``tree``; it works from then on."""
    priority = BYSTANDER_PRIORITY if quiet else 0
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("bystander.py")), path, str(BYSTANDER_UID), str(priority), str(int(misses))],
        env=environ_of(tree), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b'"ready"\n', "the bystander cannot work"
        yield process
    finally:
        process.kill()
        process.communicate()


def _period(bystander: subprocess.Popen[bytes], seconds: float, watched_pid: int | None = None) -> Seen:
    """Let the bystander work for so long, and return what it has seen since the period before."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))
        if watched_pid is not None and memory(watched_pid, "VmRSS") > MAX_RESIDENT_BYTES:
            break

    return ask_bystander(bystander)


def ask_bystander(bystander: subprocess.Popen[bytes]) -> Seen:
    """Return what a bystander has seen since it was last asked."""
    assert bystander.stdin is not None
    assert bystander.stdout is not None
    bystander.stdin.write(b"\n")
    bystander.stdin.flush()
    return msgspec.json.decode(bystander.stdout.readline(), type=Seen)


def start_attacker(
    attack: Attack, what: str, path: str, port: int, number: int, *, quiet: bool
) -> subprocess.Popen[bytes]:
    """Start one process of an attack, that runs, prepares, or does both."""
    uid = 0 if attack.operator and what == "run" else ATTACKER_UID + number % attack.uids
    arguments = [attack.name, what, path, str(port), str(uid), str(number), str(ATTACKER_NICE if quiet else 0)]
    command = [sys.executable, "-m", "tests.bench.bystanders.attacker", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL)


@contextmanager
def _attackers(
    attack: Attack, what: str, path: str, port: int, *, quiet: bool
) -> Iterator[list[subprocess.Popen[bytes]]]:
    count = 1 if what == "prepare" else attack.processes
    processes = [start_attacker(attack, what, path, port, number, quiet=quiet) for number in range(count)]
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def all_attacks() -> dict[str, Attack]:
    """Return all attacks by name."""
    import tests.bench.bystanders.attacker  # noqa: F401, PLC0415 - registers them

    return ATTACKS
