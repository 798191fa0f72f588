"""What holds for a task, value by value, and which setting says so."""

from collections.abc import Mapping
from typing import Any

from sidecard.core.settings import EngineSettings, TaskSettings
from sidecard_client.protocol.wire import DEFAULT_BACKEND, PolicyValue

DEFAULT_ORIGIN = "default"

_FOR_ALL_TASKS = ("ttl_seconds", "stale_seconds")
"""Of which ``[cache]`` has what holds where the task says nothing."""

_BUILT_IN: Mapping[str, Any] = {"route": "order", "backends": (DEFAULT_BACKEND,)}
"""What holds where neither the task nor the begin says anything."""


def policy_of(settings: EngineSettings, task: str, origins: Mapping[str, str]) -> dict[str, PolicyValue]:
    """Return the policy of a task by the names of ``[tasks.NAME]``, and what it has from ``[cache]``.

    ``origins`` says by full name where settings were said; it may be empty, and so are the origins then.
    """

    def of(setting: str, value: Any) -> PolicyValue:
        return PolicyValue(value, setting, origins.get(setting, DEFAULT_ORIGIN) if origins else "")

    said = settings.task(task)
    policy = {}
    for field in TaskSettings.__struct_fields__:
        value = getattr(said, field)
        if field in _FOR_ALL_TASKS and value is None:
            policy[field] = of(f"cache.{field}", getattr(settings, field))
        else:
            policy[field] = of(f"tasks.{task}.{field}", value or _BUILT_IN.get(field, value))

    policy["sharing_window_seconds"] = of("cache.sharing_window_seconds", settings.sharing_window_seconds)
    if not settings.cache_max_bytes:
        for field in _FOR_ALL_TASKS:
            policy[field] = of("cache.max_bytes", 0.0)

    return policy
