"""What tests of the configuration have in common."""

import pytest


@pytest.fixture(autouse=True)
def _eight_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let defaults be those of a host with eight processors, whatever this one has."""
    monkeypatch.setattr("os.cpu_count", lambda: 8)
