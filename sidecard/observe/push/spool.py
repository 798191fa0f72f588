"""The spool: a queue of blocks on disk, bounded in bytes.

Blocks are appended to files of at most `MAX_FILE_BYTES`. A file is removed when its last block was taken, or when the bound
requires it: the oldest first. The position of the next block is written after each one that was taken, without waiting for the
disk: a killed process loses nothing that it appended, and sends at most the block again that it was sending. A host that loses
power loses what its kernel had not written yet, and sends more blocks again.

=======================================  ==============================================================================
problem                                  consequence
=======================================  ==============================================================================
a record is cut off                      skipped: it was never completely written
a record or a file's header is damaged   the blocks before it are used; the file is kept as ``NAME.corrupt``, at most 3
``position`` is damaged or out of range  the oldest file is read from its beginning
any other file                           ignored
=======================================  ==============================================================================

A fault of the whole queue is an `OSError` of the call that met it; the queue must then be reopened.
"""

import contextlib
import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from sidecard.observe.push.spool_position import BlockPosition, PositionFile
from sidecard.observe.push.spool_records import (
    FILE_MAGIC,
    MAX_BODY_BYTES,
    Block,
    Records,
    decode_records,
    encode_record,
)
from sidecard.persistence.files import SAFE_FLAGS, FileLock, read_regular

MAX_FILE_BYTES = 1024 * 1024
"""Size of one file, the unit that is dropped at the bound. Precedent: vmagent's 512 MB, which is too coarse for a sidecar."""

MAX_CORRUPT_FILES = 3

_MAX_READ_BYTES = 2 * (MAX_FILE_BYTES + MAX_BODY_BYTES)

_FILES_AT_BOUND = 8
"""A small spool has smaller files, so that reaching the bound does not drop half of it."""

