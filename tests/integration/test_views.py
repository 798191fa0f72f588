"""Views of a real daemon, read by a program that knows only the document."""

import ctypes
import errno
import fcntl
import gc
import mmap
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from sidecard_client.protocol import wire
from tests.daemons import Daemon, ask, poll
from tests.faults import descriptors
from tests.hostile import Wire
from tests.plain_view import PlainView
from tests.view_peers import ViewPeer, boot_seconds

Start = Callable[..., Daemon]

PUNCH_HOLE = 3
"""``FALLOC_FL_PUNCH_HOLE`` with ``FALLOC_FL_KEEP_SIZE``."""


def put(peer: Wire, key: str, value: Any, hits: int = 2, **options: Any) -> None:
    """Store an entry, and hit it, so that it is published."""
    assert isinstance(peer.asks(wire.Put(key, Raw(wire.pack(value)), id=1, **options)), wire.Stored)
    for _ in range(hits):
        assert isinstance(peer.asks(wire.Get(key, id=1)), wire.Hit)


def read(view: PlainView, key: str) -> Any:
    """Return the value of a key in a view, or why it has none."""
    found = view.read(key, boot_seconds())
    return found if isinstance(found, str) else found["value"]


@pytest.fixture(scope="module")
def running(module_daemon: Start) -> Daemon:
    """Start a daemon for several tests."""
    return module_daemon()


@pytest.fixture
def path(running: Daemon) -> str:
    """Return the socket of a daemon without entries."""
    running.purge()
    return running.socket


def test_published_entries_are_readable_until_they_are_withdrawn(path: str) -> None:
    """What the daemon has acknowledged holds for every read that begins afterwards."""
    peer, reader = Wire(path), ViewPeer(path)
    before = boot_seconds()
    reply = reader.asks_for_view()
    assert before <= reply.now_seconds <= boot_seconds()
    reader.unmap()

    reader = ViewPeer(path)
    view = reader.maps()
    put(peer, "once", "value", hits=1)
    assert read(view, "once") == "absent", "published on its second hit"
    put(peer, "a", {"text": "Grüße", "data": b"\x00"})
    put(peer, "b", [1, 2.5, None])
    found = view.read("a", boot_seconds(), "general")
    assert isinstance(found, dict)
    assert found["value"] == {"text": "Grüße", "data": b"\x00"}
    assert found["stored_at"] == pytest.approx(boot_seconds(), abs=5.0)
    assert view.read("a", boot_seconds(), "rag") == "another task"
    assert view.boot_id.decode() == peer.asks(wire.Ping(id=1)).boot_id
    put(peer, "a", "replaced", hits=0)
    assert read(view, "a") == "absent"
    put(peer, "a", "replaced", hits=2)
    assert read(view, "a") == "replaced"
    assert isinstance(peer.asks(wire.Delete("a", id=1)), wire.Deleted)
    assert read(view, "a") == "absent"
    assert read(view, "b") == [1, 2.5, None]
    assert ask(path, {"op": "purge", "tag": "other"})["type"] == "deleted"
    assert read(view, "b") == "withdrawn"
    put(peer, "b", "again")
    assert read(view, "b") == "again"


def test_an_entry_is_not_readable_once_it_expires(path: str) -> None:
    """The file has the expiry, so the daemon need do nothing at that instant."""
    peer, reader = Wire(path), ViewPeer(path)
    view = reader.maps()
    put(peer, "short", "value", ttl_seconds=0.4)
    assert read(view, "short") == "value"
    poll(lambda: read(view, "short") != "value", "still there")
    assert isinstance(peer.asks(wire.Get("short", id=1)), wire.Miss)


def test_many_entries_are_published_and_none_is_read_as_another(path: str) -> None:
    """As many as there is room for; a record is only overwritten after its slot was emptied."""
    peer, reader = Wire(path), ViewPeer(path)
    view = reader.maps()
    count = 400
    size = 60_000
    for number in range(count):
        put(peer, f"key {number}", f"{number} " + "x" * size)

    found = {number: read(view, f"key {number}") for number in range(count)}
    published = {number: value for number, value in found.items() if value.split(" ")[0].isdigit()}
    assert len(published) > 50
    assert set(found.values()) - set(published.values()) <= {"absent"}
    assert all(value == f"{number} " + "x" * size for number, value in published.items())


