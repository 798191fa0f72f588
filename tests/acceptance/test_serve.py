"""``sidecard serve`` from outside: started, stopped, killed, and sent invalid bytes."""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import msgspec
import pytest

from sidecard.daemon.socket_server import SPARE_DESCRIPTORS
from sidecard_client import __version__
from sidecard_client.protocol import wire
from sidecard_client.protocol.frames import frame
from tests.daemons import Daemon, ask, poll

Start = Callable[..., Daemon]


class Wire:
    """A peer that speaks msgpack frames, as a client of another language would."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.received = b""
        try:
            self.socket.connect(path)
        except OSError:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *requests: wire.Request) -> None:
        """Send requests in one piece."""
        self.socket.sendall(b"".join(frame(wire.pack(request)) for request in requests))

    def receive(self) -> wire.AnyReply | None:
        """Wait for one reply; None at the connection's end."""
        while len(self.received) < 4 or len(self.received) < 4 + int.from_bytes(self.received[:4], "big"):
            data = self.socket.recv(1 << 20)
            if not data:
                return None

            self.received += data

        end = 4 + int.from_bytes(self.received[:4], "big")
        reply: wire.AnyReply = wire.unpack_reply(self.received[4:end])
        self.received = self.received[end:]
        return reply

    def ask(self, request: wire.Request) -> wire.AnyReply | None:
        """Send one request and wait for one reply."""
        self.send(request)
        return self.receive()


class Bystander(threading.Thread):
    """Another peer, which pings all the time and must not be affected."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.enough = threading.Event()
        self.seconds: list[float] = []
        self.strange: list[object] = []

    def run(self) -> None:
        """Ping until `enough` is set, and once more after that."""
        last = False
        with Wire(self.path) as line:
            while not last:
                last = self.enough.wait(0.002)
                began_at = time.perf_counter()
                try:
                    reply = line.ask(wire.Ping(id=7))
                except OSError as error:
                    self.strange.append(error)
                    return

                self.seconds.append(time.perf_counter() - began_at)
                if not isinstance(reply, wire.Pong) or reply.id != 7:
                    self.strange.append(reply)


@contextlib.contextmanager
def unnoticed(path: str) -> Iterator[Bystander]:
    """Let a bystander ping during the block, and expect that it had every answer."""
    bystander = Bystander(path)
    bystander.start()
    poll(lambda: bool(bystander.seconds), "the bystander got no answer")
    before = len(bystander.seconds)
    try:
        yield bystander
    finally:
        bystander.enough.set()
        bystander.join()

    assert bystander.strange == []
    assert len(bystander.seconds) > before


def serve(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command that is expected to end by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    command = [sys.executable, "-m", "sidecard", *arguments]
    return subprocess.run(command, env=clean | environ, capture_output=True, text=True, timeout=30, check=False)


# -- start and stop ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_stops_the_daemon_with_0_and_leaves_only_the_lock_file(number: signal.Signals, daemon: Start) -> None:
    """The daemon logs that it serves and that it stopped, exits with 0, and leaves only its lock file."""
    running = daemon()
    running.process.send_signal(number)

    assert running.process.wait(timeout=10) == 0
    assert [entry.name for entry in Path(running.socket).parent.iterdir()] == ["s.sock.lock"]
    events = ["state not kept", "serving", "stopping", "drain started", "stopped"]
    assert [line["event"] for line in running.log()] == events


def test_daemon_after_a_kill_takes_over_the_stale_socket(daemon: Start) -> None:
    """A daemon replaces the socket file of a killed one without an operator's help."""
    running = daemon()
    running.kill()
    assert Path(running.socket).is_socket()

    running.start_again()
    assert ask(running.socket, {"op": "ping"})["type"] == "pong"
    assert running.terminate() == 0


def test_second_daemon_on_one_path_explains_and_exits(daemon: Start) -> None:
    """A second daemon on a path names the cause and exits; the first goes on, even if it was frozen."""
    running = daemon()
    inode = Path(running.socket).stat().st_ino
    second = serve("serve", "--socket", running.socket)
    assert second.returncode == 1
    assert "another sidecard daemon serves at" in second.stderr
    assert "Traceback" not in second.stderr

    os.kill(running.pid, signal.SIGSTOP)
    assert serve("serve", "--socket", running.socket).returncode == 1
    os.kill(running.pid, signal.SIGCONT)
    assert Path(running.socket).stat().st_ino == inode
    assert ask(running.socket, {"op": "ping"})["type"] == "pong"