_NAME = re.compile(r"0[0-9]{15}\.blocks")
_CORRUPT = re.compile(r"0[0-9]{15}\.blocks\.corrupt")
_HOST_FAULTS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""Errors of the host, not of a file."""


class _File(Struct, eq=False):
    """One file of blocks."""

    number: int
    bytes: int
    samples: int | None
    """None if an earlier process wrote the file and it was not read yet."""


class Spool:
    """The queue in ``directory``, which is created if its parent exists.

    ``max_bytes`` bounds all files. ``on_dropped`` receives the number of samples dropped without being taken, ``on_damaged``
    the names of files that are set aside. One thread at a time may use it: each method waits for the disk.
    Raises `OSError`; `BlockingIOError` where another process uses the directory.
    """

    def __init__(
        self, directory: Path, *, max_bytes: int, on_dropped: Callable[[int], None], on_damaged: Callable[[Path], None]
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_file_bytes = max(1, min(MAX_FILE_BYTES, max_bytes // _FILES_AT_BOUND))
        self._on_dropped = on_dropped
        self._on_damaged = on_damaged
        self._files: list[_File] = []
        self._writing: int | None = None
        """The descriptor of the last file, while blocks are appended to it."""
        self._blocks: list[tuple[int, Block]] = []
        """Blocks of the first file that were read and not taken, the next one last."""
        self._read: int | None = None
        """The number of the file that those belong to."""
        self._damaged = False
        """Whether the rest of that file cannot be read."""
        self._shown: tuple[BlockPosition, Block] | None = None
        """The block that `oldest` returned last, until it is taken."""
        self._shown_dropped = False
        """Whether that block's file was dropped meanwhile."""
        self._corrupt_bytes = 0
        self._position = PositionFile(directory / "position")
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)

        self._lock = FileLock(directory / "lock")
        try:
            self._find_files()
        except OSError:
            self.close()
            raise

    @property
    def size_bytes(self) -> int:
        """The size of all files, damaged ones included."""
        return sum(file.bytes for file in self._files) + self._corrupt_bytes

    @property
    def empty(self) -> bool:
        """Whether there is no file. Files of an earlier process may turn out to hold no block."""
        return not self._files

    def append(self, block: Block) -> None:
        """Add the newest block, and drop the oldest ones if the bound requires it."""
        data = encode_record(block)
        if len(block.body) > MAX_BODY_BYTES or len(FILE_MAGIC) + len(data) > self._max_bytes:
            self._on_dropped(block.samples)
            return

        if self._writing is not None and self._files[-1].bytes + len(data) > self._max_file_bytes:
            self._seal()

        head = FILE_MAGIC if self._writing is None else b""
        self._make_room(len(head) + len(data))
        if self._writing is None:
            head = FILE_MAGIC
            self._begin_file()

        self._write(head + data)
        file = self._files[-1]
        file.samples = (file.samples or 0) + block.samples

    def oldest(self) -> tuple[BlockPosition, Block] | None:
        """Return the oldest block; None if there is none. It stays until it is taken."""
        if self._shown is not None and self._shown_dropped:
            # It was returned and not taken, and cannot be any more.
            self._on_dropped(self._shown[1].samples)

        self._shown, self._shown_dropped = None, False
        while self._files:
            file = self._files[0]
            if self._read != file.number:
                self._open(file)

            if self._blocks:
                offset, block = self._blocks[-1]
                self._shown = BlockPosition(file.number, offset), block
                return self._shown

            self._end(file)

        return None

    def take(self, position: BlockPosition) -> None:
        """Remove the block that `oldest` returned. Taking it twice, or after it was dropped, changes nothing."""
        if self._shown is None or self._shown[0] != position:
            return

        self._shown, dropped = None, self._shown_dropped
        self._shown_dropped = False
        if dropped:
            return

        _, block = self._blocks.pop()
        file = self._files[0]
        file.samples = (file.samples or block.samples) - block.samples
        if self._blocks:
            self._position.write(position)
        else:
            self._end(file)

    def close(self) -> None:
        """Release the directory. Its content stays."""
        self._seal()
        self._position.close()
        self._lock.close()

    # Files -----------------------------------------------------------------------------------------------------------

    def _find_files(self) -> None:
        with os.scandir(self._directory) as entries:
            sizes = {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            }

        self._files = [_File(int(name.partition(".")[0]), size, None) for name, size in sorted(sizes.items())]
        position = self._position.read()
        # A number is never reused: the position may refer to a file that is gone.
        self._number = max([0 if position is None else position.file, *(file.number for file in self._files)])
        self._keep_few_corrupt()
        if position is not None:
            self._skip_to(position)

        self._make_room(0)

    def _skip_to(self, position: BlockPosition) -> None:
        """Skip what was taken already. A position that is not the end of a record is ignored."""
        for file in [file for file in self._files if file.number < position.file]:
            self._forget(file)

        if self._files and self._files[0].number == position.file:
            self._open(self._files[0])
            if any(offset == position.offset for offset, _ in self._blocks):
                while self._blocks and self._blocks[-1][0] <= position.offset:
                    self._blocks.pop()

                self._files[0].samples = sum(block.samples for _, block in self._blocks)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:016}.blocks"

    def _begin_file(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | SAFE_FLAGS
        while self._writing is None:
            self._number += 1
            # Something that is no file of ours may have the name.
            with contextlib.suppress(FileExistsError):
                self._writing = os.open(self._path(self._number), flags, 0o600)

        self._files.append(_File(self._number, 0, 0))

    def _write(self, data: bytes) -> None:
        """Write all or nothing. Raises `OSError`, also if the file is no longer in the directory."""
        descriptor, file = self._writing, self._files[-1]
        if descriptor is None:
            return

        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])

            if os.fstat(descriptor).st_nlink == 0:
                for removed in [file for file in self._files if not self._path(file.number).exists()]:
                    self._drop(removed)

                raise FileNotFoundError(errno.ENOENT, "its files were removed")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, file.bytes)

            self._seal()
            if not file.bytes and file in self._files:
                self._forget(file)

            raise

        file.bytes += len(data)

    def _seal(self) -> None:
        """Append no more to the last file: a file that is read no longer grows."""
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None

    def _open(self, file: _File) -> None:
        """Read a whole file. One that cannot be read counts as damaged, without blocks."""
        if file is self._files[-1]:
            self._seal()

        try:
            found = decode_records(read_regular(self._path(file.number), _MAX_READ_BYTES))
        except OSError as error:
            if error.errno in _HOST_FAULTS:
                raise

            found = Records([], damaged=not isinstance(error, FileNotFoundError))

        self._read = file.number
        self._blocks = found.blocks[::-1]
        self._damaged = found.damaged
        samples = sum(block.samples for _, block in found.blocks)
        if file.samples is not None and file.samples > samples:
            self._on_dropped(file.samples - samples)

        file.samples = samples

    def _end(self, file: _File) -> None:
        """Remove a file whose blocks are all taken; set it aside if the rest of it cannot be read."""
        damaged = self._damaged
        if damaged:
            path = self._path(file.number)
            corrupt = path.with_name(f"{path.name}.corrupt")
            with contextlib.suppress(OSError):
                path.replace(corrupt)

            self._on_damaged(corrupt)
            self._keep_few_corrupt()

        self._forget(file, remove=not damaged)

    def _forget(self, file: _File, *, remove: bool = True) -> None:
        if remove:
            with contextlib.suppress(OSError):
                self._path(file.number).unlink()

        self._files.remove(file)
        if self._read == file.number:
            self._read, self._blocks, self._damaged = None, [], False

    def _keep_few_corrupt(self, count: int = MAX_CORRUPT_FILES) -> None:
        """Remove all damaged files but the newest ones, and sum up the size of those."""
        self._corrupt_bytes = 0
        with contextlib.suppress(OSError):
            found = sorted(path for path in self._directory.iterdir() if _CORRUPT.fullmatch(path.name))
            surplus = max(0, len(found) - count)
            for path in found[:surplus]:
                path.unlink()

            self._corrupt_bytes = sum(path.lstat().st_size for path in found[surplus:])

    # The bound -------------------------------------------------------------------------------------------------------

    def _make_room(self, wanted_bytes: int) -> None:
        if self._corrupt_bytes and self.size_bytes + wanted_bytes > self._max_bytes:
            self._keep_few_corrupt(0)

        while self._files and self.size_bytes + wanted_bytes > self._max_bytes:
            self._drop(self._files[0])

    def _drop(self, file: _File) -> None:
        if file is self._files[-1]:
            self._seal()

        if file.samples is None:
            self._open(file)

        samples = file.samples or 0
        if self._shown is not None and self._shown[0].file == file.number and not self._shown_dropped:
            # It may be on its way at this moment, and arrive.
            self._shown_dropped = True
            samples -= self._shown[1].samples

        self._forget(file)
        if samples:
            self._on_dropped(samples)
