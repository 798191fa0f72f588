"""Mistral's agents and conversations: they depend on what the server keeps, so they pass through."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.answers.openai_choices import ChoicesAnswer
from sidecard_client.http.family import RequestTarget, SideEffect
from sidecard_client.http.request_bodies.json_family import JsonFamily
from sidecard_client.http.request_bodies.shapes import are_messages


class MistralAgents(JsonFamily):
    """``POST /v1/agents/completions`` and ``POST /v1/conversations``."""

    name: ClassVar[str] = "mistral_agents"
    paths: ClassVar[tuple[str, ...]] = ("/agents/completions", "/conversations")
    answer: ClassVar[type[JsonAnswer]] = ChoicesAnswer

    def fits(self, fields: dict[str, Any]) -> bool:
        """Return whether it has messages, or the inputs of a conversation."""
        return are_messages(fields.get("messages")) or isinstance(fields.get("inputs"), str | list)

    def model_of(self, target: RequestTarget, fields: dict[str, Any]) -> str | None:
        """Return the agent, or the model of a conversation without one."""
        agent = fields.get("agent_id")
        return agent if isinstance(agent, str) else super().model_of(target, fields)

    def effect(self, fields: dict[str, Any]) -> SideEffect:  # noqa: ARG002 - all of them
        """Agents can be changed between two equal requests, and conversations are kept."""
        return "state"


FAMILY = MistralAgents()
