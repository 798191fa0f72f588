"""The documentation: its links, its generated sections, its limits, and its coverage of alerts and commands."""

import re
from importlib import resources
from pathlib import Path

import pytest

from sidecard.cli import COMMANDS
from tests.generated_docs import DOCS, SECTIONS, generated

ROOT = DOCS.parents[1]
PAGES = sorted(DOCS.glob("*.md"))
README_WORDS = 1800


@pytest.mark.parametrize("page", sorted(SECTIONS))
def test_generated_sections_are_up_to_date(page: str) -> None:
    """After a change of the code: python -m tests.generated_docs."""
    assert (DOCS / f"{page}.md").read_text(encoding="utf-8") == generated(page)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_to_existing_files_and_headings(page: Path) -> None:
    """Relative links and anchors within a page resolve."""
    text = page.read_text(encoding="utf-8")
    anchors = {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    links = re.findall(r"\]\(([^)#\s]*)(#[^)\s]+)?\)", text)
    for file, anchor in links:
        if file.startswith(("http:", "https:")):
            continue

        assert not file or (page.parent / file).is_file(), file
        assert not anchor or file or anchor[1:] in anchors, anchor


def test_the_readme_is_read_in_ten_minutes() -> None:
    """It has at most 1,800 words and names every page."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= README_WORDS
    assert [page.stem for page in PAGES if f"(sidecard/docs/{page.name})" not in text] == []


def test_every_alert_has_a_paragraph() -> None:
    """`sidecard docs operations` explains each alert rule."""
    rules = (resources.files("sidecard.observe") / "files" / "alerts.yml").read_text(encoding="utf-8")
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    assert re.findall(r"- alert: (\w+)", rules) == re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE)


def test_operations_names_every_command() -> None:
    """Each command of ``sidecard`` is listed, but for the two that the README shows."""
    text = (DOCS / "operations.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^sidecard ([a-z-]+)", text, re.MULTILINE))
    assert set(COMMANDS) - {"demo", "bench"} <= listed


def test_every_page_begins_with_a_title_and_a_sentence() -> None:
    """`sidecard docs` lists both."""
    for page in PAGES:
        title, blank, sentence = page.read_text(encoding="utf-8").split("\n")[:3]
        assert re.fullmatch(r"# [A-Z].{1,60}", title), page
        assert not blank, page
        assert sentence.endswith((".", ":")), page


def test_files_that_the_documentation_names_exist() -> None:
    """Paths to code in any page are those of the tree."""
    for page in [ROOT / "README.md", *PAGES]:
        for path in re.findall(r"`((?:sidecard|client|tests|systemd)/[\w/.*-]+)`", page.read_text(encoding="utf-8")):
            assert list(ROOT.glob(path.rstrip("/"))), f"{page.name}: {path}"


def test_modules_that_the_documentation_names_exist() -> None:
    """Dotted names of the client lead to a module, or to a name in one."""
    for page in [ROOT / "README.md", *PAGES]:
        for name in re.findall(r"`(sidecard_client(?:\.\w+)+)`", page.read_text(encoding="utf-8")):
            path = (ROOT / "client").joinpath(*name.split("."))
            candidates = (path, path.with_suffix(".py"), path.parent.with_suffix(".py"))
            assert any(candidate.exists() for candidate in candidates), f"{page.name}: {name}"


def test_no_page_has_a_placeholder() -> None:
    """Every table is filled in."""
    for page in [ROOT / "README.md", *PAGES]:
        assert re.findall(r"^[A-Z]+_[A-Z]+$", page.read_text(encoding="utf-8"), re.MULTILINE) == [], page.name
