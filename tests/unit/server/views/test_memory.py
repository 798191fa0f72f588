"""The memory file of a view: fully allocated, sealed, and erased at its end."""

import fcntl
import mmap
import os
import resource
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sidecard.server.views.memory import PIECE_BYTES, ViewMemory
from sidecard_client.protocol import view

SIZE = 3 * PIECE_BYTES + 4096


def new_memory(size: int = SIZE) -> ViewMemory:
    """Return a view's file, not yet allocated."""
    return ViewMemory(view.header_for(5, size, view.slots_for(size), "0123456789abcdef"))


@pytest.fixture
def memory() -> Iterator[ViewMemory]:
    """Return an allocated file."""
    one = new_memory()
    assert len(list(one.allocate())) == 4, "in pieces"
    yield one
    one.close()


def test_the_file_is_fully_allocated(memory: ViewMemory) -> None:
    """A page that is allocated later could end its reader with SIGBUS."""
    status = os.fstat(memory._descriptor)
    assert status.st_size == SIZE
    assert status.st_blocks * 512 >= SIZE


def test_the_daemon_writes_and_a_reader_sees_it(memory: ViewMemory) -> None:
    """The reader's mapping shows later changes. The header was written before."""
    with mmap.mmap(memory._descriptor, SIZE, prot=mmap.PROT_READ) as reader:
        assert view.decode_header(reader[: view.HEADER_BYTES]).view == 5
        memory.store(((8192, b"record"), (view.GENERATION_AT, 2)))
        assert reader[8192:8198] == b"record"
        assert view.decode_header(reader[: view.HEADER_BYTES]).generation == 2
        assert memory.word(view.GENERATION_AT) == 2


def reopened(descriptor: int, write: Callable[[int], object], flags: int = 0) -> None:
    """Open the file once more, for writing, and write."""
    again = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | flags)
    try:
        write(again)
    finally:
        os.close(again)


