"""The shape of the source tree: short files, small folders, and names that are imported one by one."""

import ast
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRODUCT = ("sidecard", "client/sidecard_client")

MAX_PRODUCT_LINES = 400
MAX_TEST_LINES = 720
MAX_FILES = 14

LONG_FILES = {
    # One state machine: a reader, its replies and its end.
    "client/sidecard_client/_async/connection.py": 460,
    # The whole of a daemon's part, for one thread.
    "client/sidecard_client/testing.py": 430,
    # The blocking client's public methods, each with its faults.
    "tests/integration/test_sync_client.py": 1_100,
    # Streams of both clients, on one model that lets pieces out one by one.
    "tests/integration/test_streams.py": 760,
}
"""Files that may be longer, and how long."""

LARGE_FOLDERS = {
    # What client and daemon agree on: one module for each part.
    "client/sidecard_client/protocol": 18,
    # The asynchronous shell: what the blocking client has too, and its own way of waiting.
    "client/sidecard_client/_async": 16,
    # One file for each API.
    "client/sidecard_client/http/families": 40,
    # What a call is: one module for each part of it, without I/O.
    "client/sidecard_client/call": 26,
    # Below the packages: what all of them share.
    "sidecard/core": 16,
}
"""Folders that may have more Python files, and how many."""

STAR_IMPORTS = {
    # The namespaces that 0.1.0 published.
    "client/sidecard_client/errors.py",
    "client/sidecard_client/wire.py",
    # The one namespace of the messages, whose modules divide them.
    "client/sidecard_client/protocol/wire.py",
}
"""Files that may import all names of a module."""

_STAR = re.compile(rb"import[\s\\]*\*")


def _files(*folders: str) -> dict[str, Path]:
    """Return Python files by their path from the root."""
    found = [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]
    return {str(file.relative_to(ROOT)): file for file in found}


@pytest.mark.parametrize(("folders", "limit"), [(PRODUCT, MAX_PRODUCT_LINES), (("tests",), MAX_TEST_LINES)])
def test_files_are_short(folders: tuple[str, ...], limit: int) -> None:
    """No file is longer than the limit, but for those that are listed with a reason and a limit of their own."""
    lines = {name: len(file.read_text(encoding="utf-8").splitlines()) for name, file in _files(*folders).items()}
    assert {name: count for name, count in lines.items() if count > LONG_FILES.get(name, limit)} == {}


def test_folders_of_the_product_are_small() -> None:
    """No folder has more Python files than the limit, but for those that are listed with a reason."""
    counts = Counter(str(Path(name).parent) for name in _files(*PRODUCT))
    assert {name: count for name, count in counts.items() if count > LARGE_FOLDERS.get(name, MAX_FILES)} == {}


def test_names_are_imported_one_by_one() -> None:
    """Only the namespaces that re-export others import all names of a module."""
    stars = {
        name
        for name, file in _files(*PRODUCT, "tests").items()
        if _STAR.search(text := file.read_bytes())  # parsing all files would take seconds
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names)
    }
    assert stars == STAR_IMPORTS


SHARED_CLASS_NAMES = {
    # The root exception of each package; the client's is public.
    "SidecardError",
}
"""Public class names that may be defined in several modules."""


def test_a_class_name_stands_for_one_idea() -> None:
    """No two modules of the product define a public class of the same name."""
    modules: dict[str, list[str]] = {}
    for name, file in _files(*PRODUCT).items():
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                modules.setdefault(node.name, []).append(name)

    repeated = {name: places for name, places in modules.items() if len(places) > 1}
    assert {name: places for name, places in repeated.items() if name not in SHARED_CLASS_NAMES} == {}
