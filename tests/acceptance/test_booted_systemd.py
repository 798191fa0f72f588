"""The units, for real: systemd booted in a container around them. What that needs, `test_containers` tells."""

import json
import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.containers import BASE_IMAGE, BUILD, IMAGE, NAME, ROOT, RUN, must, run, until

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

SOCKET = "/run/sidecard/sidecard.sock"

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def machine(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    """Run a command on a machine that systemd has booted, where the units are installed as their heads say."""
    recipe = tmp_path_factory.mktemp("systemd") / "Containerfile"
    recipe.write_text(
        f"""
        FROM {BASE_IMAGE}
        COPY --from={image} /opt/sidecard /opt/sidecard
        COPY sidecard.service sidecard.socket /usr/local/lib/systemd/system/
        COPY sidecard.sysusers.conf /etc/sysusers.d/
        RUN ln -s /opt/sidecard/bin/sidecard /usr/local/bin/ && systemd-sysusers && useradd stranger
        RUN useradd --groups sidecard app && useradd --groups sidecard other
        """,
        encoding="utf-8",
    )
    booted, name = f"{IMAGE}-systemd", f"{NAME}-systemd"
    must(*BUILD, "-t", booted, "-f", str(recipe), str(ROOT / "systemd"))
    must(*RUN, "-d", f"--name={name}", "--systemd=always", "--privileged", booted, "/lib/systemd/systemd")

    def on(*command: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        return run("podman", "exec", f"--user={user}", name, *command)

    try:
        until(
            lambda: on("systemctl", "is-system-running").stdout.strip() in {"running", "degraded"}, "a booted systemd"
        )
        yield on
    finally:
        run("podman", "rm", "--force", "--volumes", "--time=1", name)
        run("podman", "rmi", "--force", booted)


@pytest.fixture
def listening(machine: Command) -> Iterator[Command]:
    """The machine with the socket unit started and the service not."""
    assert machine("systemctl", "start", "sidecard.socket").returncode == 0
    yield machine
    machine("systemctl", "stop", "sidecard.socket", "sidecard.service")
    machine("systemctl", "reset-failed")
    machine("systemctl", "revert", "sidecard.service")


def drop_in(machine: Command, setting: str) -> None:
    """Change one setting of the service as an operator does, until `listening` ends."""
    folder = "/etc/systemd/system/sidecard.service.d"
    write = f"mkdir -p {folder} && printf '[Service]\\n%s\\n' '{setting}' > {folder}/test.conf"
    assert machine("sh", "-c", f"{write} && systemctl daemon-reload").returncode == 0


def shown(machine: Command, name: str) -> str:
    """Return one property of the service."""
    value: str = machine("systemctl", "show", "sidecard.service", "--value", f"--property={name}").stdout.strip()
    return value


def socket_inode(machine: Command) -> str:
    """Return the identity of the socket's file."""
    inode: str = machine("stat", "--format=%i %A %U %G", SOCKET).stdout.strip()
    return inode


def journal(machine: Command) -> str:
    """Return what the service said, for messages of failure."""
    text: str = machine("journalctl", "--no-pager", "--unit=sidecard.service").stdout
    return text[-3000:]


def test_first_peer_starts_the_daemon_which_adopts_the_socket(listening: Command) -> None:
    """A ping of a member of the group starts the daemon, which says READY and serves the very same socket."""
    before = socket_inode(listening)
    assert before.endswith("srw-rw---- sidecard sidecard")
    assert shown(listening, "ActiveState") == "inactive"

    pinged = listening("sidecard", "ping", user="app")
    assert pinged.returncode == 0, pinged.stderr + journal(listening)
    # With Type=notify a service that has not said READY is "activating".
    until(lambda: shown(listening, "ActiveState") == "active", "READY from the daemon")
    assert socket_inode(listening) == before


def test_socket_refuses_a_user_outside_the_group(listening: Command) -> None:
    """A stranger is told that the daemon is unreachable, and does not start it."""
    assert listening("sidecard", "ping", user="stranger").returncode == 69
    assert shown(listening, "ActiveState") == "inactive"


def test_hardened_daemon_still_sees_who_asks(listening: Command) -> None:
    """Inside the unit's confinement one app's uid is told from another's (with PrivateUsers= both would be 65534)."""
    uid = listening("id", "-u", "app").stdout.strip()
    drop_in(listening, f"Environment=SIDECARD_OPERATORS_UIDS={uid}")
    # socat hangs up half a second after its input has ended, and the first ask has to start the daemon.
    ask = ("sh", "-c", f"""echo '{{"op":"config"}}' | socat -t 20 - UNIX-CONNECT:{SOCKET}""")
    assert json.loads(listening(*ask, user="app").stdout)["type"] == "config"
    refused = json.loads(listening(*ask, user="other").stdout)
    assert (refused["type"], refused["code"]) == ("error", "denied")


def test_socket_outlives_restart_and_stop_of_the_daemon(listening: Command) -> None:
    """The file stays the same through a restart, and after a stop the next peer starts the daemon again."""
    before = socket_inode(listening)
    assert listening("sidecard", "ping").returncode == 0
    assert listening("systemctl", "restart", "sidecard.service").returncode == 0
    assert listening("sidecard", "ping").returncode == 0
    assert listening("systemctl", "stop", "sidecard.service").returncode == 0
    assert shown(listening, "Result") == "success", journal(listening)
    assert listening("sidecard", "ping", user="app").returncode == 0
    assert socket_inode(listening) == before


def test_watchdog_replaces_a_daemon_that_hangs(listening: Command) -> None:
    """A daemon that is stopped in its tracks is killed and started again, and peers need not be told."""
    drop_in(listening, "WatchdogSec=2")
    assert listening("systemctl", "start", "sidecard.service").returncode == 0, journal(listening)
    hanging = shown(listening, "MainPID")
    assert listening("systemctl", "kill", "--signal=STOP", "sidecard.service").returncode == 0

    until(lambda: shown(listening, "NRestarts") == "1", "a restart by the watchdog")
    until(lambda: listening("sidecard", "ping", user="app").returncode == 0, "an answer of the new daemon")
    assert shown(listening, "MainPID") != hanging
    assert "watchdog" in journal(listening).lower()


def test_service_without_the_socket_unit_binds_by_itself(machine: Command) -> None:
    """With the socket masked the daemon makes the same socket in its runtime directory, for the same group."""
    assert machine("systemctl", "mask", "sidecard.socket").returncode == 0
    started = machine("systemctl", "start", "sidecard.service")
    assert started.returncode == 0, started.stderr + journal(machine)
    assert socket_inode(machine).endswith("srw-rw---- sidecard sidecard"), journal(machine)
    assert machine("sidecard", "ping", user="app").returncode == 0
    assert machine("systemctl", "stop", "sidecard.service").returncode == 0
    assert machine("test", "-e", SOCKET).returncode == 1
    machine("systemctl", "unmask", "sidecard.socket")