WRITES: dict[str, Callable[[int], object]] = {
    "map": lambda descriptor: mmap.mmap(descriptor, SIZE),
    "write": lambda descriptor: os.pwrite(descriptor, b"x", 8192),
    "shrink": lambda descriptor: os.ftruncate(descriptor, 4096),
    "grow": lambda descriptor: os.ftruncate(descriptor, 2 * SIZE),
    "allocate": lambda descriptor: os.posix_fallocate(descriptor, SIZE, 4096),
    "reopen and map": lambda descriptor: reopened(descriptor, lambda again: mmap.mmap(again, SIZE)),
    "reopen and write": lambda descriptor: reopened(descriptor, lambda again: os.pwrite(again, b"x", 8192)),
    "reopen and append": lambda descriptor: reopened(descriptor, lambda again: os.write(again, b"x"), os.O_APPEND),
    "truncate": lambda descriptor: os.truncate(f"/proc/self/fd/{descriptor}", 0),
    "unseal": lambda descriptor: fcntl.fcntl(descriptor, view.ADD_SEALS, 0),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_nothing_else_can_change_the_file(memory: ViewMemory, write: Callable[[int], object]) -> None:
    """Not even the daemon's own descriptor, of which clients get a copy."""
    with pytest.raises(PermissionError):
        write(memory._descriptor)


def test_a_reader_can_only_read(memory: ViewMemory) -> None:
    """It has a descriptor of its own, which has all seals."""
    reader = memory.open_reader()
    assert fcntl.fcntl(reader, view.GET_SEALS) & view.SEALS == view.SEALS
    assert not os.get_inheritable(reader)
    assert fcntl.fcntl(reader, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    with pytest.raises(PermissionError):
        mmap.mmap(reader, SIZE)

    os.close(reader)


def test_the_file_is_held_as_long_as_a_process_has_any_part_of_it(memory: ViewMemory) -> None:
    """A descriptor, a mapping, one on its way to a peer, one in a child process; not the daemon's own."""
    assert not memory.is_held()
    reader = memory.open_reader()
    assert memory.is_held()
    copy = os.dup(reader)
    os.close(reader)
    assert memory.is_held()
    mapped = mmap.mmap(copy, mmap.PAGESIZE, prot=mmap.PROT_READ, offset=mmap.PAGESIZE)
    os.close(copy)
    assert memory.is_held()
    mapped.close()
    assert not memory.is_held()

    ours, theirs = socket.socketpair()
    reader = memory.open_reader()
    socket.send_fds(ours, [b"x"], [reader])
    os.close(reader)
    assert memory.is_held()
    ours.close()
    theirs.close()
    assert not memory.is_held()

    read, write = os.pipe()
    reader = memory.open_reader()
    pid = os.fork()
    if not pid:
        os.close(write)
        os.read(read, 1)
        os._exit(0)

    os.close(reader)
    assert memory.is_held()
    os.close(write)
    os.waitpid(pid, 0)
    os.close(read)
    assert not memory.is_held()


def in_child(check: Callable[[], bool]) -> bool:
    """Return what a forked child finds; False if it is killed."""
    pid = os.fork()
    if not pid:
        os._exit(0 if check() else 1)

    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_lease_of_another_process_delays_nobody(memory: ViewMemory) -> None:
    """Only a process of the daemon's own user can take one. To open the file would wait for 45 seconds."""
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    reader = memory.open_reader()
    fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    began_at = time.monotonic()
    assert memory.is_held()
    with pytest.raises(BlockingIOError):
        memory.open_reader()

    assert time.monotonic() - began_at < 5.0
    os.close(reader)
    signal.signal(signal.SIGIO, signal.SIG_DFL)


def test_a_file_that_is_opened_while_it_is_probed_ends_no_daemon(
    memory: ViewMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel signals that the lease is broken."""
    close = os.close

    def open_and_close(descriptor: int) -> None:
        with suppress(BlockingIOError):
            os.open(f"/proc/self/fd/{memory._descriptor}", os.O_RDWR | os.O_NONBLOCK)

        close(descriptor)

    monkeypatch.setattr(os, "close", open_and_close)
    assert in_child(lambda: not memory.is_held())


def test_a_host_that_does_not_report_holders_gets_no_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that clients keep could not be counted."""
    monkeypatch.setattr(fcntl, "F_SETLEASE", -1)
    one = new_memory()
    with pytest.raises(OSError, match="no lease"):
        list(one.allocate())

    one.close()


def test_memory_that_the_host_refuses_raises() -> None:
    """The error comes while the file is allocated, before anyone uses it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PIECE_BYTES, hard))
    short = new_memory()
    try:
        with pytest.raises(OSError, match="File too large"):
            list(short.allocate())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        short.close()


def test_an_erased_file_has_only_its_header(memory: ViewMemory) -> None:
    """A process that still maps the file finds nothing in it."""
    with mmap.mmap(memory._descriptor, SIZE, prot=mmap.PROT_READ) as reader:
        memory.store(((view.HEADER_BYTES, b"x" * (SIZE - view.HEADER_BYTES)),))
        assert len(list(memory.erase())) == 3, "in pieces"
        assert reader[:8] == b"sidecard"
        assert not any(reader[view.HEADER_BYTES :])


def test_a_closed_file_leaves_neither_descriptor_nor_mapping() -> None:
    """Nor does one that was never allocated."""

    def held() -> tuple[int, int]:
        names = [os.fspath(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        maps = Path("/proc/self/maps").read_text(encoding="utf-8")
        return sum("sidecard-view-5" in name for name in names), maps.count("sidecard-view-5")

    before = held()
    whole, unused = new_memory(), new_memory()
    list(whole.allocate())
    assert held() > before
    whole.close()
    unused.close()
    assert held() == before


def test_a_child_process_does_not_keep_the_memory(memory: ViewMemory) -> None:
    """A forked child has no mapping."""
    pid = os.fork()
    if not pid:
        os._exit("sidecard-view" in Path("/proc/self/maps").read_text(encoding="utf-8"))

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert "sidecard-view" in Path("/proc/self/maps").read_text(encoding="utf-8")
