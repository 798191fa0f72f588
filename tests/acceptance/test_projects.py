"""Processes of one project share, on any interpreter; those of two projects do not, however alike their modules are.

The second interpreter is that of ``OTHER_PYTHON``, with the client's dependencies; CI sets it to another version.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemons import Daemon

WORKER = Path(__file__).with_name("project_worker.py")
CLIENT = Path(__file__).parents[2] / "client"

TASKS = """
import enum, functools
from dataclasses import dataclass
from datetime import date, timedelta, timezone
from decimal import Decimal
from pathlib import Path

def answer(question, style="plain", *, size: int = 3) -> str:
    return question

def build(held):
    def inner(question) -> str:
        return question
    return inner if held is None else with_held(held)

def with_held(held):
    def inner(question, n=2) -> str:
        return f"{held}{question}"
    return inner

def retried(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

@retried
def decorated(question) -> list[str]:
    return [question]

class Size(enum.Enum):
    SMALL = 1

@dataclass
class Bot:
    model: str
    size: Size = Size.SMALL

    def answer(self, question) -> dict[str, "Bot"]:
        return {}

    def __call__(self, question) -> "tuple[int, str]":
        return 1, question

HELD = [1, 2.5, -0.0, "a", b"b", {"x": [Size.SMALL]}, {"s", "t"}, Path("p"), date(2026, 1, 2), Decimal("1.50"),
        timezone(timedelta(hours=1)), Bot("m"), Bot, answer, 2**70, None, True]

FUNCTIONS = {
    "function": answer,
    "local": build(None),
    "closure": with_held(HELD),
    "partial": functools.partial(answer, style="rich"),
    "decorated": decorated,
    "method": Bot("m").answer,
    "callable": Bot("m"),
    "library": json.dumps,
}
""".replace("import enum,", "import json, enum,")

MAIN = """
import sys
sys.path.insert(0, {client!r})
from sidecard_client import Client
def ask(question): return question
if __name__ == "__main__":
    print(Client("/nowhere").explain(ask, "q").key)
"""

Shown = dict[str, list[str]]
Keys = Callable[..., Shown]


@pytest.fixture
def projects(tmp_path: Path) -> tuple[Path, Path]:
    """Make two projects with one module path and one code."""
    for name in ("one", "two"):
        package = tmp_path / name / "app"
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        (package / "tasks.py").write_text(TASKS)
        (tmp_path / name / "main.py").write_text(MAIN.format(client=str(CLIENT)))

    return tmp_path / "one", tmp_path / "two"


def environment(**variables: str) -> dict[str, str]:
    """Return the variables of a worker, without the settings of whoever runs the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    return kept | {"PYTHONPATH": str(CLIENT)} | variables


@pytest.fixture
def show(daemon: Callable[..., Daemon]) -> Keys:
    """Run an app with one daemon."""
    running = daemon("--no-state")

    def run(folder: Path, module: str = "app.tasks", python: str = sys.executable, **variables: str) -> Shown:
        command = [python, str(WORKER), running.socket, module]
        done = subprocess.run(
            command, cwd=folder, env=environment(**variables), capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        shown: Shown = json.loads(done.stdout)
        return shown

    return run


def sources(shown: Shown) -> dict[str, str]:
    """Return where the answers came from."""
    return {what: source for what, (_, source) in shown.items()}


def test_projects_share_nothing_but_the_library_and_processes_of_one_share_all(
    projects: tuple[Path, Path], show: Keys
) -> None:
    """The same module path in two projects is two functions, unless a variable names one project for both."""
    first, again, other = show(projects[0]), show(projects[0]), show(projects[1])
    assert set(sources(first).values()) == {"upstream"}
    assert set(sources(again).values()) == {"cache"}
    assert sources(other) == dict.fromkeys(first, "upstream") | {"library": "cache"}

    named = [show(project, SIDECARD_PROJECT="shop") for project in projects]
    assert sources(named[0]) == dict.fromkeys(first, "upstream") | {"library": "cache"}
    assert set(sources(named[1]).values()) == {"cache"}


def test_interpreters_of_one_project_share(projects: tuple[Path, Path], show: Keys) -> None:
    """Closures and defaults, values and classes have the same form in all of them."""
    other = os.environ.get("OTHER_PYTHON")
    if not other:
        pytest.skip("OTHER_PYTHON names no interpreter with msgspec")

    version = [subprocess.check_output([python, "-V"], text=True) for python in (sys.executable, other)]
    assert version[0] != version[1]
    first, second = show(projects[0]), show(projects[0], python=other)
    assert second == {what: [key, "cache"] for what, (key, _) in first.items()}
    assert sources(show(projects[1], python=other)) == dict.fromkeys(first, "upstream") | {"library": "cache"}


def test_a_script_is_one_module_however_it_is_run(projects: tuple[Path, Path]) -> None:
    """By its path, from elsewhere, or with ``-m``; two scripts of one name are two."""

    def key(folder: Path, *command: str) -> str:
        return subprocess.check_output([sys.executable, *command], cwd=folder, env=environment(), text=True).strip()

    one, two = projects
    assert len({key(one, "main.py"), key(one.parent, "one/main.py"), key(one, "-m", "main")}) == 1
    assert key(one, "main.py") != key(two, "main.py")


def test_installed_packages_have_no_project_and_archives_do(
    projects: tuple[Path, Path], show: Keys, tmp_path: Path
) -> None:
    """Two virtual environments share what is installed in both; an editable install is the project's own directory."""
    one, two = projects
    places = []
    for name in ("a", "b"):
        site = tmp_path / name / "site-packages"
        shutil.copytree(one / "app", site / "app")
        places.append(site)

    first = show(places[0])
    assert set(sources(first).values()) == {"upstream"}
    assert set(sources(show(places[1])).values()) == {"cache"}

    editable = show(tmp_path, PYTHONPATH=f"{CLIENT}{os.pathsep}{one}")
    assert {what: key for what, (key, _) in editable.items()} == {what: key for what, (key, _) in show(one).items()}

    for name in ("x.pyz", "y.pyz"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.write(one / "app" / "tasks.py", "packed.py")

    archives = [
        show(two, "packed", PYTHONPATH=f"{CLIENT}{os.pathsep}{tmp_path / name}") for name in ("x.pyz", "y.pyz", "x.pyz")
    ]
    assert [set(sources(shown).values()) for shown in archives] == [
        {"upstream", "cache"},
        {"upstream", "cache"},
        {"cache"},
    ]
