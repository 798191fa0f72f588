"""What is shipped: the root of the tree, the lock, and both wheels, built and used far from their sources."""

import email
import email.message
import importlib.metadata
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.daemons import poll

ROOT = Path(__file__).parents[2]
SIMILAR_LOCK = ROOT / "systemd" / "containers" / "similar.lock"

ROOT_ENTRIES = {
    "Containerfile", "LICENSE", "README.md", "client", "pyproject.toml", "requirements.lock", "sidecard", "systemd", "tests",
}  # fmt: skip
SHIPPED = {"sidecard": {".md", ".html", ".css", ".js", ".svg", ".json", ".toml", ".yml"}, "sidecard_client": set[str]()}
BUILDS = [pytest.mark.slow, pytest.mark.timeout(300)]

CLIENT_ALONE = """
import sys
import sidecard_client
from sidecard_client import Client

def answer(question):
    return question.upper()

with Client(sys.argv[1]) as sidecard:
    outcome = sidecard.outcome(answer, "anybody there?")
    print(outcome.value, outcome.source)

try:
    from sidecard_client import AsyncClient
except ImportError as error:
    print(error)
"""


def ran(*command: str | Path) -> str:
    """Run a command outside the tree, expect success, and return what it printed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("SIDECARD_", "PYTHON"))}
    result = subprocess.run(
        [str(part) for part in command],
        cwd="/", env=inherited, capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}"
    return result.stdout.strip()


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels, by the import name of what is in them."""
    folder = tmp_path_factory.mktemp("wheels")
    ran(sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, ROOT / "client", ROOT)
    return {wheel.name.partition("-")[0]: wheel for wheel in folder.iterdir()}


def metadata(wheel: Path) -> email.message.Message:
    """Return a wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def runtime_requirements(requirements: list[str]) -> dict[str, Requirement]:
    """Return what a distribution needs when no extra is asked for, by canonical name."""
    wanted = [Requirement(text) for text in requirements]
    return {
        canonicalize_name(item.name): item
        for item in wanted
        if item.marker is None or item.marker.evaluate({"extra": ""})
    }


def locked(lock: Path = ROOT / "requirements.lock") -> Iterator[tuple[str, str, int]]:
    """Yield name, version and number of hashes of each line of the lock."""
    text = re.sub(r"^#.*\n", "", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for entry in text.replace("\\\n", " ").splitlines():
        name, version = entry.split(";")[0].split()[0].split("==")
        yield canonicalize_name(name), version, entry.count("--hash=sha256:")


def test_repository_root_has_no_stray_file() -> None:
    """The root holds the listed files only (what git ignores does not count)."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode:
        pytest.skip(f"not a git checkout: {listed.stderr.strip()}")

    entries = {path.partition("/")[0] for path in listed.stdout.splitlines()}
    assert {entry for entry in entries if not entry.startswith(".")} == ROOT_ENTRIES


def test_readme_and_ci_run_the_same_test_command() -> None:
    """The README's test command is, word for word, the first that CI runs."""
    command = "python3 -m venv .venv && .venv/bin/pip install -e './client[async]' -e '.[test]' && .venv/bin/pytest\n"
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"\n{command}" in (ROOT / ".ci/run").read_text(encoding="utf-8")


def test_lock_covers_the_daemon_and_names_no_index() -> None:
    """Every runtime dependency is pinned within its declared range, with hashes, and where it comes from is pip's business."""
    pinned = {name: version for name, version, hashes in locked() if hashes}
    assert len(pinned) == len(list(locked()))
    needed = runtime_requirements(importlib.metadata.requires("sidecard") or [])
    del needed["sidecard-client"]
    for name, requirement in needed.items():
        assert requirement.specifier.contains(pinned[name]), name

    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links", text)


def test_lock_of_the_extra_has_all_that_it_needs() -> None:
    """The image's extra is pinned with hashes: usearch as the project allows it, and everything that it requires."""
    pinned = {name: version for name, version, hashes in locked(SIMILAR_LOCK) if hashes}
    assert len(pinned) == len({name for name, _, _ in locked(SIMILAR_LOCK)})
    extra = next(Requirement(text) for text in importlib.metadata.requires("sidecard") or [] if "'similar'" in text)
    assert extra.specifier.contains(pinned["usearch"])
    needed = runtime_requirements(importlib.metadata.requires("usearch") or [])
    assert needed.keys() <= pinned.keys()
    assert not pinned.keys() & {name for name, _, _ in locked()}


