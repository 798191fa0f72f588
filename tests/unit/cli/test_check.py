"""``serve --check`` and ``config check``: a daemon starts with settings that they call valid."""

import json
import sys

import pytest

from sidecard.cli import main
from sidecard.cli.exit_codes import BAD_CONFIG

WANTED = {
    "genai_prices": ("prices.table=true", 'pip install "sidecard[prices]"'),
    "psycopg": ("calls.url=postgresql://u@127.0.0.1/x", 'pip install "sidecard[postgres]"'),
    "usearch.index": ("tasks.rag.similar=true", 'pip install "sidecard[similar]"'),
}
FLAGS = ["--set", "calls.enabled=true", *(part for setting, _ in WANTED.values() for part in ("--set", setting))]


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate an installation without extras."""
    for library in WANTED:
        monkeypatch.setitem(sys.modules, library, None)

    monkeypatch.delitem(sys.modules, "sidecard.observe.call_log.postgres", raising=False)


@pytest.mark.parametrize("command", [["serve", "--check"], ["config", "check"]])
def test_settings_that_need_missing_packages_are_invalid(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each missing package is reported with the command that installs it."""
    assert main([*command, *FLAGS]) == BAD_CONFIG
    output = capsys.readouterr()
    assert output.out == ""
    assert all(advice in output.err for _, advice in WANTED.values())


def test_config_check_json_lists_missing_packages(capsys: pytest.CaptureFixture[str]) -> None:
    """There is one problem per missing package."""
    assert main(["config", "check", "--json", *FLAGS]) == BAD_CONFIG
    answer = json.loads(capsys.readouterr().out)
    assert not answer["fine"]
    assert len(answer["problems"]) == len(WANTED)
