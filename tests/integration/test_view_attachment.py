"""Attaching a view: what a client accepts from a daemon, what it refuses, and that no descriptor is left behind."""

import gc
import mmap
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecard_client.protocol import view, wire
from sidecard_client.view.attachment import Attachment, attach
from sidecard_client.view.reader import boot_clock
from tests.daemons import poll
from tests.line_interruptions import was_interrupted
from tests.view_connections import NUMBER, PairedConnection, announced, memory_file
from tests.written_view import KEY, SIZE, WrittenView, record_of


def open_files() -> set[str]:
    """Return what this process has open, but for what is garbage of other tests."""
    gc.collect()
    found = set()
    for one in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.add(f"{one.name} {one.readlink()}")

    return found


@pytest.fixture
def connection() -> Iterator[PairedConnection]:
    """Return a connection."""
    paired = PairedConnection()
    yield paired
    paired.end()
    paired.daemon.close()


def attached(connection: PairedConnection, serve: Callable[[], None], namespace: str = "default") -> Attachment | None:
    """Attach, while ``serve`` answers in a thread."""
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        return attach(lambda: connection, namespace)
    finally:
        thread.join()


def test_view_is_attached_and_read(connection: PairedConnection) -> None:
    """The client asks for its namespace, maps what it gets, and reads what is published later."""
    descriptor, written = memory_file()
    asked = []

    def serve() -> None:
        asked.append(connection.receive())
        connection.reply(announced(report_hits=3, logs_calls=True), [descriptor], pieces=3)
        os.close(descriptor)

    view_held = attached(connection, serve, "team")
    assert view_held is not None
    assert asked == [wire.GetView(id=1, namespace="team")]
    assert (view_held.namespace, view_held.report_hits, view_held.logs_calls) == ("team", 3, True)
    now = boot_clock()
    written.publish(KEY, record_of(5, "hello", stored_at=now - 1.0), expires_at=now + 100.0)
    hit = view_held.reader.read(KEY, "general", None, view_held.reports.calls.append)
    assert hit is not None
    assert hit.value == "hello"
    assert view_held.report()
    report = connection.receive()
    assert isinstance(report, wire.RecordHits)
    assert [item[:2] for item in report.hits] == [(5, 1)]
    assert report.namespace == "team"


def test_memory_of_a_view_cannot_be_written_by_its_client(connection: PairedConnection) -> None:
    """What is mapped is read-only, and its file cannot be opened for writing."""
    descriptor, _ = memory_file()

    def serve() -> None:
        connection.receive()
        connection.reply(announced(), [descriptor])

    view_held = attached(connection, serve)
    assert view_held is not None
    data: Any = view_held.reader._data
    with pytest.raises(TypeError):
        data[:4] = b"evil"

    with pytest.raises(PermissionError):
        mmap.mmap(descriptor, SIZE)

    os.close(descriptor)