def test_inherited_socket_is_served_and_stays(socket_path: str, tmp_path: Path) -> None:
    """The daemon serves a socket that systemd passes, with the connections in its queue, and leaves its file."""
    shim = tmp_path / "shim.py"
    shim.write_text(
        "import os, sys\n"
        "os.dup2(int(sys.argv[1]), 3, inheritable=True)\n"
        "os.environ |= {'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid()), 'LISTEN_FDNAMES': 'sidecard'}\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'sidecard', 'serve', '--no-state', '--socket', '/nowhere/at/all'])\n"
    )
    with socket.socket(socket.AF_UNIX) as passed:
        passed.bind(socket_path)
        passed.listen()
        command = [sys.executable, str(shim), str(passed.fileno())]
        with subprocess.Popen(command, pass_fds=(passed.fileno(),), stderr=subprocess.PIPE) as process:
            try:
                assert ask(socket_path, {"op": "ping"}, seconds=20)["type"] == "pong"
                process.terminate()
                _, errors = process.communicate(timeout=20)
            finally:
                process.kill()

    assert process.returncode == 0
    (serving,) = [line for line in map(json.loads, errors.splitlines()) if line["event"] == "serving"]
    assert serving["adopted"] is True
    assert Path(socket_path).is_socket()
    assert not Path(f"{socket_path}.lock").exists()


