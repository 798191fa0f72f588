"""A daemon in a user namespace, as in a rootless container: which uid each peer has, and how peers without a mapped uid are treated."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemons import poll

TOOLS = ("unshare", "setpriv", "socat")

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, TOOLS)),
    reason=f"needs root, and {', '.join(TOOLS)}: peers of several uids are made here",
)

MAPPED, UNMAPPED = 5001, 5002
"""Uids of the host: the first is 1 in the daemon's namespace, where only root is mapped to itself."""

Start = Callable[..., str]


def asks(uid: int, path: str, **request: object) -> dict[str, object] | None:
    """Let a process of ``uid``, outside of the daemon's namespace, ask; None where its connection is closed unheard."""
    done = subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "socat", "-t10", "-", f"UNIX-CONNECT:{path}"],
        input=json.dumps(request) + "\n",
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
        cwd="/",
    )
    reply: dict[str, object] | None = json.loads(done.stdout) if done.stdout else None
    return reply


@pytest.fixture
def namespaced(socket_directory: Path) -> Iterator[Start]:
    """Start a daemon in a user namespace; return its socket's path. What it logs is in the file ``log`` beside it."""
    started: list[subprocess.Popen[bytes]] = []
    socket_directory.chmod(0o755)
    log = socket_directory / "log"

    def start(*flags: str) -> str:
        path = str(socket_directory / "u.sock")
        serve = [sys.executable, "-m", "sidecard", "serve", "--socket", path, "--no-state", "--log-format", "json"]
        become_root = ["setpriv", "--reuid=0", "--regid=0", "--clear-groups"]
        mapped = ["unshare", "--user", "sh", "-c", 'read line && exec "$@"', "sh"]
        with log.open("wb") as written:
            command = [*mapped, *become_root, *serve, "--set", "socket.mode=0666", *flags]
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=written, stderr=written)

        started.append(process)
        assert process.stdin is not None
        try:
            poll(
                lambda: Path(f"/proc/{process.pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink(),
                "no namespace",
            )
            for kind in ("uid", "gid"):
                Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 0 1\n1 {MAPPED} 1\n", encoding="ascii")

            process.stdin.write(b"\n")
            process.stdin.close()
        except (AssertionError, OSError) as error:
            pytest.skip(f"this machine makes no user namespaces: {error}")

        def serving() -> bool:
            assert process.poll() is None, log.read_text()
            return '"serving"' in log.read_text()

        poll(serving, "no daemon")
        return path

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_mapped_uid_is_itself_in_the_namespace(namespaced: Start) -> None:
    """Root is the daemon's own user and an operator; the other is uid 1."""
    path = namespaced("--set", "operators.uids=[1]")
    assert asks(0, path, op="config") is not None
    reply = asks(MAPPED, path, op="config")
    assert reply is not None
    assert reply["type"] == "config"


def test_unmapped_uid_is_rejected_with_the_reason(namespaced: Start, socket_directory: Path) -> None:
    """All unmapped uids are one to the kernel and would share what is private; the reply and the log say so."""
    path = namespaced()
    reply = asks(UNMAPPED, path, op="ping")
    assert reply is not None
    assert reply["code"] == "unavailable"
    assert "its uid is not mapped into this user namespace" in str(reply["message"])
    log = socket_directory / "log"
    poll(lambda: "peer denied" in log.read_text(), "nothing said")
    assert "give both containers the same UserNS=, or set socket.admit_unmapped" in log.read_text()
    assert asks(MAPPED, path, op="ping") is not None


def test_unmapped_uid_is_admitted_by_configuration(namespaced: Start) -> None:
    """Configured, all unmapped uids are admitted as one uid with one namespace."""
    path = namespaced("--set", "socket.admit_unmapped=true")
    assert asks(UNMAPPED, path, op="put", key="k", value="v") is not None
    for uid, answer in ((UNMAPPED + 1, "hit"), (MAPPED, "miss"), (0, "miss")):
        reply = asks(uid, path, op="get", key="k")
        assert reply is not None
        assert reply["type"] == answer
