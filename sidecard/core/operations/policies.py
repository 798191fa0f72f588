"""The effective policy of a task: each value, and the setting that determines it."""

from collections.abc import Mapping
from typing import Any

from sidecard.core.settings import EngineSettings, TaskSettings
from sidecard_client.protocol.wire import DEFAULT_BACKEND, PolicyValue

DEFAULT_ORIGIN = "default"

_INHERITED = ("ttl_seconds", "stale_seconds")
"""Fields that a task without a value of its own inherits from ``[cache]``."""

_BUILT_IN: Mapping[str, Any] = {"route": "order", "backends": (DEFAULT_BACKEND,)}
"""Values if neither the task nor the begin has one."""


def policy_of(settings: EngineSettings, task: str, origins: Mapping[str, str]) -> dict[str, PolicyValue]:
    """Return a task's policy by the names of ``[tasks.NAME]``, and what it inherits from ``[cache]``.

    ``origins`` maps full names of settings to where they were set; if it is empty, so are the origins in the result.
    """

    def of(setting: str, value: Any) -> PolicyValue:
        return PolicyValue(value, setting, origins.get(setting, DEFAULT_ORIGIN) if origins else "")

    own = settings.task(task)
    policy = {}
    for field in TaskSettings.__struct_fields__:
        value = getattr(own, field)
        if field in _INHERITED and value is None:
            policy[field] = of(f"cache.{field}", getattr(settings, field))
        else:
            policy[field] = of(f"tasks.{task}.{field}", value or _BUILT_IN.get(field, value))

    policy["sharing_window_seconds"] = of("cache.sharing_window_seconds", settings.sharing_window_seconds)
    if not settings.cache_max_bytes:
        for field in _INHERITED:
            policy[field] = of("cache.max_bytes", 0.0)

    return policy
