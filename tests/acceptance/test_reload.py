"""Settings read again by a running daemon: by command and by signal, right and wrong, with everything going on."""

import json
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sidecard_client import Client
from tests.acceptance.test_commands import run
from tests.daemons import Daemon, ask, poll

pytestmark = pytest.mark.usefixtures("patient_clients")

Start = Callable[..., Daemon]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a settings file."""
    return tmp_path / "sidecard.toml"


def ttl_seconds(path: str) -> object:
    """Ask the daemon what holds."""
    settings = ask(path, {"op": "config"})["settings"]
    assert isinstance(settings, dict)
    return settings["cache.ttl_seconds"]


def test_reload_changes_settings_and_loses_nothing(daemon: Start, socket_path: str, file: Path) -> None:
    """A reload keeps the process, the call in flight with its waiter, entries, connections and counters."""
    file.write_text("[cache]\nttl_seconds = 100\n")
    one = daemon("--config", str(file))
    released, begun = threading.Event(), threading.Event()
    answers: list[str] = []

    def slow(question: str) -> str:
        begun.set()
        assert released.wait(20)
        return f"answer to {question}"

    with Client(socket_path) as client, Client(socket_path) as other:
        client.call(str, "kept", name="f")
        callers = [
            threading.Thread(target=lambda asked: answers.append(asked.call(slow, "q", name="slow")), args=(asked,))
            for asked in (client, other)
        ]
        callers[0].start()
        assert begun.wait(20)
        callers[1].start()
        poll(lambda: client.stats().waiters == 1, "nobody waits")
        peers = client.stats().peers
        file.write_text("[cache]\nttl_seconds = 200\n[store]\nurl = 'none'\n")
        done = run("reload", "--socket", socket_path)
        assert (done.returncode, done.stdout) == (0, "cache.ttl_seconds = 200.0\n")
        assert "need a restart: store.url" in done.stderr
        assert (ttl_seconds(socket_path), client.stats().peers, client.stats().waiters) == (200.0, peers, 1)
        released.set()
        for caller in callers:
            caller.join(20)

        assert answers == ["answer to q"] * 2
        assert client.outcome(str, "kept", name="f").source == "cache"
        assert client.report().total.upstream_calls == 2

    assert one.process.poll() is None


def test_invalid_settings_are_rejected_and_reported(daemon: Start, socket_path: str, file: Path) -> None:
    """A reload reports every invalid setting with its place, and the settings in effect stay."""
    file.write_text("[cache]\nttl_seconds = 100\n")
    one = daemon("--config", str(file))
    file.write_text("[cache]\nttl_seconds = 'soon'\nmax_byte = 1\n")
    done = run("reload", "--socket", socket_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert "cache.ttl_seconds" in done.stderr
    assert "cache.max_bytes" in done.stderr
    assert json.loads(run("reload", "--socket", socket_path, "--json").stdout)["problems"]
    file.unlink()
    assert run("reload", "--socket", socket_path).returncode == 78
    assert ttl_seconds(socket_path) == 100.0
    file.write_text("")
    assert run("reload", "--socket", socket_path).stdout == "cache.ttl_seconds = 300.0\n"
    assert run("reload", "--socket", socket_path).stdout == "No setting has changed.\n"
    assert one.terminate() == 0
    assert len(one.said("settings not changed")) == 3
    assert len(one.said("settings loaded")) == 2


def test_sighup_reloads_and_notifies_systemd(daemon: Start, socket_directory: Path, file: Path) -> None:
    """On SIGHUP the daemon sends RELOADING with its instant and then READY, as Type=notify-reload requires."""
    file.write_text("[log]\nlevel = 'info'\n[limits]\nmax_peers = 3\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(socket_directory / "notify"))
        systemd.settimeout(10)
        one = daemon("--config", str(file), NOTIFY_SOCKET=str(socket_directory / "notify"))
        assert systemd.recv(1000).startswith(b"READY=1")
        file.write_text("[log]\nlevel = 'debug'\n[limits]\nmax_peers = 1\n")
        one.process.send_signal(signal.SIGHUP)
        assert systemd.recv(1000).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert systemd.recv(1000).startswith(b"READY=1")

    with Client(one.socket) as client:
        client.ping()
        with socket.socket(socket.AF_UNIX) as second:
            second.connect(one.socket)
            assert second.recv(1) == b""

    assert one.terminate() == 0
    assert len(one.said("answered")) > 0
    assert [line["changed"] for line in one.said("settings loaded")] == [["limits.max_peers", "log.level"]]


def test_sovereign_mode_is_rejected_while_a_connection_leads_out(daemon: Start, socket_path: str, file: Path) -> None:
    """The address of the running store decides, not the one in the file, which only a restart would use."""
    file.write_text("[store]\nurl = 'redis://192.0.2.1/0'\n")
    daemon("--config", str(file))
    file.write_text("[store]\nurl = 'none'\n[sovereign]\nenabled = true\n")
    done = run("reload", "--socket", socket_path)
    assert done.returncode == 78
    assert "restart" in done.stderr
    assert "store.url" in done.stderr
    settings = ask(socket_path, {"op": "config"})["settings"]
    assert isinstance(settings, dict)
    assert settings["sovereign.enabled"] is False


def test_serve_check_reports_and_does_not_serve(socket_path: str, file: Path) -> None:
    """`serve --check` reports as `config check` does, so that a unit can check before it stops the running daemon."""
    file.write_text("[cache]\nttl_seconds = 1\n")
    fine = run("serve", "--check", "--config", str(file), "--socket", socket_path)
    assert fine.returncode == 0
    assert fine.stdout.startswith("The settings are valid.\n")
    file.write_text("[cache]\nttl_seconds = 'soon'\n")
    wrong = run("serve", "--check", "--config", str(file), "--socket", socket_path)
    assert (wrong.returncode, wrong.stdout) == (78, "")
    assert not Path(socket_path).exists()


def test_concurrent_reloads_end_with_the_settings_of_the_file(daemon: Start, socket_path: str, file: Path) -> None:
    """Every request for a reload is answered, and the file that was read last holds."""
    file.write_text("[cache]\nttl_seconds = 100\n")
    one = daemon("--config", str(file))
    answers: list[object] = []

    def reload() -> None:
        for _ in range(5):
            answers.append(ask(one.socket, {"op": "reload"}, seconds=20.0)["type"])  # noqa: PERF401 - one by one

    threads = [threading.Thread(target=reload) for _ in range(4)]
    for thread in threads:
        thread.start()

    for seconds in range(1, 20):
        file.write_text(f"[cache]\nttl_seconds = {seconds}\n")

    for thread in threads:
        thread.join(30)

    assert answers == ["reloaded"] * 20
    assert ask(one.socket, {"op": "reload"}, seconds=20.0)["problems"] == []
    assert ttl_seconds(one.socket) == 19.0