def test_systemd_receives_ready_watchdog_and_stopping(socket_directory: Path, daemon: Start) -> None:
    """The daemon sends READY when it accepts, WATCHDOG at twice the requested rate, and STOPPING at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(socket_directory / "notify"))
        systemd.settimeout(10)
        running = daemon(NOTIFY_SOCKET=str(socket_directory / "notify"), WATCHDOG_USEC="200000")
        messages = {systemd.recv(1000).partition(b"\n")[0] for _ in range(6)}
        assert messages == {b"READY=1", b"WATCHDOG=1"}

        assert running.terminate() == 0
        last = b"WATCHDOG=1"
        while last == b"WATCHDOG=1":
            last = systemd.recv(1000).partition(b"\n")[0]

        assert last == b"STOPPING=1"


# -- the drain ---------------------------------------------------------------------------------------------------------


def test_drain_lets_the_holder_complete_for_its_waiter(daemon: Start) -> None:
    """During a drain new calls are rejected, flights in progress end, and then the daemon does."""
    running = daemon()
    with Wire(running.socket) as holder, Wire(running.socket) as waiter:
        lease = holder.ask(wire.Begin("key", id=1))
        assert isinstance(lease, wire.Lease)
        assert isinstance(waiter.ask(wire.Begin("key", id=1)), wire.Pending)
        running.process.send_signal(signal.SIGTERM)
        rejected = poll_draining(holder)
        assert rejected.reason == "draining"
        with socket.socket(socket.AF_UNIX) as late, pytest.raises(ConnectionRefusedError):
            late.connect(running.socket)

        holder.send(wire.Complete(lease.lease, msgspec.Raw(msgspec.msgpack.encode("answer")), id=3))
        assert isinstance(holder.receive(), wire.Stored)
        shared = waiter.receive()
        assert isinstance(shared, wire.Shared)
        assert shared.value == "answer"
        assert waiter.receive() is None

    assert running.process.wait(timeout=10) == 0


def poll_draining(line: Wire) -> wire.Rejected:
    """Begin other calls until the daemon turns one away."""
    for number in range(1000):
        reply = line.ask(wire.Begin(None, id=number))
        if isinstance(reply, wire.Rejected):
            return reply

        assert isinstance(reply, wire.Lease)
        line.ask(wire.Fail(reply.lease, "ignored", id=number))

    pytest.fail("the daemon did not begin to drain")


def test_drain_beyond_its_time_rejects_waiters(daemon: Start) -> None:
    """After `drain_seconds` every waiter gets its final reply, whatever the holder does."""
    running = daemon("--set", "flights.drain_seconds=0.3")
    with Wire(running.socket) as holder, Wire(running.socket) as waiter:
        assert isinstance(holder.ask(wire.Begin("key", id=1)), wire.Lease)
        assert isinstance(waiter.ask(wire.Begin("key", id=1)), wire.Pending)
        began_at = time.monotonic()
        assert running.terminate(10) == 0
        assert 0.3 <= time.monotonic() - began_at < 5
        end = waiter.receive()
        assert isinstance(end, wire.Rejected)
        assert end.reason == "draining"


def test_second_signal_ends_the_drain(daemon: Start) -> None:
    """A second signal ends the drain immediately; waiters still get their final replies."""
    running = daemon("--set", "flights.drain_seconds=60")
    with Wire(running.socket) as holder, Wire(running.socket) as waiter:
        assert isinstance(holder.ask(wire.Begin("key", id=1)), wire.Lease)
        assert isinstance(waiter.ask(wire.Begin("key", id=1)), wire.Pending)
        running.process.send_signal(signal.SIGTERM)
        poll_draining(holder)
        assert running.terminate(10) == 0
        assert isinstance(waiter.receive(), wire.Rejected)


# -- settings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "environ", "code", "said"),
    [
        (["serve", "--set", "cache.ttl=1"], {}, 78, "the nearest known one is cache.ttl_seconds"),
        (["serve", "--set", "cache.ttl_seconds"], {}, 78, "write --set SECTION.KEY=VALUE"),
        (["serve", "--config", "/nowhere.toml"], {}, 78, "/nowhere.toml: cannot be read"),
        (["serve"], {"SIDECARD_CACHE_TTL_SECONDS": "soon"}, 78, "cache.ttl_seconds is 'soon'"),
        (["serve", "--log-level", "loud"], {}, 78, 'one of "debug", "info"'),
        (["serve", "--socket", "/dev/null"], {}, 1, "is not a socket"),
        (["serve", "--sockett", "/x"], {}, 2, "usage: sidecard"),
        (["sreve"], {}, 2, "serve"),
        ([], {}, 2, "COMMAND"),
    ],
)
def test_impossible_start_is_explained_on_standard_error_with_its_exit_code(
    arguments: list[str], environ: dict[str, str], code: int, said: str
) -> None:
    """A start that cannot succeed prints one sentence without a traceback and exits with its code."""
    ended = serve(*arguments, **environ)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_version_of_daemon_and_client_is_the_same() -> None:
    """Daemon and client have the same version."""
    assert serve("--version").stdout == f"sidecard {__version__}\n"


def test_setting_with_less_effect_than_it_suggests_is_logged_once(daemon: Start) -> None:
    """The daemon logs one warning for each setting with less effect than it suggests, and serves."""
    running = daemon(DATABASE_URL="postgresql://:secret@host/0")
    assert ask(running.socket, {"op": "config"})["type"] == "config"
    assert running.terminate() == 0
    warnings = [line for line in running.log() if line["level"] == "warning"]

    assert len(warnings) == 1
    assert "set calls.enabled = true" in warnings[0]["reason"]
    assert "secret" not in running.output()


def test_sovereign_daemon_with_an_outside_address_does_not_start(socket_path: str) -> None:
    """The error names the setting and shows no password."""
    command = [sys.executable, "-m", "sidecard", "serve", "--socket", socket_path]
    environ = os.environ | {"REDIS_URL": "redis://:secret@cache.example/0", "SOVEREIGN_MODE": "true"}
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 78
    assert "store.url" in ended.stderr
    assert "sovereign.allow" in ended.stderr
    assert "secret" not in ended.stderr


def test_daemon_with_fewer_descriptors_than_peers_warns_and_serves(socket_path: str) -> None:
    """The daemon warns, rejects connections beyond its descriptors, and serves the others."""
    limited = f'ulimit -n 100; exec "$0" -m sidecard serve --no-state --socket {socket_path}'
    with subprocess.Popen(["/bin/sh", "-c", limited, sys.executable], stderr=subprocess.PIPE) as process:
        try:
            poll(lambda: Path(socket_path).is_socket(), "no socket")
            with contextlib.ExitStack() as lines:
                first = lines.enter_context(Wire(socket_path))
                assert isinstance(first.ask(wire.Ping(id=1)), wire.Pong)
                others = [lines.enter_context(Wire(socket_path)) for _ in range(150)]
                assert sum(map(is_served, others)) == 100 - SPARE_DESCRIPTORS - 1
                assert isinstance(first.ask(wire.Ping(id=2)), wire.Pong)

            poll(lambda: peers_of(socket_path) == 1, "peers that left are still counted")
            process.terminate()
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()

    assert process.returncode == 0
    events = [json.loads(line)["event"] for line in errors.splitlines()]
    assert {"max_peers lowered", "peer denied"} <= set(events)


def is_served(line: Wire) -> bool:
    """Ping, and return whether there was a reply."""
    try:
        return line.ask(wire.Ping(id=1)) is not None
    except OSError:
        return False


def peers_of(path: str) -> int | None:
    """Return the number of connections, this one included; None while no peer is admitted."""
    try:
        peers = ask(path, {"op": "stats"}).get("peers")  # an error has none
        return None if peers is None else int(str(peers))
    except (OSError, IndexError):
        return None


# -- strangers ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("socat") is None, reason="needs socat")
@pytest.mark.parametrize("end", ["\n", ""])
def test_socat_ping_receives_a_pong(end: str, daemon: Start) -> None:
    """The README's `socat` line works with and without its line feed."""
    running = daemon()
    command = ["socat", "-", f"UNIX-CONNECT:{running.socket}"]
    ended = subprocess.run(command, input='{"op":"ping"}' + end, capture_output=True, text=True, timeout=10, check=True)
    pong = json.loads(ended.stdout)

    assert pong["type"] == "pong"
    assert pong["version"] == __version__


