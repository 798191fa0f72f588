"""Sovereign mode by the daemon's own variables."""

import pytest

from sidecard_client import SidecardWarning
from sidecard_client.call.sovereign import sovereign_by


@pytest.mark.parametrize(
    ("environ", "on"),
    [
        ({}, False),
        ({"SOVEREIGN_MODE": "true"}, True),
        ({"SOVEREIGN_MODE": " Yes "}, True),
        ({"SOVEREIGN_MODE": "0"}, False),
        ({"SIDECARD_SOVEREIGN_ENABLED": "on"}, True),
        ({"SIDECARD_SOVEREIGN_ENABLED": "off", "SOVEREIGN_MODE": "true"}, False),
        ({"SIDECARD_SOVEREIGN_ENABLED": "", "SOVEREIGN_MODE": "1"}, True),
    ],
    ids=str,
)
def test_sovereign_by(environ: dict[str, str], on: bool) -> None:
    """The newer variable wins if it is not empty; the words are the daemon's."""
    assert sovereign_by(environ) is on


def test_an_unknown_word_counts_as_on() -> None:
    """A misspelling must not let a call leave the host."""
    with pytest.warns(SidecardWarning, match="SOVEREIGN_MODE is 'enabled', which counts as true; set it to"):
        assert sovereign_by({"SOVEREIGN_MODE": "enabled"})
