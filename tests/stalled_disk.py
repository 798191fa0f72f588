"""A disk whose reads stall: SQLite's own ``pread`` waits while a file exists.

SQLite lets tests replace its system calls (``sqlite3_vfs.xSetSystemCall``). The replacement waits where a real one would wait for its
disk: below SQLite, in the thread that reads, without Python's lock. A daemon gets it by a ``sitecustomize``: `environ`.
"""

import ctypes
import os
import sqlite3  # noqa: F401 - it loads the library
import time
from pathlib import Path

_PREAD = ctypes.CFUNCTYPE(ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64)


class _Vfs(ctypes.Structure):
    """``sqlite3_vfs`` of version 3, as far as it matters."""

    _fields_ = (
        ("numbers", ctypes.c_int * 3),
        ("following", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("methods", ctypes.c_void_p * 13),
        ("set_system_call", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)),
    )


def _find_vfs() -> "ctypes._Pointer[_Vfs] | None":
    for line in Path("/proc/self/maps").read_text().splitlines():
        name = line.split()[-1]
        if "sqlite3" in name and ".so" in name:
            library = ctypes.CDLL(name)
            if hasattr(library, "sqlite3_vfs_find"):
                library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
                found: ctypes._Pointer[_Vfs] = library.sqlite3_vfs_find(None)
                return found

    return None


CAN_STALL = _find_vfs() is not None
"""Whether SQLite is a library of its own here, so that its system calls can be replaced."""

_kept: list[object] = []


def install(stalled: Path) -> None:
    """Let all reads of SQLite in this process wait while ``stalled`` exists; its name with ``.seen`` appears once one waits."""

    def read(descriptor: int, buffer: int, size: int, offset: int) -> int:
        while stalled.exists():
            stalled.with_suffix(".seen").touch()
            time.sleep(0.01)

        data = os.pread(descriptor, size, offset)
        ctypes.memmove(buffer, data, len(data))
        return len(data)

    pread = _PREAD(read)
    vfs = _find_vfs()
    assert vfs is not None
    _kept.append(pread)
    for name in (b"pread", b"pread64"):
        vfs.contents.set_system_call(ctypes.cast(vfs, ctypes.c_void_p), name, ctypes.cast(pread, ctypes.c_void_p))


def environ(directory: Path, stalled: Path) -> dict[str, str]:
    """Return the environment of a daemon whose reads stall while ``stalled`` exists."""
    repository = Path(__file__).parents[1]
    text = f"from pathlib import Path\nfrom tests.stalled_disk import install\ninstall(Path({str(stalled)!r}))\n"
    (directory / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": f"{directory}:{repository}:{os.environ.get('PYTHONPATH', '')}"}
