"""A daemon that cannot listen: one sentence with what to change, and the exit code by which systemd restarts it or not."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.daemons import Daemon, ask, listens, poll

needs_setpriv = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root and setpriv, to drop capabilities"
)

WITHOUT_TCP = """
import ctypes, struct, sys

# socket(AF_INET*) fails with EAFNOSUPPORT, as under RestrictAddressFamilies=AF_UNIX: a filter of seccomp(2) like systemd's.
instruction = struct.Struct("HBBI")
filter_ = b"".join(instruction.pack(*one) for one in [
    (0x20, 0, 0, 0),             # the number of the system call
    (0x15, 0, 4, 41),            # socket on x86-64; others are allowed
    (0x20, 0, 0, 16),            # its first argument
    (0x15, 1, 0, 2),             # AF_INET
    (0x15, 0, 1, 10),            # AF_INET6
    (0x06, 0, 0, 0x00050000 | 97),
    (0x06, 0, 0, 0x7FFF0000),
])
code = ctypes.create_string_buffer(filter_, len(filter_))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(filter_) // 8, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
if libc.prctl(22, 2, program, 0, 0):
    sys.exit("no seccomp")
import sidecard.__main__
sys.exit(sidecard.__main__.main())
"""


def serve(*arguments: str, program: str = "", without: str = "") -> subprocess.CompletedProcess[str]:
    """Start a daemon in vain, ``without`` some capabilities."""
    command = [sys.executable, *(["-c", program] if program else ["-m", "sidecard"]), "serve", "--no-state", *arguments]
    prefix = ["setpriv", f"--bounding-set={without}"] if without else []
    return subprocess.run([*prefix, *command], capture_output=True, text=True, check=False, timeout=30)


def problem(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the only line of the error."""
    assert done.returncode == code, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter has numbers of x86-64")
@pytest.mark.parametrize("listen", ["127.0.0.1:9464", "[::1]:9464", "localhost:9464"])
def test_http_without_tcp_names_the_drop_in(listen: str, socket_path: str) -> None:
    """A restart would not help."""
    done = serve("--socket", socket_path, f"--set=http.listen={listen}", program=WITHOUT_TCP)
    if "no seccomp" in done.stderr:
        pytest.skip("seccomp is not permitted here")

    found = problem(done, 78)
    assert "not supported" in found or "cannot resolve" in found
    assert "sidecard-network.conf" in found
    assert not Path(socket_path).exists()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the filter has numbers of x86-64")
def test_a_store_without_tcp_names_the_drop_in(socket_path: str) -> None:
    """The daemon serves; health names the settings that have no effect."""
    command = [sys.executable, "-c", WITHOUT_TCP, "serve", "--no-state", "--socket", socket_path]
    settings = [
        "--set=store.url=redis://127.0.0.1:9/0",
        "--set=push.url=http://127.0.0.1:9/api/v1/import",
        "--set=calls.url=postgresql://u@127.0.0.1/d",  # has no effect without calls.enabled
    ]
    with subprocess.Popen([*command, *settings], stderr=subprocess.DEVNULL) as process:
        try:
            poll(lambda: listens(socket_path) or process.poll() is not None, "the daemon does not listen")
            if process.poll() is not None:
                pytest.skip("seccomp is not permitted here")

            reasons: Any = ask(socket_path, {"op": "health"})["reasons"]
        finally:
            process.terminate()

    (found,) = (reason for reason in reasons if "TCP" in reason)
    assert found.startswith("store.url and push.url need TCP, which this daemon is not permitted to use.")
    assert "sidecard-network.conf" in found


@needs_setpriv
def test_a_privileged_port_is_78_with_advice(socket_path: str) -> None:
    """Those without the capability cannot have it."""
    start = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text().strip()
    if start == "0":
        pytest.skip("no port is privileged here")

    done = serve("--socket", socket_path, "--set=http.listen=127.0.0.1:80", without="-net_bind_service")
    found = problem(done, 78)
    assert "cannot listen on 127.0.0.1:80 for HTTP: permission denied. Use a port above 1023" in found


def test_an_address_in_use_may_become_free(socket_path: str) -> None:
    """So systemd restarts the daemon."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = serve("--socket", socket_path, f"--set=http.listen=127.0.0.1:{taken.getsockname()[1]}")

    assert "for HTTP: address already in use. Stop the process that listens there" in problem(done, 1)


def test_another_hosts_address_may_come_up(socket_path: str) -> None:
    """An interface may not be up yet at boot."""
    done = serve("--socket", socket_path, "--set=http.listen=192.0.2.1:9464", "--set=http.allow_remote=true")
    assert "No interface of this host has that address" in problem(done, 1)


@pytest.mark.parametrize("setting", ["socket.path", "http.listen"])
def test_a_path_that_is_too_long_is_78(setting: str, socket_path: str, tmp_path: Path) -> None:
    """The error has the limit and the setting."""
    path = f"{tmp_path}/{'x' * 120}"
    done = serve(*(["--socket", socket_path] if setting == "http.listen" else []), f"--set={setting}={path}")
    found = problem(done, 78)
    assert "107" in found
    assert "hoose a shorter" in found


def test_a_file_in_the_path_is_78(tmp_path: Path) -> None:
    """The directory of the socket cannot be made."""
    (tmp_path / "file").touch()
    found = problem(serve("--socket", f"{tmp_path}/file/s.sock"), 78)
    assert "or choose another --socket" in found


@needs_setpriv
def test_a_directory_without_permission_is_78(tmp_path: Path) -> None:
    """The advice names the user and the directory."""
    tmp_path.chmod(0o500)
    done = serve("--socket", str(tmp_path / "s.sock"), without="-dac_override,-dac_read_search")
    assert f"permission denied. Let the daemon's user (uid 0) write to {tmp_path}, or choose" in problem(done, 78)


def test_a_socket_of_another_daemon_is_1(daemon: Callable[..., Daemon], socket_path: str) -> None:
    """It may stop."""
    daemon()
    assert "another sidecard daemon serves at" in problem(serve("--socket", socket_path), 1)
