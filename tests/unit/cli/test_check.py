"""``serve --check`` and ``config check``: what they call fine must not keep a daemon from starting."""

import json
import sys

import pytest

from sidecard.cli import BAD_CONFIG, main

WANTED = {
    "genai_prices": ("prices.table=true", 'pip install "sidecard[prices]"'),
    "psycopg": ("calls.url=postgresql://u@127.0.0.1/x", 'pip install "sidecard[postgres]"'),
    "usearch.index": ("tasks.rag.similar=true", 'pip install "sidecard[similar]"'),
}
FLAGS = ["--set", "calls.enabled=true", *(part for setting, _ in WANTED.values() for part in ("--set", setting))]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without extras."""
    for library in WANTED:
        monkeypatch.setitem(sys.modules, library, None)

    monkeypatch.delitem(sys.modules, "sidecard.observe.call_log.postgres", raising=False)


@pytest.mark.parametrize("command", [["serve", "--check"], ["config", "check"]])
def test_settings_that_want_what_is_not_installed_are_not_fine(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """All of them are told, each with what to install."""
    assert main([*command, *FLAGS]) == BAD_CONFIG
    told = capsys.readouterr()
    assert told.out == ""
    assert all(advice in told.err for _, advice in WANTED.values())


def test_programs_are_told_too_what_is_not_installed(capsys: pytest.CaptureFixture[str]) -> None:
    """As problems, one for each."""
    assert main(["config", "check", "--json", *FLAGS]) == BAD_CONFIG
    answer = json.loads(capsys.readouterr().out)
    assert not answer["fine"]
    assert len(answer["problems"]) == len(WANTED)
