"""What finish reasons mean for storing. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final

from sidecard_client.http.family import NotStored

_REASONS: Final[Mapping[NotStored, frozenset[str]]] = {
    # Tool calls are stored because the same request asks for the same ones.
    "": frozenset(
        {
            "stop", "end_turn", "stop_sequence", "completed", "complete", "eos", "eos_token",
            "tool_calls", "tool_call", "function_call", "tool_use", "finish", "finished", "stop_criteria_met", "endoftext",
        }
    ),
    "length": frozenset(
        {"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "max_messages", "error_limit"}
    ),
    "refusal": frozenset({"refusal"}),
    "filter": frozenset(
        {
            "content_filter", "content_filtered", "guardrail_intervened", "safety", "recitation", "blocklist",
            "prohibited_content", "spii", "image_safety", "image_prohibited_content", "image_recitation", "language",
            "model_armor", "escalation", "error_toxic",
        }
    ),
    "pause": frozenset({"pause_turn", "compaction", "continuation"}),
    "incomplete": frozenset(
        {
            "incomplete", "abort", "aborted", "cancelled", "canceled", "user_cancel", "interrupted", "steered",
            "insufficient_system_resource",
        }
    ),
    "error": frozenset(
        {"malformed_function_call", "malformed_response", "malformed_tool_use", "malformed_model_output"}
    ),
    "state": frozenset({"load", "unload"}),
}  # fmt: skip
_BY_REASON: Final = {reason: meaning for meaning, reasons in _REASONS.items() for reason in reasons}

_MOST_SERIOUS_FIRST: Final[tuple[NotStored, ...]] = (
    "dialect", "error", "filter", "refusal", "incomplete", "state", "pause", "length", ""
)  # fmt: skip
"""``length`` comes last of those that are not stored, since an app may store it: then no other must hold."""


def not_stored_for(reasons: Iterable[str]) -> NotStored:
    """Return why an answer with these finish reasons is not stored; an unknown one is a ``dialect``."""
    found = {_BY_REASON.get(reason.lower(), "dialect") for reason in reasons}
    return next((meaning for meaning in _MOST_SERIOUS_FIRST if meaning in found), "")
