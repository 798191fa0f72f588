"""The image and the units, for real: the Containerfile built and run, and systemd booted around the units.

Needs root, buildah, podman, runc and debootstrap, on a machine that lets them work; where not, the skip says what is missing.
The base image is made here from the machine's own Debian mirror, so no registry of images is asked.
It stays in podman's storage as `BASE_IMAGE`, which saves a minute the next time; everything else is removed.
"""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
BASE_IMAGE = "localhost/sidecard-test-base:1"
BASE_PACKAGES = "python3,python3-venv,ca-certificates,dbus,socat,systemd,systemd-sysv"
NAME = f"sidecard-test-{os.getpid()}"
IMAGE = f"localhost/{NAME}"
BUILD = ("buildah", "bud", "--isolation", "chroot", "--network", "host", "--format", "docker")
# The host's network and low limits: sandboxes have no bridge and refuse to raise limits to podman's defaults.
RUN = ("podman", "--runtime", "runc", "run", "--network=host", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
SOCKET = "/run/sidecard/sidecard.sock"

Command = Callable[..., subprocess.CompletedProcess[str]]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, whatever its exit code."""
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False, stdin=subprocess.DEVNULL)


def must(*command: str) -> str:
    """Run a command that has to succeed, and return what it printed."""
    result = run(*command)
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result.stdout.strip()


def until(met: Callable[[], bool], what: str, seconds: float = 30) -> None:
    """Poll until a condition is met."""
    deadline = time.monotonic() + seconds
    while not met():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.1)


def mirror() -> tuple[str, str]:
    """The suite and the address of the repository that this machine's own packages come from."""
    codename = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text(encoding="utf-8"), re.MULTILINE)
    assert codename is not None
    targets = must(
        "apt-get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)", "Created-By: Packages"
    )
    for line in targets.splitlines():
        suite, component, address = line.split()
        if suite == codename[1] and component == "main":
            return suite, address

    pytest.skip(f"apt knows no main component of {codename[1]}: no base image can be made")


def make_base_image(folder: Path) -> None:
    """Make a minimal Debian with Python and systemd, and import it."""
    tree, archive = folder / "tree", folder / "tree.tar"
    built = run("debootstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", mirror()[0], str(tree), mirror()[1])
    if built.returncode:
        pytest.skip(f"debootstrap cannot work here: {(built.stderr or built.stdout)[-500:]}")

    must("tar", "-C", str(tree), "-cf", str(archive), ".")
    must("podman", "import", str(archive), BASE_IMAGE)
    shutil.rmtree(folder)


def pip_options() -> list[str]:
    """Options that give a build the caller's own pip: its environment, its files, and the local paths that they name."""
    declared = re.findall(r"^ARG (PIP_\w+)$", (ROOT / "Containerfile").read_text(encoding="utf-8"), re.MULTILINE)
    options = [f"--build-arg={name}={os.environ[name]}" for name in declared if name in os.environ]
    pip = (sys.executable, "-m", "pip", "config")
    shared = {Path(found) for found in re.findall(r"^\s+(/.*), exists: True$", must(*pip, "debug"), re.MULTILINE)}
    for line in must(*pip, "list").splitlines():
        for word in str(ast.literal_eval(line.partition("=")[2])).split():
            path = Path(word.removeprefix("file://"))
            # A simple index on disk keeps its files beside its pages, so its parent is what must be seen.
            shared.add(path.parent if path.name == "simple" else path)

    return options + [f"--volume={path}:{path}:ro" for path in sorted(shared) if path.is_absolute() and path.exists()]


@pytest.fixture(scope="module")
def base_image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base image, and the knowledge that this machine can run it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: debootstrap and chroot builds do")

    missing = [tool for tool in ("buildah", "podman", "runc", "debootstrap") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")

    if run("podman", "image", "exists", BASE_IMAGE).returncode:
        make_base_image(tmp_path_factory.mktemp("base"))

    probe = run(*RUN, "--rm", BASE_IMAGE, "true")
    if probe.returncode:
        pytest.skip(f"this machine runs no containers: {probe.stderr[-500:]}")

    return BASE_IMAGE


@pytest.fixture(scope="module")
def image(base_image: str) -> Iterator[str]:
    """The image that the Containerfile makes."""
    must(*BUILD, f"--build-arg=BASE_IMAGE={base_image}", *pip_options(), "-t", IMAGE, str(ROOT))
    yield IMAGE
    run("podman", "rmi", "--force", IMAGE)


@pytest.fixture
def container(image: str) -> Iterator[str]:
    """The image at work with as few rights as there are, and nothing writable but its volumes."""
    must(*RUN, "-d", f"--name={NAME}", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", image)
    until(lambda: run("podman", "healthcheck", "run", NAME).returncode == 0, "a healthy container")
    yield NAME
    run("podman", "rm", "--force", "--volumes", "--time=1", NAME)


def test_container_serves_as_nobody_on_a_read_only_root(container: str) -> None:
    """The daemon needs no root, no capability and no writable root to answer."""
    assert "0.1.0" in must("podman", "exec", container, "sidecard", "ping")
    assert must("podman", "exec", container, "id", "-u") == "1001"
    assert "Read-only file system" in run("podman", "exec", container, "touch", "/opt/sidecard/x").stderr
    assert "CapEff:\t0000000000000000" in must("podman", "exec", container, "cat", "/proc/1/status")


def test_health_command_tells_a_daemon_that_hangs(container: str) -> None:
    """Healthy, then stopped in its tracks and unhealthy, then healthy again when it goes on."""
    must("podman", "kill", "--signal=STOP", container)
    assert run("podman", "healthcheck", "run", container).returncode == 1

    must("podman", "kill", "--signal=CONT", container)
    until(lambda: run("podman", "healthcheck", "run", container).returncode == 0, "a healthy container again")


def test_container_stops_by_itself_when_told(container: str) -> None:
    """SIGTERM as the first process of a container ends the daemon with 0, long before podman would kill it."""
    started = time.monotonic()
    must("podman", "stop", "--time=60", container)
    assert time.monotonic() - started < 30
    assert must("podman", "inspect", "--format={{.State.ExitCode}}", container) == "0"


def test_image_knows_neither_an_installer_nor_where_packages_came_from(image: str) -> None:
    """The index that built the image, which may carry a password, is in no layer's history and no environment."""
    told = must("podman", "image", "inspect", image)
    assert "PIP_" not in told
    assert json.loads(told)[0]["Healthcheck"]["Test"] == ["CMD", "sidecard", "ping"]
    assert "No module named pip" in run(*RUN, "--rm", "--entrypoint=python3", image, "-m", "pip").stderr


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
