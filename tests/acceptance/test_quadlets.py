"""The quadlets: their grammar, their agreement with the code and with each other, and what they run, for real.

The generator that makes services of them is newer than some machines' podman; where there is one, it is asked too.
"""

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecard.config.schema import FlightSettings
from sidecard_client.protocol.socket_path import SYSTEM_SOCKET
from tests.acceptance.test_containers import MAPPING
from tests.acceptance.test_systemd_units import sections
from tests.containers import NAME, RUN_ALONE, must, run, until

QUADLETS = Path(__file__).parents[2] / "systemd" / "containers"
GENERATORS = ("/usr/lib/systemd/user-generators/podman-user-generator", "/usr/libexec/podman/quadlet")

OPTIONS = {
    "ContainerName": "--name",
    "DropCapability": "--cap-drop",
    "Environment": "--env",
    "Group": None,
    "HealthCmd": "--health-cmd",
    "HealthInterval": "--health-interval",
    "HealthOnFailure": "--health-on-failure",
    "HealthRetries": "--health-retries",
    "HealthStartPeriod": "--health-start-period",
    "HealthTimeout": "--health-timeout",
    "Image": None,
    "Network": "--network",
    "NoNewPrivileges": "--security-opt=no-new-privileges",
    "Notify": "--sdnotify=container",
    "PodmanArgs": None,
    "ReadOnly": "--read-only",
    "User": None,
    "UserNS": None,
    "Volume": None,
}
"""What podman-systemd.unit(5) of 4.6 says of [Container], as far as it is used: the option of `podman run` where it is as plain."""

NEWER_THAN_THE_TEST = {"HealthOnFailure"}
"""podman 4.3, which has no quadlets yet, has not this either."""


def container(name: str) -> dict[str, list[str]]:
    """Return the settings of a container."""
    return sections(QUADLETS / f"{name}.container")["Container"]


def test_containers_use_what_podman_4_6_knows() -> None:
    """A key that the generator does not know makes the whole unit vanish, without a word in the log."""
    for name in ("sidecard", "app"):
        assert container(name).keys() <= OPTIONS.keys()
        assert sections(QUADLETS / f"{name}.container").keys() == {"Unit", "Container", "Service", "Install"}

    for volume in QUADLETS.glob("*.volume"):
        assert sections(volume) == {"Volume": {}}

    volumes = [value.partition(":")[0] for name in ("sidecard", "app") for value in container(name)["Volume"]]
    assert {(QUADLETS / volume).exists() for volume in volumes} == {True}


def test_the_pod_has_what_its_containers_must_not() -> None:
    """A container in a pod may name neither a user namespace nor a network: the drop-in takes both back."""
    assert sections(QUADLETS / "in-a-pod.conf") == {
        "Container": {"Pod": ["stack.pod"], "UserNS": [""], "Network": [""]}
    }
    assert sections(QUADLETS / "stack.pod")["Pod"] == {"UserNS": container("sidecard")["UserNS"]}


def test_daemon_and_app_connect_with_distinct_uids() -> None:
    """One directory with a shared label, one mapping, two uids, and a group that opens the socket."""
    daemon, app = container("sidecard"), container("app")
    (directory,) = app["Volume"]
    assert directory in daemon["Volume"]
    assert directory.endswith(f":{Path(SYSTEM_SOCKET).parent}:z")
    assert app["Environment"] == [f"SIDECARD_SOCKET={SYSTEM_SOCKET}"]
    assert app["UserNS"] == daemon["UserNS"] == ["keep-id:uid=1001,gid=1001"]
    assert (app["User"], app["Group"]) == (["1002"], ["1001"])


def test_there_is_time_to_drain() -> None:
    """The daemon's, then podman's, then systemd's."""
    (stop,) = (int(option.partition("=")[2]) for option in arguments() if option.startswith("--stop-timeout"))
    service = sections(QUADLETS / "sidecard.container")["Service"]
    assert FlightSettings().drain_seconds < stop < int(service["TimeoutStopSec"][0])


def test_the_blueprints_limits_hold() -> None:
    """A gigabyte, and half a core."""
    assert {"--memory=1g", "--cpus=0.5"} <= set(arguments())


@pytest.mark.skipif(not any(map(shutil.which, GENERATORS)), reason="podman here is too old to have a quadlet generator")
def test_the_generator_makes_services_of_them(tmp_path: Path) -> None:
    """Of all, and systemd finds nothing wrong with them."""
    generator = next(found for found in GENERATORS if shutil.which(found))
    for unit in QUADLETS.iterdir():
        if unit.suffix != ".conf":
            shutil.copy(unit, tmp_path)

    done = subprocess.run(
        [generator, "-user", "-dryrun"],
        env={"QUADLET_UNIT_DIRS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for service in ("sidecard.service", "app.service", "sidecard-run-volume.service", "stack-pod.service"):
        assert f"---{service}---" in done.stdout


def arguments() -> list[str]:
    """Return what is handed to podman as it is."""
    return [argument for line in container("sidecard")["PodmanArgs"] for argument in shlex.split(line)]


def command(image: str) -> list[str]:
    """Return the `podman run` that the generator would make of the daemon's unit, for root, which cannot keep ids."""
    settings = container("sidecard")
    options = []
    for key, values in settings.items():
        option = OPTIONS[key]
        if option is not None and key not in {*NEWER_THAN_THE_TEST, "Network", "ContainerName"}:
            options += [option if value == "true" else f"{option}={value}" for value in values]

    options += [f"--volume={NAME}-{value.replace('.volume', '', 1)}" for value in settings["Volume"]]
    return [*RUN_ALONE, "-d", f"--name={NAME}-quadlet", *MAPPING, *options, *arguments(), image]


@pytest.fixture
def running(image: str) -> Iterator[str]:
    """The container that the unit describes."""
    started = run(*command(image))
    if started.returncode and "cgroup" in started.stderr:
        pytest.skip(f"this machine limits no containers: {started.stderr[-300:]}")

    assert started.returncode == 0, started.stderr
    yield f"{NAME}-quadlet"
    run("podman", "rm", "--force", "--time=1", f"{NAME}-quadlet")
    run("podman", "volume", "rm", "--force", f"{NAME}-sidecard-run", f"{NAME}-sidecard-state")


@pytest.mark.container
@pytest.mark.timeout(900)
def test_what_the_unit_says_runs(running: str) -> None:
    """Healthy, as uid 1001 with nothing, on a read-only root, and it reads its settings again as the unit would have it."""
    assert container("sidecard")["Network"] == ["none"]
    until(lambda: run("podman", "healthcheck", "run", running).returncode == 0, "a healthy container")
    assert must("podman", "exec", running, "id", "-u") == "1001"
    assert "CapEff:\t0000000000000000" in must("podman", "exec", running, "cat", "/proc/1/status")
    assert "Read-only" in run("podman", "exec", running, "touch", "/opt/sidecard/x").stderr
    (reload,) = sections(QUADLETS / "sidecard.container")["Service"]["ExecReload"]
    inside = reload.removeprefix("/usr/bin/podman exec sidecard ").split()
    assert must("podman", "exec", running, *inside) == "No setting has changed."
    assert must("podman", "exec", running, "cat", "/proc/net/dev").count(":") == 1, "more than the loopback"
