"""Who is let in."""

from pathlib import Path

import pytest

from sidecard.server.connections import unmapped_uid


def proc(folder: Path, uid_map: str, overflow: str | None = "65534\n") -> Path:
    """Make what /proc says of a process."""
    (folder / "self").mkdir()
    (folder / "self" / "uid_map").write_text(uid_map)
    if overflow is not None:
        (folder / "sys" / "kernel").mkdir(parents=True)
        (folder / "sys" / "kernel" / "overflowuid").write_text(overflow)

    return folder


def test_on_the_host_itself_every_uid_is_somebody(tmp_path: Path) -> None:
    """Also nobody, which is a user there."""
    assert unmapped_uid(proc(tmp_path, "         0          0 4294967295\n")) is None


@pytest.mark.parametrize(
    "uid_map",
    ["0 1000 1\n", "0 1000 1\n1 100000 65536\n", "0 1 1000\n1000 0 1\n1001 1001 64536\n"],
    ids=["one user", "rootless", "keep-id"],
)
def test_in_a_user_namespace_one_uid_stands_for_all_who_have_none(uid_map: str, tmp_path: Path) -> None:
    """By the kernel's own number for them."""
    assert unmapped_uid(proc(tmp_path, uid_map, "99\n")) == 99


@pytest.mark.parametrize(("uid_map", "overflow"), [("0 1000 1\n", None), ("", None), ("garbage\n", "99\n")])
def test_where_the_kernel_does_not_say_the_usual_number_is_taken(
    uid_map: str, overflow: str | None, tmp_path: Path
) -> None:
    """Rather than admit whom nobody can tell apart."""
    assert unmapped_uid(proc(tmp_path, uid_map, overflow)) == 65534
