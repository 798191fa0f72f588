"""Settings that are loaded again while the daemon runs."""

from pathlib import Path

import pytest

from sidecard.config.load import load
from sidecard.config.reload import reconfigure
from sidecard.core.operations.policies import DEFAULT_ORIGIN


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Name a settings file."""
    return tmp_path / "sidecard.toml"


def test_a_reload_changes_only_settings_that_need_no_restart(file: Path) -> None:
    """Settings that need a restart keep their value and its origin."""
    file.write_text("[cache]\nttl_seconds = 1\n[limits]\nmax_series = 5\nmax_peers = 5\n[tasks.old]\nttl_seconds = 1\n")
    running = load(file, {"SIDECARD_STORE_PASSWORD": "a"})
    file.write_text(
        "[cache]\nttl_seconds = 2\n[limits]\nmax_series = 6\nmax_peers = 6\n[http]\nlisten = '127.0.0.1:1'\n[tasks.new]\nttl_seconds = 1\n"
    )
    result = reconfigure(running, load(file, {"SIDECARD_STORE_PASSWORD": "b"}))
    config = result.config
    assert (config.cache.ttl_seconds, config.limits.max_peers, config.limits.max_series) == (2.0, 6, 5)
    assert (config.http.listen, config.store.password) == ("", "a")
    assert sorted(result.needs_restart) == ["http.listen", "limits.max_series", "store.password"]
    assert {name: value for name, value in result.changed.items() if not name.startswith("tasks.")} == {
        "cache.ttl_seconds": 2.0,
        "limits.max_peers": 6,
    }
    assert result.changed["tasks.old.ttl_seconds"] is None
    assert result.changed["tasks.new.ttl_seconds"] == 1.0
    assert config.origins["http.listen"] == DEFAULT_ORIGIN
    assert set(config.origins) == set(config.shown())


def test_a_reload_without_changes_changes_nothing(file: Path) -> None:
    """Passwords, which are not shown, are compared too."""
    file.write_text("[store]\npassword = 'x'\n")
    running = load(file, {})
    result = reconfigure(running, load(file, {}))
    assert (result.config, result.changed, result.needs_restart) == (running, {}, [])