def test_a_reload_that_ends_a_view_erases_it(daemon: Start, tmp_path: Path) -> None:
    """Its generation is 0, its entries are gone, and the same connection gets no other one."""
    config = tmp_path / "sidecard.toml"
    config.write_text("[namespaces.team]\nshared_with = [0]\n")
    running = daemon("--config", str(config))
    peer, reader = Wire(running.socket), ViewPeer(running.socket)
    view = reader.maps("team")
    put(peer, "k", "secret answer", namespace="team", hits=0)
    for _ in range(2):
        peer.asks(wire.Get("k", "team", id=1))

    assert read(view, "k") == "secret answer"
    config.write_text("")
    assert ask(running.socket, {"op": "reload"})["type"] == "reloaded"
    assert read(view, "k") in {"withdrawn", "absent"}, "absent once it is erased"
    mapped = reader.mapped
    assert mapped is not None
    assert mapped[16:24] == bytes(8)
    poll(lambda: not any(mapped[4096:]), "not erased")
    assert ask(running.socket, {"op": "stats"})["view_bytes"] == len(mapped), "still mapped"
    reader.socket.close()
    assert ask(running.socket, {"op": "stats"})["view_bytes"] == len(mapped), "and without a connection, too"
    reader.unmap()
    poll(lambda: ask(running.socket, {"op": "stats"})["view_bytes"] == 0, "still counted")


