"""What the requests and answers of Cohere have in common. Pure."""

from collections.abc import Mapping
from typing import Any, Final

HOSTS: Final = ("api.cohere.com", "api.cohere.ai", ".cohere.com", ".cohere.ai")


def usage_of(reported: Any) -> dict[str, Any]:
    """Return a ``usage`` of version 2, or a ``meta`` of version 1, in OpenAI's words: what is billed, else what was read."""
    if not isinstance(reported, Mapping):
        return {}

    billed, tokens = reported.get("billed_units"), reported.get("tokens")
    counted = billed if isinstance(billed, Mapping) and "input_tokens" in billed else tokens
    counted = counted if isinstance(counted, Mapping) else {}
    used = {
        "prompt_tokens": counted.get("input_tokens"),
        "completion_tokens": counted.get("output_tokens"),
        "cached_prompt_tokens": reported.get("cached_tokens"),
    }
    return {name: count for name, count in used.items() if count is not None}
