"""Real images and containers for tests: how they are built and run on machines that have no registry of images."""

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
IN_CONTAINERS = [pytest.mark.container, pytest.mark.timeout(900)]
BASE_IMAGE = "localhost/sidecard-test-base:2"
BASE_PACKAGES = "python3,python3-venv,ca-certificates,dbus,libpam-systemd,socat,systemd,systemd-sysv"
NAME = f"sidecard-test-{os.getpid()}"
IMAGE = f"localhost/{NAME}"
BUILD = ("buildah", "bud", "--isolation", "chroot", "--network", "host", "--format", "docker")
# The host's network and low limits: sandboxes have no bridge and refuse to raise limits to podman's defaults.
_RUN = ("podman", "--runtime", "runc", "run", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000")
RUN = (*_RUN, "--network=host")
RUN_ALONE = (*_RUN, "--network=none")


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
