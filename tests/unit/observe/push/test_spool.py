"""The queue on disk: foreign files in its directory never stop it, and never leave it as blocks."""

import errno
import os
import struct
import zlib
from pathlib import Path

import pytest

from sidecard.observe.push.spool import MAX_CORRUPT_FILES, Spool
from sidecard.observe.push.spool_position import MAX_NUMBER
from sidecard.observe.push.spool_records import (
    FILE_MAGIC,
    MAX_BODY_BYTES,
    RECORD_OVERHEAD_BYTES,
    Block,
    decode_records,
    encode_record,
)

FIRST, SECOND = "0000000000000001.blocks", "0000000000000002.blocks"


def block(number: int, size: int = 100) -> Block:
    """Make a block that differs from others."""
    return Block(1, number + 1, 1_700_000_000_000 + number, f"{number}".encode().ljust(size, b"."))


class Queue:
    """A spool, and what it reported."""

    def __init__(self, directory: Path, max_bytes: int = 1_000_000) -> None:
        self.dropped: list[int] = []
        self.damaged: list[Path] = []
        self.spool = Spool(
            directory, max_bytes=max_bytes, on_dropped=self.dropped.append, on_damaged=self.damaged.append
        )

    def drain(self, most: int = 1_000_000) -> list[Block]:
        """Take blocks."""
        taken: list[Block] = []
        while len(taken) < most and (found := self.spool.oldest()) is not None:
            taken.append(found[1])
            self.spool.take(found[0])

        return taken

    def end(self) -> list[Block]:
        """Take all blocks and close."""
        taken = self.drain()
        self.spool.close()
        return taken


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Name a directory that is not there yet."""
    return tmp_path / "spool"


def filled(directory: Path, count: int = 5, max_bytes: int = 1_000_000) -> list[Block]:
    """Leave blocks behind."""
    queue = Queue(directory, max_bytes)
    blocks = [block(number) for number in range(count)]
    for one in blocks:
        queue.spool.append(one)

    queue.spool.close()
    return blocks


def names(directory: Path) -> set[str]:
    """Return what is there, but for what is always there."""
    return {path.name for path in directory.iterdir()} - {"lock", "position"}


def test_blocks_leave_in_order_and_once(directory: Path) -> None:
    """No file stays, and only the owner can enter the directory."""
    queue = Queue(directory)
    blocks = [block(number) for number in range(20)]
    for one in blocks[:10]:
        queue.spool.append(one)

    assert queue.drain(5) == blocks[:5]
    for one in blocks[10:]:
        queue.spool.append(one)

    assert queue.end() == blocks[5:]
    assert names(directory) == set()
    assert queue.dropped == []
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_block_that_is_not_taken_is_returned_again(directory: Path) -> None:
    """Taking it twice removes no other."""
    filled(directory, 3)
    queue = Queue(directory)
    found = queue.spool.oldest()
    assert found is not None
    assert found == queue.spool.oldest()
    queue.spool.take(found[0])
    queue.spool.take(found[0])
    assert queue.end() == [block(1), block(2)]


def test_a_later_process_continues_where_the_last_one_ended(directory: Path) -> None:
    """Also after a kill: closing writes nothing that was not written before."""
    blocks = filled(directory)
    killed = Queue(directory)
    assert killed.drain(2) == blocks[:2]
    killed.spool._lock.close()  # as the kernel does
    assert Queue(directory).drain() == blocks[2:]


def test_file_numbers_are_not_reused(directory: Path) -> None:
    """Otherwise an old position would be applied to a new file."""
    blocks = filled(directory)
    queue = Queue(directory)
    assert queue.drain(4) == blocks[:4]
    queue.spool.close()
    (directory / FIRST).unlink()
    assert filled(directory) == blocks
    assert names(directory) == {SECOND}
    assert Queue(directory).end() == blocks


@pytest.mark.parametrize(
    "position",
    [
        b"",
        b"short",
        b"x" * 20,
        bytes(100),
        struct.pack("<QQI", 1, 30, 0),
        *(
            place + struct.pack("<I", zlib.crc32(place))
            for place in (
                struct.pack("<QQ", 1, 9),
                struct.pack("<QQ", 1, 2**40),
                struct.pack("<QQ", 0, 0),
                struct.pack("<QQ", MAX_NUMBER, 8),
                struct.pack("<QQ", 2**64 - 1, 2**64 - 1),
            )
        ),
    ],
)
def test_an_invalid_position_is_ignored(directory: Path, position: bytes) -> None:
    """It may be incomplete, damaged, inside a record, beyond the end, or of a file that never existed."""
    blocks = filled(directory)
    (directory / "position").write_bytes(position)
    queue = Queue(directory)
    assert queue.drain(3) == blocks[:3]
    queue.spool.close()
    assert Queue(directory).end() == blocks[3:]


def test_files_before_the_position_are_skipped(directory: Path) -> None:
    """They could not be removed, for example on a read-only disk."""
    filled(directory)
    place = struct.pack("<QQ", 7, 8)
    (directory / "position").write_bytes(place + struct.pack("<I", zlib.crc32(place)))
    queue = Queue(directory)
    queue.spool.append(block(9))
    assert "0000000000000008.blocks" in names(directory)
    assert queue.end() == [block(9)]


@pytest.mark.parametrize("name", ["position", FIRST, SECOND, f"{FIRST}.corrupt", "junk", "000.blocks"])
@pytest.mark.parametrize("kind", ["directory", "fifo", "link", "dangling link", "junk"])
def test_foreign_files_with_spool_names_are_harmless(directory: Path, tmp_path: Path, name: str, kind: str) -> None:
    """A directory, a FIFO without a writer, a link to another file, which is not touched."""
    directory.mkdir()
    foreign = tmp_path / "foreign"
    foreign.write_bytes(b"theirs")
    path = directory / name
    match kind:
        case "directory":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "link":
            path.symlink_to(foreign)
        case "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        case _:
            path.write_bytes(b"junk")

    for _ in range(2):
        queue = Queue(directory)
        for number in range(3):
            queue.spool.append(block(number))

        assert queue.end() == [block(0), block(1), block(2)]
        assert queue.dropped == []

    assert foreign.read_bytes() == b"theirs"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("length", range(len(FILE_MAGIC) + 2 * len(encode_record(block(0)))))
def test_a_torn_end_loses_only_the_incomplete_record(directory: Path, length: int) -> None:
    """Wherever it is torn; it does not count as damage."""
    blocks = filled(directory, 3)
    path = directory / FIRST
    path.write_bytes(path.read_bytes()[:length])
    queue = Queue(directory)
    assert queue.end() == blocks[: max(0, length - len(FILE_MAGIC)) // len(encode_record(block(0)))]
    assert queue.damaged == []
    assert names(directory) == set()


def test_a_damaged_record_loses_the_rest_of_its_file(directory: Path) -> None:
    """The records before it are used; the file is kept, and its blocks do not return."""
    first = filled(directory)
    path = directory / FIRST
    second = filled(directory)
    data = bytearray(path.read_bytes())
    data[len(FILE_MAGIC) + 2 * len(encode_record(block(0))) + 30] ^= 1
    path.write_bytes(data)
    queue = Queue(directory)
    assert queue.drain() == first[:2] + second
    assert queue.damaged == [directory / f"{FIRST}.corrupt"]
    assert names(directory) == {f"{FIRST}.corrupt"}
    assert queue.spool.size_bytes == len(data)
    queue.spool.close()
    assert Queue(directory).end() == []


def test_few_damaged_files_are_kept(directory: Path) -> None:
    """The newest ones, and none where the limit needs the room."""
    for _ in range(6):
        filled(directory, 1)

    for path in directory.glob("*.blocks"):
        path.write_bytes(b"no file of ours")

    queue = Queue(directory)
    assert queue.end() == []
    assert len(names(directory)) == MAX_CORRUPT_FILES
    queue = Queue(directory, 300)
    queue.spool.append(block(1))
    queue.spool.append(block(2))
    assert queue.end() == [block(1), block(2)]
    assert names(directory) == set()


def test_an_impossible_length_allocates_nothing() -> None:
    """It counts as damage."""
    data = bytearray(FILE_MAGIC + encode_record(block(0)))
    data[len(FILE_MAGIC) + 4 : len(FILE_MAGIC) + 8] = struct.pack("<I", MAX_BODY_BYTES + 1)
    assert decode_records(bytes(data)) == ([], True)


def test_at_the_limit_the_oldest_blocks_are_dropped(directory: Path) -> None:
    """All files stay within the limit, and every sample is taken or counted."""
    max_bytes = 5_000
    queue = Queue(directory, max_bytes)
    for number in range(200):
        queue.spool.append(block(number))
        on_disk = sum((directory / name).stat().st_size for name in names(directory))
        assert on_disk == queue.spool.size_bytes <= max_bytes

    left = queue.end()
    assert left == [block(number) for number in range(200 - len(left), 200)]
    assert len(left) * (100 + RECORD_OVERHEAD_BYTES) > max_bytes * 0.7
    assert sum(queue.dropped) + sum(one.samples for one in left) == sum(range(1, 201))


def test_a_lowered_limit_applies_immediately(directory: Path) -> None:
    """Also to files of an earlier process; dropped samples are counted."""
    blocks = filled(directory, 100, 50_000)
    queue = Queue(directory, 3_000)
    assert queue.spool.size_bytes <= 3_000
    left = queue.end()
    assert left == blocks[100 - len(left) :]
    assert sum(queue.dropped) + sum(one.samples for one in left) == sum(one.samples for one in blocks[-100:])


def test_a_block_above_the_limit_is_dropped_alone(directory: Path) -> None:
    """It does not displace all others first."""
    queue = Queue(directory, 1_000)
    queue.spool.append(block(0))
    queue.spool.append(block(1, 2_000))
    assert queue.dropped == [2]
    assert queue.end() == [block(0)]


def test_a_block_dropped_while_it_is_sent_counts_only_if_not_taken(directory: Path) -> None:
    """It may have arrived."""
    for arrives in (True, False):
        queue = Queue(directory, 1_000)
        queue.spool.append(block(0))
        found = queue.spool.oldest()
        assert found is not None
        for number in range(1, 20):
            queue.spool.append(block(number))

        if arrives:
            queue.spool.take(found[0])

        left = queue.end()
        made = sum(range(1, 21)) - (1 if arrives else 0)
        assert sum(queue.dropped) + sum(one.samples for one in left) == made


def test_one_process_uses_a_directory_at_a_time(directory: Path) -> None:
    """The other gets an error, and may use it later."""
    one = Queue(directory)
    with pytest.raises(BlockingIOError):
        Queue(directory)

    one.spool.close()
    Queue(directory).spool.close()


def test_a_removed_directory_is_an_error_and_counted(directory: Path) -> None:
    """Before more is written to files that cannot be found."""
    queue = Queue(directory)
    queue.spool.append(block(0))
    queue.spool.append(block(1))
    for path in directory.iterdir():
        path.unlink()

    directory.rmdir()
    with pytest.raises(FileNotFoundError):
        queue.spool.append(block(2))

    assert queue.dropped == [3]
    queue.spool.close()


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO, errno.EROFS], ids=os.strerror)
def test_a_failed_write_leaves_the_earlier_blocks(directory: Path, monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    """A half-written record is cut off again, and the next one starts a new file."""
    queue = Queue(directory)
    queue.spool.append(block(0))
    write, full = os.write, [False]

    def halved(descriptor: int, data: bytes) -> int:
        if full[0]:
            raise OSError(fault, os.strerror(fault))

        full[0] = True
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(os, "write", halved)
    with pytest.raises(OSError, match=os.strerror(fault)):
        queue.spool.append(block(1))

    with pytest.raises(OSError, match=os.strerror(fault)):
        queue.spool.append(block(1))

    monkeypatch.undo()
    assert names(directory) == {FIRST}
    assert (directory / FIRST).stat().st_size == queue.spool.size_bytes
    queue.spool.append(block(1))
    assert queue.end() == [block(0), block(1)]
    assert queue.dropped == []


def test_a_file_is_kept_where_descriptors_run_out(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is the host's, not the file's."""
    blocks = filled(directory)
    queue = Queue(directory)

    def refused(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refused)
        with pytest.raises(OSError, match="Too many open files"):
            queue.spool.oldest()

    assert queue.end() == blocks
