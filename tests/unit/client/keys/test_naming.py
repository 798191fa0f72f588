"""Names of functions in keys."""

import subprocess
import sys
from functools import lru_cache, partial, wraps
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest

from sidecard_client.keys import naming
from sidecard_client.keys.naming import name_of
from sidecard_client.protocol.errors import UnkeyableRequest

ROOT = Path(__file__).resolve().parents[4]
HERE = f"sidecard {ROOT}:{__name__}"
"""This module, in its project."""


def function() -> None:
    """Stand at the top of a module."""


class Base:
    """Something with methods."""

    def method(self) -> None:
        """Be inherited."""

    @classmethod
    def maker(cls) -> None:
        """Be inherited as well."""

    def __call__(self) -> None:
        """Be called."""


class Sub(Base):
    """Inherits the method, and may answer differently."""


@pytest.mark.parametrize(
    ("named", "name"),
    [
        (function, f"{HERE}.function"),
        (Base().method, f"{HERE}.Base.method"),
        (Sub().method, f"{HERE}.Sub.method"),
        (Sub.maker, f"{HERE}.Sub.maker"),
        (Sub(), f"{HERE}.Sub()"),
        (partial(partial(function)), f"{HERE}.function"),
        (lru_cache(function), f"{HERE}.function"),
        (len, "builtins.len"),
        (str.upper, "builtins.str.upper"),
        (subprocess.run, "subprocess.run"),
        (pytest.raises, "_pytest.raises.raises"),
    ],
    ids=[
        "function",
        "method",
        "inherited",
        "class method",
        "callable",
        "partial",
        "lru_cache",
        "builtin",
        "method of a builtin",
        "library",
        "private module",
    ],
)
def test_name_of_functions_and_methods(named: Any, name: str) -> None:
    """Project, module and qualified name; for methods, the class that they are called on. Installed modules have no project."""
    assert name_of(named) == name


def test_name_of_a_wrapped_function_is_the_wrapped_ones() -> None:
    """`functools.wraps` gives a wrapper the name of its function."""

    @wraps(subprocess.run)
    def wrapper() -> None:
        function()

    assert name_of(wrapper) == "subprocess.run"


def test_name_of_a_lambda_is_an_error() -> None:
    """The error says how to pass one."""
    with pytest.raises(UnkeyableRequest, match="name="):
        name_of(lambda: None)


def test_two_modules_of_one_path_are_two_modules(tmp_path: Path) -> None:
    """A function is named after the module that it is in, not after the one that is imported now."""
    names = set()
    for folder in ("one", "two"):
        module = ModuleType("app.tasks")
        variables = vars(module)
        variables["__file__"] = str(tmp_path / folder / "app" / "tasks.py")
        names.add(name_of(FunctionType(function.__code__, variables, "answer")))

    assert names == {f"{tmp_path / folder}:app.tasks.function" for folder in ("one", "two")}


SCRIPT = """
import multiprocessing, sys
from sidecard_client.keys.naming import name_of
def answer(): pass
def show(): print(name_of(answer), flush=True)
if __name__ == "__main__":
    show()
    process = multiprocessing.get_context(sys.argv[1]).Process(target=show)
    process.start()
    process.join()
"""


@pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
def test_name_of_a_scripts_function_is_its_files_in_every_child(method: str, tmp_path: Path) -> None:
    """Two scripts do not share ``__main__.answer``; a script, its workers and those that import it do."""
    script = tmp_path / "one.py"
    script.write_text(SCRIPT)
    output = subprocess.run([sys.executable, str(script), method], capture_output=True, text=True, check=True).stdout

    assert output.splitlines() == [f"{tmp_path.resolve()}:one.answer"] * 2


def test_functions_of_a_notebook_are_told_apart_by_what_they_do() -> None:
    """Notebooks and shells have neither modules nor files."""
    script = "from sidecard_client.keys.naming import name_of\ndef answer(): return %s\nprint(name_of(answer))"
    names = [
        subprocess.run([sys.executable, "-c", script % value], capture_output=True, text=True, check=True).stdout
        for value in ("1", "2", "2", "[x + 1 for x in y]", "[x + 1 for x in y]", "[x + 2 for x in y]")
    ]
    assert names[1] == names[2]
    assert names[3] == names[4]
    assert len(set(names)) == 4


@pytest.fixture
def fresh() -> Any:
    """Forget which projects modules belong to, before and after a test that changes it."""
    naming._joined.cache_clear()
    yield
    naming._joined.cache_clear()


@pytest.mark.usefixtures("fresh")
def test_the_variable_names_the_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of modules that are not installed."""
    monkeypatch.setenv("SIDECARD_PROJECT", "shop")
    assert name_of(function) == f"shop:{__name__}.function"
    assert name_of(subprocess.run) == "subprocess.run"


def test_functions_of_another_process_main_module_keep_its_name() -> None:
    """Cloudpickle brings them, with their variables, to workers whose main module is the same for all programs."""

    def brought(source: str, **variables: Any) -> Any:
        namespace: dict[str, Any] = {"__name__": "__main__", **variables}
        exec(source, namespace)  # noqa: S102 - the test's own
        return namespace["answer"]

    plain = "def answer(question): return question"
    one, other = brought(plain, __file__="/nowhere/one.py"), brought(plain, __file__="/nowhere/other.py")
    assert name_of(one).endswith("one.answer")
    assert name_of(other).endswith("other.answer")
    notebook, another = brought(plain), brought("def answer(question): return question.upper()")
    assert name_of(notebook) == name_of(brought(plain))
    assert len({name_of(notebook), name_of(another), name_of(one)}) == 3


def test_functions_of_code_without_a_file_are_named_by_what_they_do() -> None:
    """Templates and notebooks make many of one name, each in its first line."""

    def executed(answer: str) -> Any:
        variables: dict[str, Any] = {}
        exec(f"def ask(question): return {answer!r}", variables)  # noqa: S102 - as libraries of prompts do
        return variables["ask"]

    assert name_of(executed("a")) == name_of(executed("a")) != name_of(executed("b"))
