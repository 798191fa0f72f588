"""The image, for real: the Containerfile built and run.

Needs root, buildah, podman, runc and debootstrap, on a machine that lets them work; where not, the skip says what is missing.
The base image is made here from the machine's own Debian mirror, so no registry of images is asked.
It stays in podman's storage as `BASE_IMAGE`, which saves a minute the next time; everything else is removed.
"""

import json
import time
from collections.abc import Iterator

import pytest

from tests.containers import NAME, RUN, must, run, until

pytestmark = [pytest.mark.container, pytest.mark.timeout(900)]


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
