"""Unmapped uids in user namespaces."""

from pathlib import Path

import pytest

from sidecard.server.connections import unmapped_uid


def proc(folder: Path, uid_map: str, overflow: str | None = "65534\n") -> Path:
    """Create the files of /proc that describe a user namespace."""
    (folder / "self").mkdir()
    (folder / "self" / "uid_map").write_text(uid_map)
    if overflow is not None:
        (folder / "sys" / "kernel").mkdir(parents=True)
        (folder / "sys" / "kernel" / "overflowuid").write_text(overflow)

    return folder


def test_outside_a_user_namespace_no_uid_is_unmapped(tmp_path: Path) -> None:
    """Not even that of the user ``nobody``."""
    assert unmapped_uid(proc(tmp_path, "         0          0 4294967295\n")) is None


@pytest.mark.parametrize(
    "uid_map",
    ["0 1000 1\n", "0 1000 1\n1 100000 65536\n", "0 1 1000\n1000 0 1\n1001 1001 64536\n"],
    ids=["one user", "rootless", "keep-id"],
)
def test_in_a_user_namespace_the_kernels_overflow_uid_is_unmapped(uid_map: str, tmp_path: Path) -> None:
    """The kernel reports its own number for all unmapped users."""
    assert unmapped_uid(proc(tmp_path, uid_map, "99\n")) == 99


@pytest.mark.parametrize(("uid_map", "overflow"), [("0 1000 1\n", None), ("", None), ("garbage\n", "99\n")])
def test_without_proc_files_the_usual_overflow_uid_is_unmapped(
    uid_map: str, overflow: str | None, tmp_path: Path
) -> None:
    """Otherwise peers would be admitted that cannot be distinguished."""
    assert unmapped_uid(proc(tmp_path, uid_map, overflow)) == 65534
