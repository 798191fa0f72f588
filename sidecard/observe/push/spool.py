"""A queue of blocks on disk, bounded in bytes: what waits while the target of a push is away.

Blocks are appended to files of at most `MAX_FILE_BYTES`, and each file is removed when its last block was taken or when the
bound asks for it: the oldest goes first. Which block is next is written to ``position`` whenever one was taken, without
waiting for the disk: a killed process loses nothing that it had appended, and gives at most the block again that it was
sending. A host that loses power loses what its kernel had not written yet, and gives more blocks again.

=====================================  =================================================================================
what is wrong                          what becomes of it
=====================================  =================================================================================
a record is cut off                    it is passed over: it was never wholly written
a record or a file's head is damaged   what came before it is used; the file is kept as ``NAME.corrupt``, three at most
``position`` is damaged or makes no    the oldest file is begun anew
sense
anything else of whatever name         left alone
=====================================  =================================================================================

What stops the whole queue is an `OSError` of the call that met it, after which the queue is to be opened anew.
"""

import contextlib
import errno
import fcntl
import os
import re
from collections.abc import Callable
from pathlib import Path

from sidecard.observe.push.spool_position import NO_WAITING, Place, Position, content
from sidecard.observe.push.spool_records import (
    FILE_MAGIC,
    MAX_BODY_BYTES,
    Block,
    Records,
    record,
    records,
)

MAX_FILE_BYTES = 1024 * 1024
"""What goes at once at the bound. Precedent: vmagent's 512 MB, which is too coarse for a sidecar."""

MAX_CORRUPT_FILES = 3

_MAX_READ_BYTES = 2 * (MAX_FILE_BYTES + MAX_BODY_BYTES)

_FILES_AT_BOUND = 8
"""A small spool has smaller files, so that the bound does not cost half of it."""

