"""A soak: everything that may happen to a daemon, for minutes or days, and whether anything grows.

    python -m tests.soak --hours 8 --picture soak.svg

Workers of both kinds make calls of all kinds, and check each answer (`tests.soak_worker`); meanwhile workers are killed, the
daemon is stopped and killed, its Redis comes and goes and hangs, settings are read again.
Each second what the daemon holds is sampled. In the first part (`RESTARTS_SHARE`) daemons come and go; the last one stays, so
that it can be judged whether it grows: by the median of all slopes between samples (Theil and Sen), which a third of outliers
do not move. With ``--attackers``, processes of another uid attack all the time (`tests.bench.bystanders`); then memory must stay
within its bounds, and calls of a bystander, which begins after the last restart, must not fall back. In the end, when all workers have gone, everything must be given back.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import msgspec

from sidecard.store.background_writes import PENDING_MAX_BYTES
from tests.bench.bystanders.served import bounds
from tests.daemons import Daemon, ask, poll
from tests.servers import RedisServer, any_program, ending
from tests.soak_attackers import Attackers
from tests.soak_picture import Curve, picture
from tests.soak_worker import CALLERS, RECORD, Plan, Seen

WORKERS = 4
RESTARTS_SHARE = 0.4
"""Of the time, in which the daemon is restarted too."""

WARM_UP_SHARE = 0.25
"""Of the last daemon's life, until its memory is what it will be: the cache fills, and pools with it."""

PAUSE_SECONDS = (2.0, 6.0)
"""Between two things that are done."""

STUCK_SECONDS = 8.0
"""A Redis that hangs is known to after a second, and callers then go on without it."""

CLAIM_SECONDS = 20.0
"""So long, at most, the claims of a daemon that was killed stay in Redis."""

QUANTILES = (("p50", 0.5), ("p99.9", 0.999), ("max", 1.0))

GAUGES = ("cache_entries", "flights", "waiters", "leases", "peers", "stream_bytes")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MIB = 1024 * 1024

SETTINGS = """
[cache]
max_bytes = "{megabytes} MiB"
ttl_seconds = {ttl}
sharing_window_seconds = 1
[backends.flaky.breaker]
open_seconds = 0.5
max_open_seconds = 2
[tasks.general]
early_refresh = 1
"""


class Sample(msgspec.Struct):
    """What a daemon was at one moment. ``calls`` counts since that daemon began."""

    at: float
    pid: int
    resident_bytes: int
    descriptors: int
    threads: int
    calls: int
    gauges: dict[str, int]


class Result(msgspec.Struct):
    """What a soak has found."""

    seconds: float
    asked: int
    made: int
    needed: int
    """Different prompts that were called: fewer calls cannot do."""
    ends: dict[str, int]
    faults: list[str]
    growing: list[str]
    """Values that rise, and times without a served caller."""
    left: list[str]
    """What was not given back in the end."""
    bystander: list[str]
    """What attacks did to a bystander; nothing without attackers."""
    logged: list[str]
    """Internal errors in the daemon's log."""
    samples: list[Sample]
    done: list[tuple[float, str]]

    @property
    def complaints(self) -> list[str]:
        """Whatever is not as it must be."""
        return [*self.faults, *self.growing, *self.left, *self.bystander, *self.logged]