def nested(depth: int) -> bytes:
    """Pack a ping with a field of arrays in arrays."""
    return b"\x83\xa2op\xa4ping\xa2id\x01\xa1x" + b"\x91" * depth + b"\xc0"


GARBAGE = {
    "a length of 2^32-1 bytes": b"\xff\xff\xff\xff",
    "a length above the limit": struct.pack(">I", 2**24 + 1) + b"x",
    "a length of 0": b"\0\0\0\0",
    "a length of -2^31": b"\x80\0\0\0",
    "10 MB without a line feed": b"{" + b"x" * 10_000_000,
    "10 MB of a line": b'{"op":"' + b"x" * 10_000_000 + b'"}\n',
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": bytes.fromhex("16030100a5010000a10303"),
    "a map that claims 2^32-1 fields": frame(b"\xdf\xff\xff\xff\xff"),
    "a map of a million fields": frame(b"\xdf\0\x0f\x42\x40" + b"\xa1x\x01" * 1_000_000),
    "bytes that claim 2^32-1 bytes": frame(b"\x81\xa2op\xc6\xff\xff\xff\xff"),
    "arrays in arrays": frame(nested(1_000_000)),
    "lists in lists": b'{"op":"ping","x":' + b"[" * 500_000 + b"\n",
    "no msgpack": frame(b"\xc1" * 100),
    "no map": frame(b"\x01"),
    "no op": frame(b"\x81\xa2id\x01"),
    "an unknown op": frame(wire.pack({"op": "fly", "id": 1})),
    "an id that is no number": frame(wire.pack({"op": "ping", "id": "x"})),
    "an id of 65 bits": b'{"op":"ping","id":36893488147419103232}\n',
    "a field of another type": frame(wire.pack({"op": "begin", "id": 1, "key": 5})),
    "text that is not UTF-8": b'{"op":"\xff\xfe"}\n',
    "NUL bytes in a line": b'{"op":"ping\0"}\n',
}


