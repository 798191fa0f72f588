"""The image, for real: the Containerfile built and run.

Needs root, buildah, podman, runc and debootstrap, on a machine that lets them work; where not, the skip says what is missing.
The base image is made here from the machine's own Debian mirror, so no registry of images is asked.
It stays in podman's storage as `BASE_IMAGE`, which saves a minute the next time; everything else is removed.
"""

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.test_view_namespaces import READER
from tests.containers import BASE_IMAGE, BUILD, IN_CONTAINERS, NAME, ROOT, RUN, RUN_ALONE, must, pip_options, run, until

pytestmark = IN_CONTAINERS


@pytest.fixture
def container(image: str) -> Iterator[str]:
    """The image at work with as few rights as there are, and nothing writable but its volumes."""
    must(*RUN, "-d", f"--name={NAME}", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", image)
    until(lambda: run("podman", "healthcheck", "run", NAME).returncode == 0, "a healthy container")
    yield NAME
    run("podman", "rm", "--force", "--volumes", "--time=1", NAME)


def test_container_serves_without_root_on_a_read_only_root(container: str) -> None:
    """The daemon needs no root, no capability and no writable root."""
    assert "0.1.0" in must("podman", "exec", container, "sidecard", "ping")
    assert must("podman", "exec", container, "id", "-u") == "1001"
    assert "Read-only file system" in run("podman", "exec", container, "touch", "/opt/sidecard/x").stderr
    assert "CapEff:\t0000000000000000" in must("podman", "exec", container, "cat", "/proc/1/status")


def test_health_command_detects_an_unresponsive_daemon(container: str) -> None:
    """The container is healthy, unhealthy while the daemon is stopped, and healthy again afterwards."""
    must("podman", "kill", "--signal=STOP", container)
    assert run("podman", "healthcheck", "run", container).returncode == 1

    must("podman", "kill", "--signal=CONT", container)
    until(lambda: run("podman", "healthcheck", "run", container).returncode == 0, "a healthy container again")


def test_container_stops_on_sigterm(container: str) -> None:
    """SIGTERM ends the daemon, the container's first process, with 0, long before podman would kill it."""
    started = time.monotonic()
    must("podman", "stop", "--time=60", container)
    assert time.monotonic() - started < 30
    assert must("podman", "inspect", "--format={{.State.ExitCode}}", container) == "0"


def test_image_has_no_installer_and_no_package_index(image: str) -> None:
    """The index that built the image, which may carry a password, is in no layer's history and no environment."""
    inspected = must("podman", "image", "inspect", image)
    assert "PIP_" not in inspected
    assert json.loads(inspected)[0]["Healthcheck"]["Test"] == ["CMD", "sidecard", "ping"]
    assert "No module named pip" in run(*RUN, "--rm", "--entrypoint=python3", image, "-m", "pip").stderr


# -- beside other containers -------------------------------------------------------------------------------------------

MAPPING = ("--uidmap=0:200000:65536", "--gidmap=0:200000:65536")
OTHER_MAPPING = ("--uidmap=0:300000:65536", "--gidmap=0:300000:65536")
"""Of user namespaces, as rootless containers have them."""

CALL = (
    "from sidecard_client import Client\n"
    "outcome = Client().outcome(lambda question: question.upper(), 'q', name='f', namespace='team')\n"
    "print(outcome.value, outcome.source)"
)

SIMILAR_CALLS = (
    "from sidecard_client import Client\n"
    "client = Client(embed={'constant': lambda _: [1.0, 0.0]}, task='faq')\n"
    "for question in ('Is it allowed to park?', 'Please: is it allowed to park', 'Is it not allowed to park?'):\n"
    "    outcome = client.outcome(str, question, name='f')\n"
    "    print(outcome.source, outcome.similarity)"
)

LOAD = (
    "from concurrent.futures import ThreadPoolExecutor\n"
    "from sidecard_client import Client\n"
    "def model(number):\n"
    "    return 'x' * (1024 + 64 * (number % 48))\n"
    "with Client() as client, ThreadPoolExecutor(4) as pool:\n"
    "    sources = [o.source for o in pool.map(lambda n: client.outcome(model, n % 2500), range(10_000))]\n"
    "print({source: sources.count(source) for source in set(sources)})"
)
"""The demo's proportions, and more of it: 10,000 calls, every answer of 1 to 4 KiB asked for four times."""

READ_VIEW = f"import sys; sys.argv[1:] = ['/run/sidecard/sidecard.sock', '20']\n{READER}"

RESERVATION_BYTES = 512 * 2**20
"""What the blueprint sets aside for it."""


class Crew:
    """Containers of one volume."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.volumes = (f"{NAME}-run:/run/sidecard:z", f"{NAME}-state:/var/lib/sidecard:z")
        self.daemon = f"{NAME}-daemon"

    def serve(self, *options: str) -> None:
        """Start the daemon, as the unit does it, and wait until it is healthy."""
        volumes = [f"--volume={volume}" for volume in self.volumes]
        confined = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")
        health = ('--health-cmd=["sidecard", "ping"]', "--health-timeout=5s")
        must(*RUN_ALONE, "-d", f"--name={self.daemon}", *confined, *health, *volumes, *options, self.image)
        until(lambda: run("podman", "healthcheck", "run", self.daemon).returncode == 0, "a healthy container")

    def calls(self, program: str, *options: str) -> subprocess.CompletedProcess[str]:
        """Run a program in a container of its own, which has the socket's directory and nothing else."""
        mount = f"--volume={self.volumes[0]}"
        return run(*RUN_ALONE, "--rm", mount, *options, "--entrypoint=python3", self.image, "-c", program)

    def kill(self) -> None:
        """End the daemon without warning, and remove its container; the volumes stay."""
        must("podman", "kill", "--signal=KILL", self.daemon)
        must("podman", "rm", "--force", "--time=1", self.daemon)

    def resident_bytes(self) -> tuple[int, int]:
        """Return what the daemon has now, and the most that it has had."""
        status = must("podman", "exec", self.daemon, "cat", "/proc/1/status")
        found = dict(line.split(":\t") for line in status.splitlines() if line.startswith("Vm"))
        now, most = (int(found[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
        return now, most


@pytest.fixture
def crew(image: str) -> Iterator[Crew]:
    """A crew without members."""
    one = Crew(image)
    yield one
    run("podman", "rm", "--force", "--time=1", one.daemon)
    run("podman", "volume", "rm", "--force", *(volume.partition(":")[0] for volume in one.volumes))


def test_apps_in_other_containers_share_calls_by_the_mounted_directory(crew: Crew) -> None:
    """And nothing of the host: neither network nor processes."""
    crew.serve('--env=SIDECARD_NAMESPACES={"team": {"shared_with": "all"}}')
    assert crew.calls(CALL, "--user=1002:1001").stdout == "Q upstream\n"
    assert crew.calls(CALL, "--user=1003:1001").stdout == "Q cache\n"
    outside = crew.calls(CALL, "--user=1004:1004")
    assert outside.stdout == "Q fallback\n"
    assert "Permission denied" in outside.stderr


@pytest.mark.parametrize("mapping", [(), MAPPING])
def test_app_in_another_container_reads_the_view(crew: Crew, mapping: tuple[str, ...]) -> None:
    """Its memory is passed over the socket: neither a shared IPC namespace nor a volume of memory is needed."""
    probe = run(*RUN, "--rm", *mapping, "--entrypoint=true", crew.image)
    if probe.returncode:
        pytest.skip(f"this machine makes no user namespaces for containers: {probe.stderr[-300:]}")

    crew.serve(*mapping)
    assert crew.calls(READ_VIEW, *mapping, "--user=1002:1001").stdout == "view\n"


def test_in_user_namespaces_uids_are_those_of_the_same_mapping(crew: Crew) -> None:
    """An app keeps its uid inside, is no operator, and has a private namespace; one without a mapped uid is refused."""
    probe = run(*RUN, "--rm", *MAPPING, "--entrypoint=true", crew.image)
    if probe.returncode:
        pytest.skip(f"this machine makes no user namespaces for containers: {probe.stderr[-300:]}")

    crew.serve(*MAPPING)
    assert crew.calls(CALL, *MAPPING, "--user=1002:1001").stdout == "Q upstream\n"
    assert crew.calls(CALL, *MAPPING, "--user=1002:1001").stdout == "Q cache\n"
    assert crew.calls(CALL, *MAPPING, "--user=1003:1001").stdout == "Q upstream\n"
    config = "from sidecard_client import Client; Client().config()"
    assert "denied" in crew.calls(config, *MAPPING, "--user=1002:1001").stderr
    # Root of the host may open any socket, but has no number in there.
    assert crew.calls(CALL, "--user=0:0").stdout == "Q fallback\n"
    logged = run("podman", "logs", crew.daemon)
    assert "give both containers the same UserNS=" in logged.stdout + logged.stderr
    assert crew.calls(CALL, *OTHER_MAPPING, "--user=1002:1001").stdout == "Q fallback\n"


def test_entries_survive_a_kill_and_a_new_container(crew: Crew) -> None:
    """Entries survive, and calls in between do not fail."""
    shared = '--env=SIDECARD_NAMESPACES={"team": {"shared_with": "all"}}'
    crew.serve(shared)
    assert crew.calls(CALL, "--user=1002:1001").stdout == "Q upstream\n"
    # What is older than store.write_window_seconds is on disk.
    kept = "from sidecard_client import Client; raise SystemExit(Client().stats().store_entries != 1)"
    until(lambda: crew.calls(kept, "--user=1002:1001").returncode == 0, "the entry in the store")
    crew.kill()
    assert crew.calls(CALL, "--user=1002:1001").stdout == "Q fallback\n"
    crew.serve(shared)
    assert crew.calls(CALL, "--user=1002:1001").stdout == "Q cache\n"


def test_memory_stays_far_below_the_reservation(crew: Crew) -> None:
    """The container's memory, idle and after ten thousand calls, is printed with the size of the image."""
    crew.serve()
    idle, _ = crew.resident_bytes()
    sources = crew.calls(LOAD, "--user=1002:1001").stdout.strip()
    loaded, most = crew.resident_bytes()
    whole, base = (
        int(must("podman", "image", "inspect", "--format={{.Size}}", name)) for name in (crew.image, BASE_IMAGE)
    )
    print(
        f"image: {whole / 2**20:.0f} MiB, {(whole - base) / 2**20:.0f} of them beyond its base\n"
        f"resident: idle {idle / 2**20:.0f} MiB, after {sources} {loaded / 2**20:.0f} MiB, at most {most / 2**20:.0f} MiB, "
        f"of the {RESERVATION_BYTES / 2**20:.0f} MiB that the blueprint reserves"
    )
    assert "'cache': 7500" in sources
    assert idle < 100 * 2**20
    assert most < RESERVATION_BYTES / 3
    assert whole - base < 100 * 2**20


# -- how it is built ---------------------------------------------------------------------------------------------------


@pytest.fixture
def built(image: str) -> Iterator[Callable[..., str]]:
    """Build further images; return their names."""
    names: list[str] = []

    def build(recipe: str | None, context: Path, *options: str) -> str:
        names.append(f"{image}-{len(names)}")
        command = [*BUILD[:-2], *options, "-t", names[-1]]
        if recipe is not None:
            (context / "Containerfile").write_text(recipe, encoding="utf-8")

        must(*command, str(context))
        return names[-1]

    yield build
    run("podman", "rmi", "--force", *names)


def test_image_without_a_shell_serves(image: str, built: Callable[..., str], tmp_path: Path) -> None:
    """The daemon and its health command run in an image without any shell."""
    recipe = f"FROM {image}\nUSER 0\nRUN rm /bin/sh /bin/dash /bin/bash\nUSER 1001:1001\n"
    crew = Crew(built(recipe, tmp_path, "--format=docker"))
    try:
        crew.serve()
        assert run("podman", "exec", crew.daemon, "/bin/sh", "-c", "true").returncode != 0
        assert "0.1.0" in must("podman", "exec", crew.daemon, "sidecard", "ping")
    finally:
        run("podman", "rm", "--force", "--volumes", "--time=1", crew.daemon)
        run("podman", "volume", "rm", "--force", *(volume.partition(":")[0] for volume in crew.volumes))


def test_image_serves_similar_requests_with_its_extra(base_image: str, built: Callable[..., str]) -> None:
    """With the build argument, the image has what searches vectors; any other extra fails the build."""
    options = ("--format=docker", f"--build-arg=BASE_IMAGE={base_image}", *pip_options())
    crew = Crew(built(None, ROOT, "--build-arg=EXTRAS=similar", *options))
    try:
        crew.serve('--env=SIDECARD_TASKS={"faq": {"similar": true}}')
        assert crew.calls(SIMILAR_CALLS).stdout.split() == ["upstream", "None", "cache", "1.0", "upstream", "None"]
    finally:
        run("podman", "rm", "--force", "--volumes", "--time=1", crew.daemon)
        run("podman", "volume", "rm", "--force", *(volume.partition(":")[0] for volume in crew.volumes))

    wrong = run(*BUILD[:-2], "--build-arg=EXTRAS=postgres", *options, str(ROOT))
    assert wrong.returncode
    assert 'EXTRAS must be empty or "similar", not "postgres"' in wrong.stdout + wrong.stderr


def test_the_oci_format_drops_the_health_command(base_image: str, built: Callable[..., str]) -> None:
    """Which is why quadlet and README say it again; the day it stays, they need not."""
    name = built(None, ROOT, "--format=oci", f"--build-arg=BASE_IMAGE={base_image}", *pip_options())
    assert "Healthcheck" not in json.loads(must("podman", "image", "inspect", name))[0]


def test_two_builds_have_the_same_files(image: str, base_image: str, built: Callable[..., str]) -> None:
    """Byte by byte: what is installed comes from the lock file, and its bytecode has no timestamps."""
    again = built(None, ROOT, "--format=docker", "--no-cache", f"--build-arg=BASE_IMAGE={base_image}", *pip_options())
    hashes = (
        "import hashlib, pathlib; [print(path, hashlib.sha256(path.read_bytes()).hexdigest()) "
        "for path in sorted(pathlib.Path('/opt/sidecard').rglob('*')) if path.is_file()]"
    )
    first, second = (must(*RUN, "--rm", "--entrypoint=python3", name, "-c", hashes) for name in (image, again))
    assert len(first.splitlines()) > 1000
    assert first == second
