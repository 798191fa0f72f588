"""Locks and files that are not what they should be."""

import os
from pathlib import Path

import pytest

from sidecard.persistence.files import FileLock, create_regular, read_regular


def test_a_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    """A second holder is refused until the first has let go; releasing twice is harmless."""
    path = tmp_path / "lock"
    lock = FileLock(path)
    with pytest.raises(BlockingIOError):
        FileLock(path)

    lock.close()
    lock.close()
    FileLock(path).close()


def test_a_lock_follows_no_link(tmp_path: Path) -> None:
    """A link in a shared directory may lead anywhere."""
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="Too many levels"):
        FileLock(tmp_path / "lock")

    assert not (tmp_path / "target").exists()


def test_read_regular_is_bounded(tmp_path: Path) -> None:
    """One byte above the limit shows that the file is too large."""
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_regular(path, 5) == b"12345"
    assert read_regular(path, 3) == b"1234"


def test_a_fifo_is_refused_immediately(tmp_path: Path) -> None:
    """Neither reading nor creating waits for the FIFO's other end."""
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="not a regular file"):
        read_regular(path, 10)

    assert not create_regular(path)


def test_create_regular_makes_a_private_file(tmp_path: Path) -> None:
    """Only the owner can read what is created; what exists stays as it is."""
    path = tmp_path / "file"
    assert create_regular(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(b"kept")
    assert create_regular(path)
    assert path.read_bytes() == b"kept"