@pytest.fixture(scope="module")
def enduring(module_daemon: Start) -> Iterator[Daemon]:
    """One daemon for all garbage, which logs no fault of its own and stops as usual."""
    running = module_daemon()
    yield running
    assert running.terminate() == 0
    assert [line for line in running.log() if line["level"] == "error"] == []


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_is_answered_by_an_error_and_affects_no_other_peer(what: str, enduring: Daemon) -> None:
    """The daemon answers garbage with an error, logs no fault of its own, and serves other peers."""
    running = enduring
    with unnoticed(running.socket), socket.socket(socket.AF_UNIX) as stranger:
        stranger.settimeout(20)
        stranger.connect(running.socket)
        # The daemon may have had enough before the last byte.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stranger.sendall(GARBAGE[what])
            stranger.shutdown(socket.SHUT_WR)

        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while data := stranger.recv(65536):
                answer += data

    text = answer if answer[:1] == b"{" else answer[4:]
    decode = msgspec.json.decode if answer[:1] == b"{" else msgspec.msgpack.decode
    error = decode(text)
    assert error["type"] == "error"
    assert error["message"].endswith((".", ")", "`")) or ": " in error["message"]


def test_partial_frame_delays_no_other_peer(daemon: Start) -> None:
    """A partial frame delays no other peer, whether its sender waits or leaves."""
    running = daemon()
    whole = frame(wire.pack(wire.Ping(id=1)))
    with unnoticed(running.socket), Wire(running.socket) as slow, Wire(running.socket) as gone:
        slow.socket.sendall(whole[:5])
        gone.socket.sendall(whole[:5])
        gone.socket.close()
        assert ask(running.socket, {"op": "ping"})["type"] == "pong"
        slow.socket.sendall(whole[5:])
        assert isinstance(slow.receive(), wire.Pong)


def test_id_used_twice_is_rejected_and_the_first_is_answered(daemon: Start) -> None:
    """A begin under the id of a waiting one is rejected, and the waiting one is answered."""
    running = daemon()
    with unnoticed(running.socket), Wire(running.socket) as holder, Wire(running.socket) as twice:
        lease = holder.ask(wire.Begin("key", id=1))
        assert isinstance(lease, wire.Lease)
        assert isinstance(twice.ask(wire.Begin("key", id=5)), wire.Pending)
        error = twice.ask(wire.Begin("key", id=5))
        assert isinstance(error, wire.Error)
        assert error.code == "bad_request"
        holder.send(wire.Complete(lease.lease, msgspec.Raw(b"\x01"), id=2))
        assert isinstance(twice.receive(), wire.Shared)


def test_random_bytes_affect_no_other_peer(daemon: Start) -> None:
    """Two hundred peers that send random bytes, some of them like frames or lines, affect no other peer."""
    running = daemon()
    chance = random.Random(20)
    with unnoticed(running.socket):
        for _ in range(200):
            start = chance.choice([b"", b"\0", b"\1", b"{", b"\0\0\0\x10", b'{"op":'])
            with socket.socket(socket.AF_UNIX) as stranger, contextlib.suppress(OSError):
                stranger.settimeout(5)
                stranger.connect(running.socket)
                stranger.sendall(start + chance.randbytes(chance.randrange(2000)))

    assert running.terminate() == 0
    assert [line for line in running.log() if line["level"] == "error"] == []


def test_peer_that_never_reads_is_closed_and_delays_no_other(daemon: Start) -> None:
    """A peer that requests 100 MB and never reads costs little memory, is closed soon, and delays no other peer."""
    running = daemon("--set", "limits.stall_seconds=1")
    with Wire(running.socket) as writer:
        writer.ask(wire.Put("large", msgspec.Raw(msgspec.msgpack.encode("x" * 1_000_000)), id=1))

    before = resident_bytes(running.pid)
    with unnoticed(running.socket) as bystander, Wire(running.socket) as deaf:
        deaf.send(*(wire.Get("large", id=number) for number in range(100)))
        poll(lambda: peers_of(running.socket) == 2, "the deaf peer was not closed")
        after = resident_bytes(running.pid)
        # What reached the kernel before is still there to be read; then the connection's end.
        with contextlib.suppress(ConnectionResetError):
            received = 0
            while data := deaf.socket.recv(1 << 20):
                received += len(data)

            assert received < 100_000_000 / 2

    assert after - before < 32_000_000
    assert sorted(bystander.seconds)[len(bystander.seconds) // 2] < 0.01
    assert running.terminate() == 0
    (closed,) = running.said("peer closed")
    assert "stall_seconds" in str(closed["reason"])


def resident_bytes(pid: int) -> int:
    """Return how much memory a process uses."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
