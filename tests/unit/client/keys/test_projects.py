"""Which project a module belongs to."""

import os
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from sidecard_client.keys.projects import project_of

PLACES = [
    ("app.tasks", "app/tasks.py", ""),
    ("app", "app/__init__.py", ""),
    ("app.tasks.llm", "app/tasks/llm/__init__.py", ""),
    ("run", "run.py", ""),
    ("app.tasks", "elsewhere.py", "/elsewhere.py"),  # loaded by its path
]


@pytest.mark.parametrize(("module", "file", "place"), PLACES)
def test_a_project_is_the_directory_that_its_modules_are_imported_from(
    module: str, file: str, place: str, tmp_path: Path
) -> None:
    """Below a declaration, its name is added."""
    assert project_of(module, str(tmp_path / file)) == f"{tmp_path}{place}"
    source = tmp_path / "named" / "src"
    source.mkdir(parents=True)
    (source.parent / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    assert project_of(module, str(source / file)) == f"shop {source}{place}"


@pytest.mark.parametrize("declaration", ["", "not toml", "[project]\nname = 3", "project = 3"])
def test_a_declaration_without_a_name_names_nothing(declaration: str, tmp_path: Path) -> None:
    """Keys must not fail for it."""
    (tmp_path / "pyproject.toml").write_text(declaration)
    assert project_of("app", str(tmp_path / "app.py")) == str(tmp_path)


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("openai", "/srv/venv/lib/python3.11/site-packages/openai/__init__.py"),
        ("apt", "/usr/lib/python3/dist-packages/apt/__init__.py"),
        ("os", os.__file__),
        ("sys", None),
        ("builtins", None),
    ],
)
def test_an_installed_module_has_no_project(module: str, file: str | None) -> None:
    """Its path alone names it, in every environment."""
    assert not project_of(module, file)


def test_a_module_without_a_file_belongs_to_the_working_directory() -> None:
    """As in a shell."""
    assert "answers" not in sys.modules
    assert project_of("answers", None) == str(Path.cwd())


def test_a_deleted_working_directory_fails_no_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process shares with itself alone."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    project = project_of("answers of a deleted directory", None)
    assert project.startswith("process ")
    assert project_of("others of a deleted directory", None) == project


@pytest.mark.parametrize("fault", [PermissionError("not yours"), ModuleNotFoundError("No module named 'tomllib'")])
def test_a_declaration_that_cannot_be_read_names_nothing(
    fault: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that has changed its uid or its root may read neither the file nor the standard library."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "shop"\n')
    if isinstance(fault, ImportError):
        monkeypatch.setitem(sys.modules, "tomllib", None)
    else:
        monkeypatch.setattr(Path, "is_file", Mock(side_effect=fault))

    assert project_of("app", str(tmp_path / "app.py")) == str(tmp_path)
