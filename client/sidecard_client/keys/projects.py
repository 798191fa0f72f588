"""The project of a module: the same module path in two projects is two modules.

A module's project is the first of these:

1. ``SIDECARD_PROJECT``, for all modules of the process that are not installed. Set it where a project runs from different
   directories (releases side by side) and should share its answers, or where several run from the same one (containers);
2. nothing, for a module that is installed (``site-packages``) or built in: its path alone names it on every host;
3. the directory that it was imported from, with the project's name if a ``pyproject.toml`` in or above that directory has one;
4. the working directory, for a module without a file: a notebook, a shell.

What a process cannot read (it has changed its uid or its root, or its directory was deleted) never fails a call: without a
declaration, the directory alone identifies the project; without a working directory, the process does.
"""

import functools
import os
import sys
from pathlib import Path

VARIABLE = "SIDECARD_PROJECT"

INSTALLED_FOLDERS = frozenset({"site-packages", "dist-packages"})

_LIBRARY = Path(os.__file__).parent

_THIS_PROCESS = f"process {os.urandom(8).hex()}"
"""In place of a working directory that was deleted: shares with no other process."""


def project_of(module: str, file: str | None) -> str:
    """Return what identifies the project of a module; empty if it is installed."""
    located = _project_of_file(module, file)
    return located and (os.environ.get(VARIABLE) or located)


@functools.lru_cache(maxsize=1024)
def _project_of_file(module: str, file: str | None) -> str:
    if file is None:
        # Built in, or defined by hand.
        return "" if module in sys.builtin_module_names or module in sys.stdlib_module_names else _working_directory()

    path = Path(file).resolve()
    if not INSTALLED_FOLDERS.isdisjoint(path.parts) or path.is_relative_to(_LIBRARY):
        return ""

    root = _root_of(module, path)
    name = _declared_name(root)
    return str(root) if name is None else f"{name} {root}"


def _working_directory() -> str:
    try:
        return str(Path.cwd())
    except OSError:
        return _THIS_PROCESS


def _root_of(module: str, path: Path) -> Path:
    """Return the directory that a module was imported from, or its file if that was loaded by its path."""
    place = path.parent if path.stem == "__init__" else path.with_suffix("")
    for part in reversed(module.split(".")):
        if place.name != part:
            return path

        place = place.parent

    return place


def _declared_name(root: Path) -> str | None:
    """Return the project's name in the nearest ``pyproject.toml``."""
    for folder in (root, *root.parents):
        declaration = folder / "pyproject.toml"
        try:
            if not declaration.is_file():
                continue

            import tomllib  # noqa: PLC0415 - many programs never need it

            name = tomllib.loads(declaration.read_text("utf-8")).get("project", {}).get("name")
        except (ImportError, OSError, ValueError, AttributeError):
            return None

        return name if isinstance(name, str) else None

    return None
