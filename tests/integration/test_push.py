"""A push to a target whose answers are chosen: what is sent, in which order, and what is dropped."""

import base64
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from sidecard.config.schema import PushSettings
from sidecard.observe.push.formats import Format
from sidecard.observe.push.push import Push
from sidecard_client.protocol.wire import Family, Sample
from tests.push_servers import Answer, ChosenTarget, Received

pytestmark = pytest.mark.anyio

FINE: Answer = (204, {}, "")
AWAY: Answer = (503, {}, "starting")
IMPORT = "/api/v1/import"


@pytest.fixture
def anyio_backend() -> str:
    """Run on the daemon's own backend alone."""
    return "asyncio"


async def until(condition: Callable[[], bool]) -> None:
    """Wait, at most half a minute."""
    with anyio.fail_after(30):
        while not condition():  # noqa: ASYNC110 - of states that send no event
            await anyio.sleep(0.005)


@pytest.fixture
def target() -> Iterator[ChosenTarget]:
    """Start a target that takes everything."""
    one = ChosenTarget(lambda _: FINE)
    yield one
    one.close()


class Pusher:
    """A push of one series that counts collections."""

    def __init__(self, url: str, directory: Path | None = None, first: int = 1, **settings: Any) -> None:
        self.number = first - 1
        self.dropped = 0
        self.said: list[tuple[str, str, dict[str, Any]]] = []
        self.fault: Exception | None = None
        self.blocking_seconds = 0.0
        self.push = Push(
            PushSettings(url=url, instance="host", **{"interval_seconds": 0.05, "timeout_seconds": 5.0} | settings),
            self._collect,
            directory=directory,
            clock=time.monotonic,
            wall=lambda: time.time_ns() / 1e9,
            log=self._say,
            count=self._count,
            jitter=lambda: 1.0,  # the shortest pauses
        )

    def _collect(self) -> list[Family]:
        if self.fault is not None:
            raise self.fault

        time.sleep(self.blocking_seconds)
        self.number += 1
        return [Family("tests", "counter", "Counts.", [Sample("tests_total", self.number)])]

    def _say(self, level: str, event: str, **fields: Any) -> None:
        self.said.append((level, event, fields))

    def _count(self, what: str, number: int) -> None:
        assert what == "push_samples"
        self.dropped += number

    @property
    def events(self) -> list[str]:
        """The events of the log."""
        return [event for _, event, _ in self.said]

    @property
    def events_of_sending(self) -> list[str]:
        """The events of the log, without those of a busy machine on which a collection starts late."""
        return [event for event in self.events if event != "metrics collected late"]

    def why(self, event: str) -> str:
        """Return the reason that was given."""
        return next(str(fields["reason"]) for _, said, fields in self.said if said == event)

    @asynccontextmanager
    async def running(self) -> Any:
        """Run it, then close it."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.push.run)
            yield
            tasks.cancel_scope.cancel()

        await self.push.close()

    async def goes_on(self, count: int) -> None:
        """Wait for more collections."""
        goal = self.number + count
        await until(lambda: self.number >= goal)


async def test_a_healthy_target_needs_no_disk(target: ChosenTarget, tmp_path: Path) -> None:
    """All blocks arrive once and in order, including what the close collects."""
    pusher = Pusher(target.url + IMPORT, tmp_path / "spool")
    async with pusher.running():
        await pusher.goes_on(5)
        assert [path.name for path in (tmp_path / "spool").iterdir()] == ["lock"]

    assert target.values == list(range(1, pusher.number + 1))
    assert target.received[0].headers["Content-Encoding"] == "gzip"
    assert (pusher.events_of_sending, pusher.dropped) == ([], 0)


@pytest.mark.parametrize(
    ("status", "on_disk"), [(401, True), (404, True), (429, True), (500, True), (302, True), (500, False)]
)
async def test_postponed_blocks_arrive_later(target: ChosenTarget, tmp_path: Path, status: int, on_disk: bool) -> None:
    """Once. The outage and its end are logged once each."""
    target.answer = lambda _: (status, {}, "not now")
    pusher = Pusher(target.url + IMPORT, tmp_path / "spool" if on_disk else None)
    async with pusher.running():
        await pusher.goes_on(10)
        assert pusher.push.spool_bytes > 0
        target.answer = lambda _: FINE
        await until(lambda: pusher.push.spool_bytes == 0)

    assert sorted(set(target.values)) == list(range(1, pusher.number + 1))
    assert len(target.values) == pusher.number
    assert pusher.events_of_sending == ["metrics not pushed", "metrics pushed again"]
    assert str(status) in pusher.why("metrics not pushed")


async def test_the_next_process_sends_the_backlog(target: ChosenTarget, tmp_path: Path) -> None:
    """Nothing is lost, though the target was unavailable when the first process ended."""
    target.answer = lambda _: AWAY
    one = Pusher(target.url + IMPORT, tmp_path / "spool")
    async with one.running():
        await one.goes_on(5)

    target.answer = lambda _: FINE
    other = Pusher(target.url + IMPORT, tmp_path / "spool", one.number + 1)
    async with other.running():
        await other.goes_on(3)
        await until(lambda: other.push.spool_bytes == 0)

    assert sorted(target.values) == list(range(1, other.number + 1))
    assert (one.dropped, other.dropped) == (0, 0)


async def test_a_refused_block_is_dropped_alone(target: ChosenTarget, tmp_path: Path) -> None:
    """It is counted, and logged once until a block is accepted."""
    target.answer = lambda received: (400, {}, "poison") if received.values[0] in {3, 4} else FINE
    pusher = Pusher(target.url + IMPORT, tmp_path / "spool")
    async with pusher.running():
        await pusher.goes_on(10)

    assert target.values == [number for number in range(1, pusher.number + 1) if number not in {3, 4}]
    assert pusher.dropped == 2
    assert pusher.events_of_sending == ["metrics refused"]
    assert pusher.why("metrics refused") == "answered 400: poison"


@pytest.mark.slow
async def test_a_block_that_fails_stops_no_other(target: ChosenTarget, tmp_path: Path) -> None:
    """VictoriaMetrics accepts the others first."""
    target.answer = lambda received: (500, {}, "") if received.values[0] == 3 else FINE
    pusher = Pusher(target.url + IMPORT, tmp_path / "spool")
    async with pusher.running():
        await until(lambda: [3.0] in [received.values for received in target.received[3:]])
        await until(lambda: len(target.values) >= 20)
        target.answer = lambda _: FINE
        await until(lambda: 3 in target.values and pusher.push.spool_bytes == 0)

    assert sorted(target.values) == list(range(1, pusher.number + 1))
    assert pusher.dropped == 0


@pytest.mark.slow
async def test_a_retry_after_is_honored(target: ChosenTarget, tmp_path: Path) -> None:
    """Also while new blocks are collected."""
    target.answer = lambda _: (429, {"Retry-After": "3600"}, "")
    pusher = Pusher(target.url + IMPORT, tmp_path / "spool")
    async with pusher.running():
        await pusher.goes_on(40)

    assert len(target.received) == 1


@pytest.mark.slow
async def test_a_backlog_does_not_delay_new_blocks(target: ChosenTarget, tmp_path: Path) -> None:
    """A target that accepts any order gets new blocks in between, long before the backlog is empty."""
    target.answer = lambda _: AWAY
    one = Pusher(target.url + IMPORT, tmp_path / "spool", interval_seconds=0.001)
    async with one.running():
        await one.goes_on(300)

    backlog = one.number

    def slow(_: Received) -> Answer:
        time.sleep(0.01)
        return FINE

    target.answer = slow
    other = Pusher(target.url + IMPORT, tmp_path / "spool", backlog + 1)
    async with other.running():
        await until(lambda: len(target.values) > backlog and other.push.spool_bytes == 0)

    values = target.values
    assert sorted(values) == list(range(1, other.number + 1))
    assert values.index(backlog + 1) < 50


@pytest.mark.slow
async def test_prometheus_gets_all_blocks_in_order(
    target: ChosenTarget, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It rejects samples older than what it has: new blocks wait for older ones."""
    target.answer = lambda _: AWAY
    pusher = Pusher(target.url + "/api/v1/write", tmp_path / "spool")
    arrived: list[bytes] = []

    def take(received: Received) -> Answer:
        arrived.append(received.body)
        return FINE

    bodies: list[bytes] = []
    blocks = pusher.push._encoder.blocks

    def remember(*asked: Any) -> Any:
        made = blocks(*asked)
        bodies.extend(block.body for block in made)
        return made

    monkeypatch.setattr(pusher.push._encoder, "blocks", remember)
    async with pusher.running():
        await pusher.goes_on(10)
        target.answer = take
        await until(lambda: pusher.push.spool_bytes == 0)
        target.answer = lambda _: AWAY
        await pusher.goes_on(10)
        target.answer = take
        await until(lambda: pusher.push.spool_bytes == 0)

    assert arrived == bodies
    headers = target.received[0].headers
    assert (headers["Content-Encoding"], headers["X-Prometheus-Remote-Write-Version"]) == ("snappy", "0.1.0")


