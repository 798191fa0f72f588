"""The image that several modules run, built once; and what tests of faults have."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.acceptance.fault_index import table
from tests.acceptance.framework_calls import CALLS
from tests.containers import BASE_IMAGE, BUILD, IMAGE, ROOT, RUN, make_base_image, must, pip_options, run
from tests.daemons import Daemon
from tests.faults import Injected, Scene


@pytest.fixture
def scenes(daemon: Callable[..., Daemon], tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Make scenes: ``scenes(*flags, **environ)`` has a daemon of these settings."""
    made: list[Scene] = []

    def make(*flags: str, **environ: str) -> Scene:
        directory = tmp_path / str(len(made))
        directory.mkdir()
        made.append(Scene(daemon(*flags, **environ), directory))
        return made[-1]

    yield make
    for scene in made:
        scene.close()


@pytest.fixture
def injected(record_property: Callable[[str, object], None]) -> Injected:
    """Book what a test did."""

    def book(times: int, *, callers: int = 0, notified: int = 0, lost: int = 0) -> None:
        record_property("injected", (times, callers, notified, lost))

    return book


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print what was injected and what was lost, where that is asked for; and which frameworks share their calls."""
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    rows = sorted(row for report in reports if (row := dict(report.user_properties).get("framework")))
    if rows:
        terminalreporter.section(
            "frameworks: lines that an app changes, and calls that are made once and equal in every field"
        )
        for row in [["", "lines", *CALLS], *rows]:
            terminalreporter.write_line(f"{row[0]:60}" + "".join(f"{cell!s:>16}" for cell in row[1:]))

    if config.getoption("--faults"):
        passed = terminalreporter.stats.get("passed", [])
        terminalreporter.section("faults")
        for line in table((report.nodeid, dict(report.user_properties)) for report in passed):
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def base_image() -> str:
    """A base image, and the knowledge that this machine can run it."""
    if os.geteuid() != 0:
        pytest.skip("needs root: debootstrap and chroot builds do")

    missing = [tool for tool in ("buildah", "podman", "runc", "debootstrap") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")

    if run("podman", "image", "exists", BASE_IMAGE).returncode:
        # On a disk: a whole tree with devices, which a directory in memory may not have.
        make_base_image(Path(tempfile.mkdtemp(prefix="sc-")))

    probe = run(*RUN, "--rm", BASE_IMAGE, "true")
    if probe.returncode:
        pytest.skip(f"this machine runs no containers: {probe.stderr[-500:]}")

    return BASE_IMAGE


@pytest.fixture(scope="session")
def image(base_image: str) -> Iterator[str]:
    """The image that the Containerfile makes."""
    must(*BUILD, f"--build-arg=BASE_IMAGE={base_image}", *pip_options(), "-t", IMAGE, str(ROOT))
    yield IMAGE
    run("podman", "rmi", "--force", IMAGE)