class Soak:
    """One daemon, its Redis, its workers, and its troublemakers. All randomness comes from ``seed``."""

    def __init__(
        self, directory: Path, seed: int, say: Callable[[str], None] = print, *, attacked: bool = False
    ) -> None:
        self.random = random.Random(seed)
        self._say = say
        self._directory = directory
        self._settings = directory / "s.toml"
        self._configure()
        self.redis = RedisServer(directory / "r", any_program())
        self.daemon = Daemon(
            str(directory / "s.sock"),
            "--config",
            str(self._settings),
            "--no-state",
            SIDECARD_STORE_URL=self.redis.url,
            SIDECARD_LOG_FORMAT="json",
            **({"SIDECARD_SOCKET_MODE": "0666"} if attacked else {}),
        )
        self._attackers: Attackers | None = None
        if attacked:
            directory.chmod(0o755)
            self._attackers = Attackers(self.daemon.socket, self.random)

        self.samples: list[Sample] = []
        self.done: list[tuple[float, str]] = []
        self._workers: list[subprocess.Popen[bytes]] = []
        self._started = 0
        self._began_at = time.monotonic()
        self._redis_returns_at: float | None = None

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self._began_at

    def run(self, seconds: float) -> Result:
        """Make trouble for so long, then let all end and look at what is left."""
        before = self._sample()
        for _ in range(WORKERS):
            self._workers.append(self._worker())

        next_at = self.random.uniform(*PAUSE_SECONDS)
        while self.seconds < seconds:
            time.sleep(1.0)  # between samples, not for something to happen
            self._come_back()
            self._replace_the_dead()
            self._attack(seconds)
            if (sample := self._sample()) is not None:
                self.samples.append(sample)

            if self.seconds >= next_at:
                next_at = self.seconds + self.random.uniform(*PAUSE_SECONDS)
                self._trouble(restarts=self.seconds < seconds * RESTARTS_SHARE)

        left = self._end(before)
        seen = self._seen()
        made = [number for (number,) in RECORD.iter_unpack((self._directory / "made").read_bytes())]
        return Result(
            seconds=self.seconds,
            asked=sum(one.asked for one in seen),
            made=len(made),
            needed=len(set(made)),
            ends=dict(sum((Counter(one.ends) for one in seen), Counter[str]())),
            faults=[fault for one in seen for fault in one.faults],
            growing=[*(self.growing() if self._attackers is None else self.above_bounds()), *self.stuck()],
            bystander=self._bystander_faults(),
            left=left,
            logged=self._logged(),
            samples=self.samples,
            done=self.done,
        )

    def growing(self) -> list[str]:
        """Say what of the last daemon rises, over the time in which it should not, by more than is chance."""
        last = [sample for sample in self.samples if sample.pid == self.daemon.pid]
        steady = last[int(len(last) * WARM_UP_SHARE) :]
        if len(steady) < 10:
            return ["too few samples to judge by"]

        problems = []
        for name, values, tolerance in (
            ("resident bytes", [one.resident_bytes for one in steady], max(8 * MIB, steady[0].resident_bytes // 10)),
            ("descriptors besides peers", [one.descriptors - one.gauges["peers"] for one in steady], 4),
            ("threads", [one.threads for one in steady], 2),
            # A worker has two to six connections, and another one replaces it at random; what stays is also seen at the end.
            ("peers", [one.gauges["peers"] for one in steady], 3 * WORKERS),
            ("flights", [one.gauges["flights"] for one in steady], 6),
            ("waiters", [one.gauges["waiters"] for one in steady], 6),
        ):
            points = [(one.at, float(value)) for one, value in zip(steady, values, strict=True)]
            rise = slope(points) * (steady[-1].at - steady[0].at)
            if rise > tolerance:
                problems.append(f"{name} rose by {rise:.0f} in {steady[-1].at - steady[0].at:.0f} s")

        return problems

    def above_bounds(self) -> list[str]:
        """Return by how much memory exceeds the bounds, which include writes that wait for Redis. Beside attackers, memory rises and falls."""
        peak = max(one.resident_bytes for one in self.samples)
        bound = bounds(self.daemon.socket) + PENDING_MAX_BYTES
        self._say(f"peak of {peak / MIB:.0f} MiB; the bounds are {bound / MIB:.0f} MiB")
        return [f"{peak / MIB:.0f} MiB are resident; the bounds are {bound / MIB:.0f} MiB"] if peak > bound else []

    def stuck(self) -> list[str]:
        """Return when all callers waited for the last daemon and none made a call: a claim or permit without a holder."""
        problems, since = list[str](), self.seconds
        last = [sample for sample in self.samples if sample.pid == self.daemon.pid]
        for sample in last:
            # A daemon that was killed has left claims, which must expire first.
            if sample.gauges["waiters"] < CALLERS or sample.gauges["leases"] or sample.at < last[0].at + CLAIM_SECONDS:
                since = sample.at
            elif sample.at - since > STUCK_SECONDS:
                problems.append(f"from {since:.0f} s on, for {sample.at - since:.0f} s, callers waited for nobody")
                since = sample.at

        return problems

    def picture(self, seconds: float) -> str:
        """Draw what was sampled."""
        curves: dict[str, Curve] = {
            "resident MiB": [(sample.at, sample.resident_bytes / MIB) for sample in self.samples],
            "descriptors": [(sample.at, sample.descriptors) for sample in self.samples],
            "threads": [(sample.at, sample.threads) for sample in self.samples],
            "calls per second": _rates(self.samples),
        }
        curves |= {name: [(one.at, one.gauges[name]) for one in self.samples] for name in GAUGES}
        return picture(f"sidecard, {seconds:.0f} s of trouble", curves, self.done, seconds)

    # Trouble ---------------------------------------------------------------------------------------------------------

    def _trouble(self, *, restarts: bool) -> None:
        kinds = [self._kill_worker, self._end_worker, self._reload, self._redis_dies, self._redis_hangs]
        if restarts:
            kinds += [self._restart, self._kill_daemon]

        what = self.random.choice(kinds)()
        self.done.append((self.seconds, what))
        self._say(f"{self.seconds:7.1f} s  {what}")

    def _kill_worker(self) -> str:
        self.random.choice(self._workers).kill()
        return "worker killed"

    def _end_worker(self) -> str:
        self.random.choice(self._workers).terminate()
        return "worker ended"

    def _reload(self) -> str:
        self._configure()
        reply = ask(self.daemon.socket, {"op": "reload"}, seconds=20.0)
        assert reply["type"] == "reloaded", reply
        assert not reply["problems"], reply
        return "reload"

    def _redis_dies(self) -> str:
        if self._redis_returns_at is not None:
            return "redis stays away"

        self.redis.kill()
        self._redis_returns_at = self.seconds + self.random.uniform(1.0, 5.0)
        return "redis killed"

    def _redis_hangs(self) -> str:
        if self._redis_returns_at is not None:
            return "redis stays away"

        self.redis.pause()
        self._redis_returns_at = self.seconds + self.random.uniform(0.2, 2.0)
        return "redis hangs"

    def _restart(self) -> str:
        code = self.daemon.terminate(60.0)
        assert code == 0, f"the daemon ended with {code}: {self.daemon.output()[-2000:]}"
        self.daemon.start_again()
        return "daemon restarted"

    def _kill_daemon(self) -> str:
        self.daemon.kill()
        self.daemon.start_again()
        return "daemon killed"

    def _come_back(self, *, now: bool = False) -> None:
        if self._redis_returns_at is None or (self.seconds < self._redis_returns_at and not now):
            return

        self._redis_returns_at = None
        if self.redis.process.poll() is None:
            self.redis.resume()
        else:
            self.redis.start()

    def _replace_the_dead(self) -> None:
        for place, worker in enumerate(self._workers):
            if worker.poll() is not None:
                self._workers[place] = self._worker()

    def _attack(self, seconds: float) -> None:
        if self._attackers is None:
            return

        # A call that is made while the daemon restarts falls back.
        if self.seconds > seconds * RESTARTS_SHARE + PAUSE_SECONDS[1]:
            self._attackers.start_bystander()

        for name in self._attackers.step():
            self.done.append((self.seconds, f"attack: {name}"))
            self._say(f"{self.seconds:7.1f} s  attack: {name}")

    def _bystander_faults(self) -> list[str]:
        """Print what the bystander has seen; return what it must not see."""
        if self._attackers is None:
            return []

        seen = self._attackers.seen
        figures = ", ".join(f"{name} {seen.quantile_ms(share):.1f} ms" for name, share in QUANTILES)
        self._say(f"bystander: {len(seen.taken)} calls, {seen.ends}, {figures}")
        fallbacks = seen.ends.get("fallback", 0)
        return [*seen.wrong, *([f"{fallbacks} of the bystander's calls fell back"] if fallbacks else [])]

    # Parts -----------------------------------------------------------------------------------------------------------

    def _configure(self) -> None:
        settings = SETTINGS.format(megabytes=self.random.choice((2, 4)), ttl=self.random.choice((5, 10, 20)))
        self._settings.write_text(settings)

    def _worker(self) -> subprocess.Popen[bytes]:
        number = self._started = self._started + 1
        plan = Plan(
            socket=str(self._directory / "s.sock"),
            kind="sync" if number % 2 else "async",
            made=str(self._directory / "made"),
            seen=str(self._directory / f"seen-{number}"),
            seed=self.random.randrange(2**32),
        )
        command = [sys.executable, "-m", "tests.soak_worker", msgspec.json.encode(plan).decode()]
        errors = (self._directory / f"errors-{number}").open("wb")
        with errors:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)

    def _sample(self) -> Sample | None:
        pid = self.daemon.pid
        try:
            stats = ask(self.daemon.socket, {"op": "stats"})
        except OSError:
            return None  # it is busy beyond all patience; the next sample may be had

        proc = Path(f"/proc/{pid}")
        gauges = {name: int(str(stats[name])) for name in GAUGES}
        return Sample(
            at=self.seconds,
            pid=pid,
            resident_bytes=int((proc / "statm").read_text().split()[1]) * PAGE_BYTES,
            descriptors=len(list((proc / "fd").iterdir())),
            threads=len(list((proc / "task").iterdir())),
            calls=int(str(stats["begins"])),
            gauges=gauges,
        )

    def _end(self, before: Sample | None) -> list[str]:
        """Let all workers end, and say what the daemon has not given back."""
        self._come_back(now=True)
        if self._attackers is not None:
            self._attackers.close()

        for worker in self._workers:
            worker.send_signal(signal.SIGTERM)

        for worker in self._workers:
            worker.wait(timeout=60)

        def left() -> list[str]:
            stats = ask(self.daemon.socket, {"op": "stats"})
            expected = {"flights": 0, "waiters": 0, "leases": 0, "permits": 0, "queued": 0, "streams": 0, "peers": 1}
            problems = [f"{name}: {stats[name]}" for name, count in expected.items() if stats[name] != count]
            now = self._sample()
            if before is not None and now is not None and now.descriptors > before.descriptors + 4:
                # A link to Redis or two, and the executor's.
                problems.append(f"descriptors: {now.descriptors}, of {before.descriptors} in the beginning")

            return problems

        try:
            poll(lambda: not left(), "something is left", 40.0)
        except AssertionError:
            return left()

        return []

    def _seen(self) -> list[Seen]:
        """Return what each worker saw last; a killed one's last line may be torn."""
        seen = []
        for file in sorted(self._directory.glob("seen-*")):
            lines = [line for line in file.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
            if lines:
                seen.append(msgspec.json.decode(lines[-1], type=Seen))

        texts = {file.name: file.read_text().strip() for file in sorted(self._directory.glob("errors-*"))}
        return seen + [Seen(0, {}, [f"{name}: {text[-2000:]}"]) for name, text in texts.items() if text]

    def _logged(self) -> list[str]:
        return [f"logged: {line}"[:2000] for line in self.daemon.log() if line.get("level") == "error"]

    def close(self) -> None:
        """End everything, whatever happened."""
        if self._attackers is not None:
            self._attackers.close()

        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait(timeout=10)

        self.daemon.close()


def slope(points: Curve) -> float:
    """Return the median of the slopes between points, of pairs that are at least a third of the time apart."""
    far = len(points) // 3
    slopes = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for place, earlier in enumerate(points)
        for later in points[place + max(1, far) :: max(1, len(points) // 300)]
    ]
    return statistics.median(slopes)


def _rates(samples: Sequence[Sample]) -> Curve:
    return [
        (after.at, (after.calls - before.calls) / (after.at - before.at))
        for before, after in pairwise(samples)
        if after.pid == before.pid
    ]


def soak(
    seconds: float,
    seed: int,
    picture_path: Path | None = None,
    say: Callable[[str], None] = print,
    *,
    attacked: bool = False,
) -> Result:
    """Run a soak of ``seconds``, and leave a picture of it."""
    say(f"seed {seed}")
    with ExitStack() as stack:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="sk-", dir="/tmp", ignore_cleanup_errors=True))
        )
        one = Soak(directory, seed, say, attacked=attacked)
        stack.enter_context(ending(one.redis))
        stack.callback(one.close)
        try:
            return one.run(seconds)
        finally:
            if picture_path is not None:
                picture_path.write_text(one.picture(one.seconds))


def main() -> int:
    """Soak for as long as asked for, and say what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description="Kill workers, daemon and Redis at random for hours, and check that answers are right and that memory does not grow.",
    )
    parser.add_argument("--hours", type=float, default=1.0, help="duration (default: 1)")
    parser.add_argument(
        "--seed", type=int, default=None, help="seed of all random choices (default: a random one, which is printed)"
    )
    parser.add_argument(
        "--picture", type=Path, default=None, help="SVG file for curves of memory, descriptors and threads"
    )
    parser.add_argument(
        "--attackers", action="store_true", help="add attackers and a bystander of other uids; needs root"
    )
    parsed = parser.parse_args()
    seed = parsed.seed if parsed.seed is not None else int.from_bytes(os.urandom(4), "big")
    result = soak(parsed.hours * 3600, seed, parsed.picture, attacked=parsed.attackers)
    print(f"{result.asked} calls asked for, {result.made} made, of {result.needed} different ones; ended as:")
    for end, count in sorted(result.ends.items()):
        print(f"  {end}: {count}")

    for complaint in result.complaints:
        print(f"COMPLAINT {complaint}")

    return bool(result.complaints)


if __name__ == "__main__":
    sys.exit(main())