@pytest.mark.parametrize("package", ["sidecard", "sidecard_client"])
class TestWheel:
    """What must be true of each wheel."""

    pytestmark = BUILDS

    def test_wheel_holds_its_whole_package_and_nothing_else(self, wheels: dict[str, Path], package: str) -> None:
        """Each module is in it, typed, with the dashboard, the documentation and the files for other programs; no test is."""
        with zipfile.ZipFile(wheels[package]) as archive:
            packed = {name for name in archive.namelist() if ".dist-info/" not in name}

        source = ROOT / "client" if package == "sidecard_client" else ROOT
        files = {path for path in (source / package).rglob("*") if path.is_file() and path.suffix != ".pyc"}
        assert {path.suffix for path in files} <= {".py", ".typed", *SHIPPED[package]}
        assert packed == {str(path.relative_to(source)) for path in files}

    def test_wheel_tells_version_python_and_licence(self, wheels: dict[str, Path], package: str) -> None:
        """The metadata agree with the one place that says the version."""
        fields = metadata(wheels[package])
        assert fields["Version"] == importlib.metadata.version("sidecard-client")
        assert (fields["Requires-Python"], fields["License-Expression"]) == (">=3.11", "MIT")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_client_wheel_requires_msgspec_alone(wheels: dict[str, Path]) -> None:
    """An app that adds the client adds one other package; the daemon's wheel asks for exactly its own client."""
    client, daemon = metadata(wheels["sidecard_client"]), metadata(wheels["sidecard"])
    assert set(runtime_requirements(client.get_all("Requires-Dist", []))) == {"msgspec"}
    needed = runtime_requirements(daemon.get_all("Requires-Dist", []))
    assert str(needed["sidecard-client"].specifier) == f"=={client['Version']}"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_client_alone_works_and_says_what_the_async_client_needs(wheels: dict[str, Path], tmp_path: Path) -> None:
    """With nothing but the client's wheel, calls fall back where no daemon is, and `AsyncClient` names the extra."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    ran(python, "-m", "pip", "install", "--no-compile", wheels["sidecard_client"])
    listed = ran(python, "-m", "pip", "list", "--format=freeze", "--exclude=pip", "--exclude=setuptools")
    assert {line.partition("==")[0] for line in listed.splitlines()} == {"msgspec", "sidecard-client"}

    (tmp_path / "app.py").write_text(CLIENT_ALONE, encoding="utf-8")
    answer, complaint = ran(python, tmp_path / "app.py", tmp_path / "nobody.sock").splitlines()
    assert answer == "ANYBODY THERE? fallback"
    assert "sidecard-client[async]" in complaint


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_daemon_serves_from_its_wheels_and_lock(wheels: dict[str, Path], tmp_path: Path) -> None:
    """Installed as the image installs it, without the sources, the command serves and answers."""
    venv.create(tmp_path / "venv", with_pip=True)
    pip = (tmp_path / "venv/bin/python", "-m", "pip")
    ran(*pip, "install", "--no-compile", "--require-hashes", "--requirement", ROOT / "requirements.lock")
    ran(*pip, "install", "--no-compile", "--no-deps", "--no-index", *wheels.values())
    ran(*pip, "check")
    command = tmp_path / "venv/bin/sidecard"
    assert metadata(wheels["sidecard"])["Version"] in ran(command, "--version")

    path = str(tmp_path / "s.sock") if len(str(tmp_path)) < 90 else f"/tmp/sidecard-wheel-{os.getpid()}.sock"
    page = f"{path}.http"
    served: list[str | Path] = [command, "serve", "--no-state", "--socket", path, f"--set=http.listen={page}"]
    with subprocess.Popen(served, cwd="/", stdin=subprocess.DEVNULL) as daemon:
        try:
            poll(lambda: os.path.exists(path), "no socket")  # noqa: PTH110 - a socket's path is a string everywhere
            ran(command, "ping", "--socket", path)
            assert "# EOF" in ran(command, "metrics", "--socket", path, "--format", "openmetrics")
            assert "groups:" in ran(command, "files", "alerts")
            with httpx.Client(transport=httpx.HTTPTransport(uds=page)) as browser:
                for name in ("/", "/assets/dashboard.js", "/metrics"):
                    assert browser.get(f"http://localhost{name}").status_code == 200
        finally:
            daemon.terminate()

    assert daemon.returncode == 0
