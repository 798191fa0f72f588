"""Decide which settings a running daemon changes when its settings are loaded again."""

from operator import attrgetter
from typing import Any

from msgspec import Struct, structs

from sidecard.config.load import outbound_problems
from sidecard.config.model import FIXED, START_ONLY_SECTIONS, START_ONLY_SETTINGS, Config
from sidecard.errors import ConfigError


class Reconfiguration(Struct, frozen=True):
    """The effect of loading the settings again."""

    config: Config
    """The settings to use from now on."""
    changed: dict[str, Any]
    """Settings in effect that differ from before, by full name, as shown; None for a setting that was removed."""
    needs_restart: list[str]
    """Full names of settings that differ but take effect at the next start only."""


def reconfigure(running: Config, loaded: Config) -> Reconfiguration:
    """Return which of the ``loaded`` settings take effect in a daemon that runs with others.

    Raises `ConfigError` if sovereign mode is switched on and the daemon has a connection that it forbids.
    """
    kept: dict[str, Any] = {section: getattr(running, section) for section in START_ONLY_SECTIONS}
    for section, keys in START_ONLY_SETTINGS.items():
        older = {key: getattr(getattr(running, section), key) for key in keys}
        kept[section] = structs.replace(getattr(loaded, section), **older)

    config = structs.replace(loaded, **kept)
    needs_restart = [
        setting.name
        for section, settings in FIXED.items()
        for setting in settings.values()
        if _value(loaded, section, setting.key) != _value(config, section, setting.key)
    ]
    origins = {
        name: running.origins[name] if name in needs_restart else origin for name, origin in loaded.origins.items()
    }
    config = structs.replace(config, origins=origins)
    if config.sovereign.enabled:
        problems = outbound_problems(lambda *path: _value(config, *path), config.sovereign.allow)
        if problems:
            raise ConfigError([f"a restart is needed: {problem}" for _, problem in problems])

    before, after = running.shown(), config.shown()
    changed = {name: value for name, value in after.items() if name not in before or before[name] != value}
    return Reconfiguration(config, changed | {name: None for name in before if name not in after}, needs_restart)


def _value(config: Config, section: str, key: str) -> Any:
    return attrgetter(key)(getattr(config, section))
