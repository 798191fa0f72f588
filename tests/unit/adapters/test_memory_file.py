"""Files that exist in memory only, on kernels and Pythons of several ages."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from sidecard.adapters.memory_file import new_memory_file

ADD_SEALS, GET_SEALS, NO_SEALS, SEAL_SHRINK, SEAL_EXEC = 1033, 1034, 0, 2, 0x20


def check(descriptor: int) -> None:
    """Check that a file can be sealed, and is closed in programs that this process starts."""
    try:
        assert not os.get_inheritable(descriptor)
        assert fcntl.fcntl(descriptor, GET_SEALS) & ~SEAL_EXEC == NO_SEALS
        fcntl.fcntl(descriptor, ADD_SEALS, SEAL_SHRINK)
        assert Path(f"/proc/self/fd/{descriptor}").readlink().name.startswith("memfd:name")
    finally:
        os.close(descriptor)


def test_a_new_file_is_empty_and_can_be_sealed() -> None:
    """It is not inherited."""
    check(new_memory_file("name"))


def test_an_older_kernel_gets_no_unknown_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux before 6.3 refuses the flag against execution with EINVAL."""
    create, flags_seen = os.memfd_create, []

    def old(name: str, flags: int) -> int:
        flags_seen.append(flags)
        if flags & 0x8:
            raise OSError(errno.EINVAL, "Invalid argument")

        return create(name, flags)

    monkeypatch.setattr(os, "memfd_create", old)
    check(new_memory_file("name"))
    assert flags_seen == [0xB, 0x3]


def test_another_error_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call filter answers EPERM whatever the flags."""
    calls = []

    def forbidden(_: str, flags: int) -> int:
        calls.append(flags)
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "memfd_create", forbidden)
    with pytest.raises(PermissionError):
        new_memory_file("name")

    assert len(calls) == 1


def test_a_python_without_memory_files_uses_the_c_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python lacks the function if it was built for an old C library."""
    monkeypatch.delattr(os, "memfd_create")
    check(new_memory_file("name"))
    with pytest.raises(OSError, match="Invalid argument"):
        new_memory_file("x" * 300)
