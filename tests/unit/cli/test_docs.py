"""``sidecard docs``: the list of topics, and single topics."""

from pathlib import Path

import pytest

from sidecard.cli import docs, main
from sidecard.cli.exit_codes import USAGE

PAGE = "# Metrics of the daemon\n\nAll metrics have a unit. Some have exemplars.\n\n- one\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the package's topics."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "metrics.md").write_text(PAGE)
    (tmp_path / "docs" / "changes.md").write_text("# Changes\n\n## 0.2\n\n- none\n")
    (tmp_path / "docs" / "notes.txt").write_text("no topic")
    monkeypatch.setattr("sidecard.cli.docs.resources.files", lambda _: tmp_path)


@pytest.mark.usefixtures("package")
def test_docs_without_a_topic_lists_titles_and_first_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    """Topics are sorted; a topic without a paragraph has no sentence."""
    assert main(["docs"]) == 0
    _, changes, metrics = capsys.readouterr().out.splitlines()
    assert changes.split() == ["changes", "Changes"]
    assert metrics.split("  ")[0] == "metrics"
    assert metrics.endswith("Metrics of the daemon  All metrics have a unit.")


@pytest.mark.usefixtures("package")
def test_docs_with_a_topic_writes_the_source_to_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    """Only a terminal gets rendered Markdown."""
    assert main(["docs", "metrics"]) == 0
    assert capsys.readouterr().out == PAGE


@pytest.mark.usefixtures("package")
def test_docs_on_a_terminal_renders_markdown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The markers of headings are not shown, except with ``--raw``."""
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["docs", "metrics"]) == 0
    rendered = capsys.readouterr().out
    assert "Metrics of the daemon" in rendered
    assert "# Metrics" not in rendered
    assert main(["docs", "metrics", "--raw"]) == 0
    assert capsys.readouterr().out == PAGE


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("topic", "advice"), [("metric", "did you mean 'metrics'?"), ("xyz", "Known: 'changes', 'metrics'")]
)
def test_docs_with_an_unknown_topic_names_the_nearest(
    topic: str, advice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """An unknown topic is a usage error."""
    assert main(["docs", topic]) == USAGE
    assert advice in capsys.readouterr().err


def test_shipped_topics_have_a_title() -> None:
    """Every shipped page starts with a heading."""
    for name, text in docs.read_topics().items():
        assert docs.summary(text)[0], name