_NAME = re.compile(r"0[0-9]{15}\.blocks")
_CORRUPT = re.compile(r"0[0-9]{15}\.blocks\.corrupt")
_PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""What is wrong with the host, and not with a file."""


class _File:
    """One file of blocks."""

    __slots__ = ("bytes", "number", "samples")

    def __init__(self, number: int, size_bytes: int, samples: int | None) -> None:
        self.number = number
        self.bytes = size_bytes
        self.samples = samples
        """None where an earlier process wrote it and it was not read yet."""


class Spool:
    """The queue in ``directory``, which is made where only the last part of its path is missing.

    ``max_bytes`` bounds all that is on disk, ``dropped`` gets the number of samples that went without being taken, and
    ``damaged`` the names under which files are set aside. To be used by one thread at a time: each method waits for the disk.
    Raises `OSError`; `BlockingIOError` where another process uses the directory.
    """

    def __init__(
        self, directory: Path, *, max_bytes: int, dropped: Callable[[int], None], damaged: Callable[[Path], None]
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_file_bytes = max(1, min(MAX_FILE_BYTES, max_bytes // _FILES_AT_BOUND))
        self._dropped = dropped
        self._tell_damaged = damaged
        self._files: list[_File] = []
        self._writing: int | None = None
        """The descriptor of the last file, while blocks are appended to it."""
        self._reading: list[tuple[int, Block]] = []
        """Blocks of the first file that were read and not taken, the next one last."""
        self._read: int | None = None
        """The number of the file that those are of."""
        self._damaged = False
        """Whether more follows in that file, which cannot be read."""
        self._lent: tuple[Place, Block] | None = None
        """The block that was shown last, as long as it was not taken."""
        self._lent_gone = False
        """Whether its file had to go meanwhile."""
        self._corrupt_bytes = 0
        self._position = Position(directory / "position")
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)

        self._lock = os.open(directory / "lock", os.O_RDONLY | os.O_CREAT | NO_WAITING, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._find_files()
        except OSError:
            self.close()
            raise

    @property
    def size_bytes(self) -> int:
        """What is on disk, damaged files included."""
        return sum(file.bytes for file in self._files) + self._corrupt_bytes

    @property
    def empty(self) -> bool:
        """Whether nothing waits, as far as it is known: files of an earlier process may hold nothing that can be read."""
        return not self._files

    def append(self, block: Block) -> None:
        """Add the newest block, and drop the oldest ones where the bound asks for it."""
        data = record(block)
        if len(block.body) > MAX_BODY_BYTES or len(FILE_MAGIC) + len(data) > self._max_bytes:
            self._dropped(block.samples)
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

    def oldest(self) -> tuple[Place, Block] | None:
        """Show the block that is next; None where nothing waits. It stays until it is taken."""
        if self._lent is not None and self._lent_gone:
            # It was shown and is not taken: nobody else will.
            self._dropped(self._lent[1].samples)

        self._lent, self._lent_gone = None, False
        while self._files:
            file = self._files[0]
            if self._read != file.number:
                self._open(file)

            if self._reading:
                offset, block = self._reading[-1]
                self._lent = Place(file.number, offset), block
                return self._lent

            self._end(file)

        return None

    def take(self, place: Place) -> None:
        """Remove the block that was shown at ``place``. To do it twice, or after the bound has removed it, changes nothing."""
        if self._lent is None or self._lent[0] != place:
            return

        self._lent, gone = None, self._lent_gone
        self._lent_gone = False
        if gone:
            return

        _, block = self._reading.pop()
        file = self._files[0]
        file.samples = (file.samples or block.samples) - block.samples
        if self._reading:
            self._position.note(place)
        else:
            self._end(file)

    def close(self) -> None:
        """Let others use the directory. What is in it stays."""
        self._seal()
        self._position.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    # Files -----------------------------------------------------------------------------------------------------------

    def _find_files(self) -> None:
        with os.scandir(self._directory) as entries:
            sizes = {
                entry.name: entry.stat(follow_symlinks=False).st_size
                for entry in entries
                if _NAME.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
            }

        self._files = [_File(int(name.partition(".")[0]), size, None) for name, size in sorted(sizes.items())]
        noted = self._position.noted()
        # A number is never used again: the position may be one of a file that is gone.
        self._number = max([0 if noted is None else noted.file, *(file.number for file in self._files)])
        self._keep_few_corrupt()
        if noted is not None:
            self._go_to(noted)

        self._make_room(0)

    def _go_to(self, noted: Place) -> None:
        """Pass over what was taken already. A position that is no record's end says nothing, and is passed over itself."""
        for file in [file for file in self._files if file.number < noted.file]:
            self._forget(file)

        if self._files and self._files[0].number == noted.file:
            self._open(self._files[0])
            if any(offset == noted.offset for offset, _ in self._reading):
                while self._reading and self._reading[-1][0] <= noted.offset:
                    self._reading.pop()

                self._files[0].samples = sum(block.samples for _, block in self._reading)

    def _path(self, number: int) -> Path:
        return self._directory / f"{number:016}.blocks"

    def _begin_file(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | NO_WAITING
        while self._writing is None:
            self._number += 1
            # Something that is no file of ours may have the name.
            with contextlib.suppress(FileExistsError):
                self._writing = os.open(self._path(self._number), flags, 0o600)

        self._files.append(_File(self._number, 0, 0))

    def _write(self, data: bytes) -> None:
        """Write all or nothing. Raises `OSError`, also where the file is no longer in the directory."""
        descriptor, file = self._writing, self._files[-1]
        if descriptor is None:
            return

        try:
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])

            if os.fstat(descriptor).st_nlink == 0:
                self._miss_removed()
                raise FileNotFoundError(errno.ENOENT, "its files were removed")
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, file.bytes)

            self._seal()
            if not file.bytes and file in self._files:
                self._forget(file)

            raise

        file.bytes += len(data)

    def _miss_removed(self) -> None:
        """Count what was in files that somebody has removed."""
        for file in [file for file in self._files if not self._path(file.number).exists()]:
            self._drop(file)

    def _seal(self) -> None:
        """End the file that is written: a file that is read no longer grows."""
        if self._writing is not None:
            os.close(self._writing)
            self._writing = None

    def _open(self, file: _File) -> None:
        """Read a file whole. One that cannot be read holds nothing, and is damaged."""
        if file is self._files[-1]:
            self._seal()

        try:
            found = records(content(self._path(file.number), _MAX_READ_BYTES))
        except OSError as error:
            if error.errno in _PASSING:
                raise

            found = Records([], damaged=not isinstance(error, FileNotFoundError))

        self._read = file.number
        self._reading = found.blocks[::-1]
        self._damaged = found.damaged
        there = sum(block.samples for _, block in found.blocks)
        if file.samples is not None and file.samples > there:
            self._dropped(file.samples - there)

        file.samples = there

    def _end(self, file: _File) -> None:
        """Remove a file of which nothing is left to take; set it aside where something in it cannot be read."""
        damaged = self._damaged
        if damaged:
            self._set_aside(file)

        self._forget(file, remove=not damaged)

    def _set_aside(self, file: _File) -> None:
        path = self._path(file.number)
        corrupt = path.with_name(f"{path.name}.corrupt")
        with contextlib.suppress(OSError):
            path.replace(corrupt)

        self._tell_damaged(corrupt)
        self._keep_few_corrupt()

    def _forget(self, file: _File, *, remove: bool = True) -> None:
        if remove:
            with contextlib.suppress(OSError):
                self._path(file.number).unlink()

        self._files.remove(file)
        if self._read == file.number:
            self._read, self._reading, self._damaged = None, [], False

    def _keep_few_corrupt(self, count: int = MAX_CORRUPT_FILES) -> None:
        """Remove all damaged files but the newest ones, and sum up what those take."""
        self._corrupt_bytes = 0
        with contextlib.suppress(OSError):
            found = sorted(path for path in self._directory.iterdir() if _CORRUPT.fullmatch(path.name))
            few = max(0, len(found) - count)
            for path in found[:few]:
                path.unlink()

            self._corrupt_bytes = sum(path.lstat().st_size for path in found[few:])

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
        if self._lent is not None and self._lent[0].file == file.number and not self._lent_gone:
            # It may be on its way at this moment, and arrive.
            self._lent_gone = True
            samples -= self._lent[1].samples

        self._forget(file)
        if samples:
            self._dropped(samples)