REFUSED: dict[str, dict[str, Any]] = {
    "an error": {"reply": wire.Error(id=1, code="unavailable", message="no view: off")},
    "an operation that is not known": {"reply": wire.Error(id=1, code="unknown_op", message="there is no op `view`")},
    "another reply": {"reply": wire.Ok(id=1)},
    "no descriptor": {"descriptors": 0},
    "two descriptors": {"descriptors": 2},
    "more descriptors than there is room for": {"descriptors": 9},
    "another layout": {"reply": announced(layout=2)},
    "another size": {"changes": {"size": SIZE // 2}},
    "a larger size": {"changes": {"size": 2 * SIZE}},
    "another view": {"changes": {"view": NUMBER + 1}},
    "a clock that is behind": {"changes": {"now_seconds": 0.0}},
    "a clock that is ahead": {"changes": {"now_seconds": 1e12}},
    "no number": {"changes": {"now_seconds": float("nan")}},
    "no seals": {"seals": 0},
    "a file that others may write": {"seals": view.SEALS & ~0x10},
    "a file that may shrink": {"seals": view.SEALS & ~0x2},
    "a file that is no view": {"empty": True},
    "a plain file": {"plain": True},
    "the end": {"ends": True},
    "bytes that are no message": {"bytes": b"\\x00\\x00\\x00\\x01\\xc1"},
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_view_in_doubt_is_refused_without_a_trace(
    case: dict[str, Any], connection: PairedConnection, tmp_path: Path
) -> None:
    """The client goes on without it, and closes its connection and what it received."""
    descriptor, written = memory_file(seals=case.get("seals", view.SEALS))
    if "empty" in case:
        written.memory[: view.HEADER_BYTES] = bytes(view.HEADER_BYTES)

    if "plain" in case:
        os.close(descriptor)
        descriptor = os.open(tmp_path / "plain", os.O_RDWR | os.O_CREAT)
        os.write(descriptor, written.memory[:])

    def serve() -> None:
        connection.receive()
        if "bytes" in case:
            connection.daemon.sendall(case["bytes"])
        elif "ends" in case:
            connection.daemon.shutdown(socket.SHUT_RDWR)
        else:
            reply = case.get("reply", announced())
            if isinstance(reply, wire.View):
                reply = msgspec.structs.replace(reply, now_seconds=boot_clock())

            reply = msgspec.structs.replace(reply, **case.get("changes", {}))
            sent = [descriptor] * case.get("descriptors", 1) if isinstance(reply, wire.View) else []
            connection.reply(reply, sent)

    own_end = connection.socket.fileno()
    before = {one for one in open_files() if not one.startswith(f"{own_end} ")}
    assert attached(connection, serve) is None
    assert open_files() <= before
    os.close(descriptor)


def test_daemon_that_does_not_answer_is_given_up(connection: PairedConnection) -> None:
    """After the connection's own time limit."""
    connection.limit(0.05)
    assert attached(connection, lambda: None) is None


def view_of(connection: PairedConnection, name: str = "test-view") -> tuple[Attachment, WrittenView]:
    """Attach a view with one entry."""
    descriptor, written = memory_file(name)

    def serve() -> None:
        connection.receive()
        connection.reply(announced(), [descriptor])
        os.close(descriptor)

    view_held = attached(connection, serve)
    assert view_held is not None
    now = boot_clock()
    written.publish(KEY, record_of(5, "hello", stored_at=now - 1.0), expires_at=now + 100.0)
    return view_held, written


def read(view_held: Attachment) -> wire.Hit | None:
    """Read the entry."""
    return view_held.reader.read(KEY, None, None, view_held.reports.calls.append)


@pytest.mark.parametrize("end", ["close", "shut down", "reply"])
def test_any_event_on_the_connection_ends_the_use_of_a_view(connection: PairedConnection, end: str) -> None:
    """A daemon that closes, shuts down its side, or refuses a report: the next read finds nothing, and so does any later one."""
    view_held, _ = view_of(connection)
    assert read(view_held) is not None
    match end:
        case "close":
            connection.daemon.close()
        case "shut down":
            connection.daemon.shutdown(socket.SHUT_WR)
        case _:
            connection.reply(wire.Error(id=2, code="bad_request", message="hits: no"), [])

    assert read(view_held) is None
    assert not view_held.reader.usable
    assert view_held.has_input() == (end == "reply")


def test_reports_wait_for_a_daemon_that_does_not_read(connection: PairedConnection) -> None:
    """Nothing blocks, no hit is lost or reported twice, and what waits takes memory for each publication only."""
    view_held, _ = view_of(connection)
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    booked, hits = view_held.reports.calls, 0
    while view_held.report():
        for publication in range(100):
            booked.append((publication, 1.0))
            hits += 1

    for _ in range(1000):
        booked.append((1, 2.0))
        hits += 1
        assert not view_held.report()

    assert not booked
    reported = 0
    sending = threading.Thread(target=lambda: view_held.end(10.0))
    sending.start()
    sending.join(0.1)
    assert sending.is_alive(), "it does not wait for the daemon"
    while isinstance(report := connection.receive(), wire.RecordHits):
        reported += sum(count for _, count, _, _ in report.hits)

    connection.daemon.close()
    sending.join()
    assert reported == hits


def test_hit_that_is_booked_after_the_end_is_taken_back() -> None:
    """As `Attachment.end` describes: 1. read; 2. end; 3. book. A hit that the last report had stays a hit."""
    connection = PairedConnection()
    view_held, _ = view_of(connection)
    hit = read(view_held)
    assert hit is not None
    view_held.end(0.0)
    assert not view_held.take_back(view_held.reports.calls), "it was reported"
    assert isinstance(connection.receive(), wire.RecordHits)
    view_held.reports.calls.append((5, 1.0))
    assert view_held.take_back(view_held.reports.calls)
    assert not view_held.reports.calls
    connection.daemon.close()


def test_descriptor_that_the_app_has_closed_ends_the_view_and_is_left_alone(connection: PairedConnection) -> None:
    """Its number may be another file's: the next read uses no view, and that file is neither read, nor written, nor closed."""
    view_held, _ = view_of(connection)
    assert read(view_held) is not None
    assert view_held.report()
    assert read(view_held) is not None
    ours, theirs = socket.socketpair()
    reused = connection.socket.fileno()
    os.dup2(ours.fileno(), reused)
    theirs.send(b"for the app")
    assert read(view_held) is None
    assert not view_held.reader.usable
    assert not view_held.has_input()
    assert view_held.report()
    view_held.end(1.0)
    theirs.setblocking(False)
    with pytest.raises(BlockingIOError):
        theirs.recv(1)

    assert ours.recv(20) == b"for the app"
    os.close(reused)
    ours.close()
    theirs.close()


def test_number_of_a_closed_descriptor_may_be_another_views(connection: PairedConnection) -> None:
    """The second view's connection is open, the first one's is not known to be."""
    first, _ = view_of(connection)
    other = PairedConnection()
    second, _ = view_of(other)
    os.dup2(other.socket.fileno(), connection.socket.fileno())
    assert read(first) is None
    assert read(second) is not None
    second.end(0.0)
    other.daemon.close()


def test_child_of_an_app_that_has_closed_the_descriptors_closes_none(connection: PairedConnection) -> None:
    """Before Python 3.13 a mapping has a descriptor, too, whose number may be another file's by then."""
    view_held, _ = view_of(connection)
    reused = connection.socket.fileno()
    ours, theirs = socket.socketpair()
    os.dup2(ours.fileno(), reused)
    view_held.leave_to_parent()  # as in the child
    data: Any = view_held.reader._data
    assert not data.closed
    assert os.fstat(reused).st_ino == os.fstat(ours.fileno()).st_ino
    os.close(reused)
    ours.close()
    theirs.close()


def test_report_that_a_signal_handler_interrupts_counts_no_hit_twice() -> None:
    """Wherever it raises. Later reports go on, unless it is not known how much of this one was sent."""
    made = reported = 0
    for number in count(1):
        connection = PairedConnection()
        view_held, _ = view_of(connection)
        assert read(view_held) is not None
        steps = Attachment.report, Attachment._report, Attachment._send
        interrupted = was_interrupted(number, view_held.report, *steps)
        assert not view_held._lock.locked(), number
        made = 1 + (read(view_held) is not None)
        view_held.report()
        least = made - 1 if view_held.reader.usable else 0
        view_held.end(0.0)
        reported = 0
        while isinstance(report := connection.receive(), wire.RecordHits):
            reported += sum(count for _, count, _, _ in report.hits)

        connection.daemon.close()
        assert least <= reported <= made, number
        if not interrupted:
            break

    assert number > 15
    assert reported == made == 2


def test_mapping_is_released_with_its_last_reader(connection: PairedConnection) -> None:
    """After the end, once no thread reads, the process does not map the view's memory."""

    def is_mapped() -> bool:
        return "view-of-this-test" in Path("/proc/self/maps").read_text()

    view_held, written = view_of(connection, "view-of-this-test")
    reader = view_held.reader
    view_held.end(0.0)
    del view_held, written
    assert is_mapped()
    assert not reader.usable
    del reader
    poll(lambda: not is_mapped(), "the memory stays mapped")