def _punch(descriptor: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    library.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
    if library.fallocate(descriptor, PUNCH_HOLE, 4096, 4096):
        raise OSError(ctypes.get_errno(), "fallocate")


def test_no_client_can_write(path: str) -> None:
    """Not through the descriptor, nor through one opened from it, root included."""
    reader = ViewPeer(path)
    size = reader.asks_for_view().size
    (received,) = reader.descriptors
    again = os.open(f"/proc/self/fd/{received}", os.O_RDWR)
    for descriptor in (received, again):
        writes: tuple[Callable[[int], object], ...] = (
            lambda one: mmap.mmap(one, size),
            lambda one: os.pwrite(one, b"x", 8192),
            lambda one: os.ftruncate(one, 4096),
            lambda one: os.ftruncate(one, 2 * size),
            lambda one: os.posix_fallocate(one, size, 4096),
            _punch,
            lambda one: fcntl.fcntl(one, 1033, 0),
        )
        for write in writes:
            # The one that was received is read-only; the seals deny the rest.
            with pytest.raises(OSError) as refused:  # noqa: PT011 - the number is compared
                write(descriptor)

            only_read = {errno.EBADF, errno.EINVAL, errno.EACCES}
            assert refused.value.errno in {errno.EPERM} | (only_read if descriptor == received else set())

    os.close(again)
    with mmap.mmap(received, size, prot=mmap.PROT_READ) as mapped, pytest.raises(TypeError):
        mapped[0:1] = b"x"

    assert fcntl.fcntl(received, 1034) & 0x17 == 0x17
    assert os.fstat(received).st_blocks * 512 >= size, "fully allocated"


def test_a_json_lines_peer_gets_the_reason(path: str) -> None:
    """Its encoding carries no descriptor."""
    reply = ask(path, {"op": "view"})
    assert (reply["type"], reply["code"]) == ("error", "unavailable")
    assert "msgpack frames" in str(reply["message"])


def test_attaching_a_thousand_times_leaks_nothing(daemon: Start) -> None:
    """Neither descriptors nor views, in the daemon or in the peer."""
    running = daemon()
    first = ViewPeer(running.socket)
    first.maps()
    # 1. The daemon sends a descriptor. 2. The peer has it. 3. The daemon closes its own copy, before it replies to anything else.
    first.asks(wire.Ping(id=2))
    gc.collect()
    before = descriptors(running.pid), descriptors(os.getpid())
    for number in range(1000):
        one = ViewPeer(running.socket)
        assert isinstance(one.asks_for_view(), wire.View)
        if number % 2:
            one.close()
        else:
            # Leaves without reading the descriptor that is on its way.
            again = ViewPeer(running.socket)
            again.sends(wire.GetView(id=1))
            again.close()
            one.close()

    poll(lambda: descriptors(running.pid) == before[0], "the daemon has more")
    assert descriptors(os.getpid()) <= before[1], "clients that other tests have dropped may end meanwhile"
    stats = ask(running.socket, {"op": "stats"})
    assert stats["views"] == 1


def test_without_memory_there_is_no_view_and_one_log_line(daemon: Start) -> None:
    """The daemon logs `view unavailable` once, and serves all calls over the socket."""
    running = daemon()
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    for _ in range(3):
        reply = ViewPeer(running.socket).asks_for_view()
        assert (reply.code, "no view" in reply.message) == ("unavailable", True)

    put(Wire(running.socket), "k", "v")
    running.terminate()
    (line,) = running.said("view unavailable")
    assert "LimitFSIZE" in line["reason"]
    assert line["level"] == "warning"


def new_group(limit: int) -> Path:
    """Make a control group with a memory limit, of either version."""
    for place, name in (("memory", "memory.limit_in_bytes"), ("", "memory.max")):
        group = Path("/sys/fs/cgroup", place, f"sidecard-test-{os.getpid()}")
        with suppress(OSError):
            group.mkdir()
            try:
                (group / name).write_text(str(limit), encoding="ascii")
            except OSError:
                group.rmdir()
            else:
                return group

    pytest.skip("this host lets no control groups be made")


@pytest.fixture
def small_group() -> Iterator[Path]:
    """Make a control group that permits 24 MiB, for processes that move into it."""
    group = new_group(24 << 20)
    yield group
    poll(lambda: not (group / "cgroup.procs").read_text(encoding="ascii"), "a process is left")
    group.rmdir()


def test_a_memory_limit_prevents_a_view_instead_of_ending_the_daemon(small_group: Path, daemon: Start) -> None:
    """The kernel would kill it for memory that its group does not permit."""
    running = daemon()
    (small_group / "cgroup.procs").write_text(str(running.pid), encoding="ascii")
    reply = ViewPeer(running.socket).asks_for_view()
    assert (reply.id, reply.code) == (1, "unavailable")
    put(Wire(running.socket), "k", "v")
    running.terminate()
    (line,) = running.said("view unavailable")
    assert "control group" in line["reason"]


def test_the_daemon_works_without_uvloop(daemon: Start, tmp_path: Path) -> None:
    """Views are passed on asyncio's own loop as well."""
    (tmp_path / "uvloop.py").write_text("raise ImportError\n")
    running = daemon(PYTHONPATH=str(tmp_path))
    peer, reader = Wire(running.socket), ViewPeer(running.socket)
    view = reader.maps()
    put(peer, "k", "v")
    assert read(view, "k") == "v"
    check_order(running.socket)


def check_order(path: str) -> None:
    """Check that a view comes behind the replies that were asked for before it, in the same piece."""
    other = ViewPeer(path)
    other.sends(wire.Ping(id=1), wire.Ping(id=2), wire.GetView(id=3), wire.Ping(id=4))
    ids = [reply.id for reply in other.receives(4)]
    assert ids[:2] == [1, 2]
    assert sorted(ids) == [1, 2, 3, 4]
    assert len(other.descriptors) == 1


def test_a_view_comes_behind_replies_that_were_asked_for_before(path: str) -> None:
    """On uvloop, whose transport writes at the end of the iteration."""
    for _ in range(20):
        check_order(path)


def test_a_dead_daemon_ends_reading_at_once(daemon: Start) -> None:
    """Its connection reports the end, though the memory is still mapped."""
    running = daemon()
    peer, reader = Wire(running.socket), ViewPeer(running.socket)
    view = reader.maps()
    put(peer, "k", "v")
    assert read(view, "k") == "v"
    running.kill()
    assert read(view, "k") == "ended"