async def test_missed_collections_are_logged(target: ChosenTarget) -> None:
    """The loop or the host stood still for longer than the interval: the log explains the gap in the graph."""
    pusher = Pusher(target.url + IMPORT)
    async with pusher.running():
        await pusher.goes_on(2)
        pusher.blocking_seconds = 0.2
        await pusher.goes_on(1)
        pusher.blocking_seconds = 0.0
        await until(lambda: "metrics collected late" in pusher.events)
        await pusher.goes_on(2)

    assert max(fields["missed"] for _, event, fields in pusher.said if event == "metrics collected late") >= 3
    assert target.values == list(range(1, pusher.number + 1))


async def test_a_redirect_is_not_followed(target: ChosenTarget) -> None:
    """It is logged."""
    elsewhere = ChosenTarget(lambda _: FINE)
    try:
        target.answer = lambda _: (307, {"Location": elsewhere.url + IMPORT}, "")
        pusher = Pusher(target.url + IMPORT)
        async with pusher.running():
            await pusher.goes_on(5)

        assert elsewhere.received == []
        assert pusher.why("metrics not pushed").endswith(
            f"redirect to {elsewhere.url}{IMPORT}: set push.url to where it leads"
        )
    finally:
        elsewhere.close()


async def test_proxies_of_the_environment_are_ignored(target: ChosenTarget, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would see all metrics."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    pusher = Pusher(target.url + IMPORT)
    async with pusher.running():
        await until(lambda: len(target.received) > 2)

    assert pusher.said == []


async def test_the_password_file_is_read_at_each_request(target: ChosenTarget, tmp_path: Path) -> None:
    """So a password can change; a file that cannot be read only delays."""
    secret = tmp_path / "password"
    pusher = Pusher(target.url + IMPORT, username="sidecard", password_file=str(secret))
    async with pusher.running():
        await until(lambda: "metrics not pushed" in pusher.events)
        for password in ("one", "two"):
            secret.write_text(f"{password}\n")
            wanted = "Basic " + base64.b64encode(f"sidecard:{password}".encode()).decode()
            await until(lambda wanted=wanted: any(one.headers["Authorization"] == wanted for one in target.received))  # type: ignore[misc]

    assert pusher.why("metrics not pushed") == f"{secret} cannot be read (No such file or directory)"
    assert sorted(target.values) == list(range(1, pusher.number + 1))


async def test_a_bearer_token_is_sent(target: ChosenTarget, tmp_path: Path) -> None:
    """From its file."""
    secret = tmp_path / "token"
    secret.write_text("abc\n")
    async with Pusher(target.url + IMPORT, bearer_token_file=str(secret)).running():
        await until(lambda: len(target.received) > 0)

    assert target.received[0].headers["Authorization"] == "Bearer abc"


async def test_blocks_of_another_format_are_dropped(target: ChosenTarget, tmp_path: Path) -> None:
    """The operator changed the target while blocks were waiting: the new one could not read them."""
    one = Pusher("http://127.0.0.1:1/api/v1/write", tmp_path / "spool")
    async with one.running():
        await one.goes_on(5)

    other = Pusher(target.url + IMPORT, tmp_path / "spool")
    async with other.running():
        await until(lambda: other.push.spool_bytes == 0 and len(target.received) > 2)

    assert other.dropped == one.number
    assert sorted(target.values) == list(range(1, other.number + 1))
    assert set(other.events_of_sending) == {"metrics refused"}
    assert "before push.url was changed" in other.why("metrics refused")


async def test_a_failed_collection_is_logged_and_the_next_one_happens(target: ChosenTarget) -> None:
    """A fault of the metrics does not stop the daemon."""
    pusher = Pusher(target.url + IMPORT)
    async with pusher.running():
        await pusher.goes_on(2)
        pusher.fault = ZeroDivisionError("ours")
        await until(lambda: "metrics not collected" in pusher.events)
        pusher.fault = None
        await pusher.goes_on(2)

    assert target.values == list(range(1, pusher.number + 1))


@pytest.mark.parametrize("form", Format)
@pytest.mark.slow
async def test_close_does_not_wait_for_a_hanging_target(form: Format, tmp_path: Path, target: ChosenTarget) -> None:
    """The block being sent is spooled, in its place."""
    gate = anyio.Event()

    def hang(_: Received) -> Answer:
        while not gate.is_set():
            time.sleep(0.01)

        return FINE

    target.answer = hang
    path = {Format.JSON_LINES: IMPORT, Format.TEXT: f"{IMPORT}/prometheus", Format.REMOTE_WRITE: "/api/v1/write"}[form]
    pusher = Pusher(target.url + path, tmp_path / "spool", timeout_seconds=60.0)
    with anyio.fail_after(20):
        async with pusher.running():
            await pusher.goes_on(5)

    gate.set()
    sent = len(target.received)
    other = Pusher(target.url + path, tmp_path / "spool", pusher.number + 1)
    target.answer = lambda _: FINE
    async with other.running():
        await until(lambda: other.push.spool_bytes == 0 and len(target.received) - sent > pusher.number)

    assert len(target.received) - sent == other.number
    assert (pusher.dropped, other.dropped) == (0, 0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a file system cannot be mounted here: {mounted.stderr.strip()}")

    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full", "read-only"])
async def test_a_failing_disk_loses_no_block(target: ChosenTarget, small_disk: Path, fault: str) -> None:
    """Blocks stay in memory, which is logged once; blocks on disk are sent first."""
    target.answer = lambda _: AWAY
    earlier = Pusher(target.url + IMPORT, small_disk / "spool")
    async with earlier.running():
        await earlier.goes_on(10)

    if fault == "read-only":
        await anyio.run_process(["mount", "-o", "remount,ro", str(small_disk)])

    pusher = Pusher(target.url + IMPORT, small_disk / "spool", earlier.number + 1, interval_seconds=0.01)
    async with pusher.running():
        await pusher.goes_on(10)
        if fault == "full":
            with (small_disk / "ballast").open("wb", buffering=0) as file, suppress(OSError):
                while file.write(bytes(4096)):
                    pass

        await until(lambda: "metrics not spooled to disk" in pusher.events)
        await pusher.goes_on(50)
        target.answer = lambda _: FINE
        await until(lambda: pusher.push.spool_bytes == 0)

    assert (
        pusher.why("metrics not spooled to disk")
        == {
            "full": "No space left on device",
            "read-only": "Read-only file system",
        }[fault]
    )
    assert pusher.events.count("metrics not spooled to disk") == 1
    assert pusher.dropped == 0
    assert sorted(target.values) == list(range(1, pusher.number + 1))


async def test_a_removed_spool_is_recreated(target: ChosenTarget, tmp_path: Path) -> None:
    """Its samples are counted as dropped."""
    target.answer = lambda _: AWAY
    directory = tmp_path / "spool"
    pusher = Pusher(target.url + IMPORT, directory)
    async with pusher.running():
        await pusher.goes_on(10)
        for path in directory.iterdir():
            path.unlink()

        directory.rmdir()
        await until(lambda: pusher.dropped > 0)
        target.answer = lambda _: FINE
        await until(lambda: pusher.push.spool_bytes == 0)

    assert len(set(target.values)) + pusher.dropped == pusher.number


@pytest.mark.slow
@pytest.mark.parametrize("on_disk", [True, False])
async def test_at_the_limit_the_oldest_blocks_are_dropped_and_counted(
    target: ChosenTarget, tmp_path: Path, on_disk: bool
) -> None:
    """On disk as in memory."""
    target.answer = lambda _: AWAY
    pusher = Pusher(
        target.url + IMPORT, tmp_path / "spool" if on_disk else None, spool_max_bytes=10_000, interval_seconds=0.002
    )
    async with pusher.running():
        await until(lambda: pusher.dropped >= 100)
        assert pusher.push.spool_bytes <= 10_000
        target.answer = lambda _: FINE
        await until(lambda: pusher.push.spool_bytes == 0)

    values = target.values
    assert len(set(values)) == len(values)
    assert len(values) + pusher.dropped == pusher.number


async def test_a_limit_of_zero_keeps_nothing(target: ChosenTarget, tmp_path: Path) -> None:
    """It is no error."""
    target.answer = lambda _: AWAY
    pusher = Pusher(target.url + IMPORT, tmp_path / "spool", spool_max_bytes=0)
    async with pusher.running():
        await until(lambda: pusher.dropped >= 5)
        assert pusher.push.spool_bytes == 0

    assert "metrics not spooled to disk" not in pusher.events
