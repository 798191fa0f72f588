"""The generated documentation of settings: the example file and the Markdown tables."""

import re
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from sidecard.config.load import load
from sidecard.config.model import FIXED, NAMED, SECTIONS, START_ONLY_SECTIONS, START_ONLY_SETTINGS, TABLES
from sidecard.config.schema import default_local_limit
from sidecard.core.settings import EngineSettings
from tests import settings_reference as reference

EVERY_SETTING = [setting for settings in (FIXED | NAMED).values() for setting in settings.values()]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a settings file."""
    return tmp_path / "sidecard.toml"


def example(*, active: bool) -> str:
    """Return the shipped example file, unchanged or with every setting uncommented."""
    text = (resources.files("sidecard") / "example.toml").read_text(encoding="utf-8")
    return re.sub(r"^#(?=[a-z_]+ = |\[)", "", text, flags=re.MULTILINE) if active else text


def test_the_shipped_example_is_the_generated_one() -> None:
    """After a change of the schema: ``python -m tests.generated_docs``."""
    assert example(active=False) == reference.example_toml()


def test_the_uncommented_example_has_every_setting(file: Path) -> None:
    """All of its values are valid."""
    file.write_text(example(active=True))
    loaded = load(file, {})
    tree = tomllib.loads(example(active=True))
    for section, settings in FIXED.items():
        assert {key.partition(".")[0] for key in settings} == set(tree[section]), section

    for table, settings in NAMED.items():
        ((name, entry),) = tree[table].items()
        flat = {key for key, value in entry.items() if not isinstance(value, dict)}
        nested = {f"{key}.{inner}" for key, value in entry.items() if isinstance(value, dict) for inner in value}
        assert flat | nested == set(settings), (table, name)

    assert loaded.cache == load(None, {}).cache


def test_the_example_without_changes_has_no_effect(file: Path) -> None:
    """Every setting is commented out, and its value is the default unless the generator chooses another."""
    file.write_text(example(active=False))
    expected = EngineSettings(
        local_max_concurrent=default_local_limit()
    )  # the engine does not ask for the host's processors
    assert load(file, {}).engine_settings() == expected
    default = load(None, {}).shown()
    file.write_text(example(active=True))
    uncommented = load(file, {}).shown()
    differing = {name for name, value in default.items() if uncommented[name] != value}
    assert differing == {name for name in reference.EXAMPLES if name in default} - {"socket.path"}


def test_the_example_marks_settings_that_need_a_restart() -> None:
    """Whole sections in their header, single settings in their comment."""
    text = example(active=False)
    for section in FIXED:
        head = re.search(rf"^\[{section}\].*$", text, re.MULTILINE)
        assert head is not None
        assert head[0].endswith("# (start)") == (section in START_ONLY_SECTIONS)

    marked = re.findall(r"^# .*\(start\)\n#(\w+) = ", text, re.MULTILINE)
    assert sorted(marked) == sorted(key for keys in START_ONLY_SETTINGS.values() for key in keys)


def test_the_markdown_reference_has_one_complete_row_per_setting() -> None:
    """Key, valid values, default, description and variable; no cell is empty."""
    rows = [line for line in reference.markdown().splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows]
    assert [row[0] for row in cells] == [f"`{setting.key}`" for setting in EVERY_SETTING]
    assert all(len(row) == 5 and all(row) for row in cells)


def test_the_markdown_reference_names_legacy_variables() -> None:
    """Beside the setting's own variable."""
    assert "`SIDECARD_STORE_URL`, `REDIS_URL` |" in reference.markdown()


def test_every_description_is_a_sentence() -> None:
    """It begins with a capital letter or a code word and ends with a full stop."""
    described = {
        setting.name: description
        for section, shape in (SECTIONS | TABLES).items()
        for setting, _, description in reference._documented(section, shape)
    }
    assert set(described) == {setting.name for setting in EVERY_SETTING}
    for name, description in described.items():
        assert re.match(r"[A-Z`]", description), name
        assert description.endswith((".", ".)", ".`")), name
