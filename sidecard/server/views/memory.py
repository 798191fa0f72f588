"""The memory file of one view. The daemon is its only writer; clients that receive its descriptor can only read.

1. *Allocated*, all of it, in pieces. Otherwise a page that the host cannot provide later would end its reader or writer with SIGBUS.
2. *Sealed* (memfd_create(2)): it neither shrinks nor grows, and nothing but the mapping made here writes to it, neither this
   descriptor nor one opened from it through ``/proc``.
3. *Written*, by stores in the order of `sidecard_client.protocol.view`.
4. *Erased*. Clients may keep their mappings, but find nothing in them.
5. *Closed*, once no process has it any more: until then its memory is charged to the daemon.

Each peer gets a descriptor that was opened for it, read-only. The kernel counts these, with all copies and mappings of them, and
grants the lease on the file (fcntl(2), F_SETLEASE) only if none is left; it counts neither the first descriptor nor its mapping.
"""

import errno
import fcntl
import mmap
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import Final

from sidecard.adapters.memory_file import new_memory_file
from sidecard.adapters.memory_room import memory_room
from sidecard_client.protocol import view
from sidecard_client.protocol.view import ViewHeader

PIECE_BYTES: Final = 1 << 20
"""Bytes that are allocated or erased at a time, which takes 0.3 ms. A multiple of the page size."""

ROOM_FACTOR: Final = 2
"""The host and the control group must permit this multiple of the size: at its limit, the kernel kills the daemon."""

_WORD_BYTES: Final = 8
_ZEROS: Final = bytes(PIECE_BYTES)


class ViewMemory:
    """A view's file. Raises `OSError` if the host provides no such memory."""

    def __init__(self, header: ViewHeader) -> None:
        if sys.byteorder != "little":
            raise OSError("a view is little-endian, and the words of this processor are not")

        self._header = header
        self._descriptor = new_memory_file(f"sidecard-view-{header.view}")
        self._map: mmap.mmap | None = None
        self._bytes = memoryview(b"")
        self._words = self._bytes

    def allocate(self) -> Iterator[None]:
        """Allocate, write the header, and seal; yield after each piece. Raises `OSError` if the host has too little memory."""
        size = self._header.size
        room = memory_room()
        if room is not None and room < ROOM_FACTOR * size:
            raise OSError(errno.ENOMEM, f"{size} bytes of {room} that host and control group still permit are too many")

        for start in range(0, size, PIECE_BYTES):
            os.posix_fallocate(self._descriptor, start, min(PIECE_BYTES, size - start))
            yield

        self._map = mmap.mmap(self._descriptor, size)
        # A process that the daemon starts would keep the memory, and a core dump would contain answers.
        self._map.madvise(mmap.MADV_DONTFORK)
        self._map.madvise(mmap.MADV_DONTDUMP)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")
        encoded = view.encode_header(self._header)
        self._bytes[: len(encoded)] = encoded
        fcntl.fcntl(self._descriptor, view.ADD_SEALS, view.SEALS)
        if self.is_held():
            raise OSError(errno.EOPNOTSUPP, "the kernel grants no lease on it")

    def open_reader(self) -> int:
        """Return a new descriptor for one peer, to be closed once it is passed. Raises `OSError`."""
        # Not blocking: otherwise an open waits for the end of a lease that another process of this user holds on the file.
        return os.open(f"/proc/self/fd/{self._descriptor}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)

    def is_held(self) -> bool:
        """Return whether any process may have a descriptor or a mapping of the file."""
        try:
            reader = self.open_reader()
        except OSError:
            return True

        try:
            # If a process of this user opens the file meanwhile, the kernel sends a signal: this one, instead of one that kills.
            fcntl.fcntl(reader, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(reader, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except OSError:
            return True
        finally:
            # This ends the lease.
            os.close(reader)

        return False

    def word(self, offset: int) -> int:
        """Return the word at ``offset``."""
        return self._words[offset // _WORD_BYTES]

    def store(self, stores: Iterable[view.Store]) -> None:
        """Execute stores, in order. A word is stored at once."""
        memory, words = self._bytes, self._words
        for offset, data in stores:
            if isinstance(data, int):
                words[offset // _WORD_BYTES] = data
            else:
                memory[offset : offset + len(data)] = data

    def erase(self) -> Iterator[None]:
        """Overwrite everything but the header with zeros; yield after each piece."""
        for start in range(view.HEADER_BYTES, self._header.size, PIECE_BYTES):
            end = min(start + PIECE_BYTES, self._header.size)
            self._bytes[start:end] = _ZEROS[: end - start]
            yield

    def close(self) -> None:
        """Release the daemon's descriptor and mapping."""
        os.close(self._descriptor)
        self._words.release()
        self._bytes.release()
        if self._map is not None:
            self._map.close()
