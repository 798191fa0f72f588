"""Answers that are a list of choices, in the form of OpenAI's completions. Pure."""

from typing import Any

from sidecard_client.http.answers.json_answer import JsonAnswer


class ChoicesAnswer(JsonAnswer):
    """A completion, or chunks of one. ``[DONE]`` proves nothing: servers send it after a truncated answer, or not at all."""

    def read(self, event: dict[str, Any]) -> None:
        """Read the choices that an object or a chunk has; the first and the last chunk may have none."""
        choices = event.get("choices")
        if isinstance(choices, list):
            self.fits = True
            for place, choice in enumerate(choices):
                if isinstance(choice, dict):
                    self._read_choice(place, choice)

        self.use(event, event.get("usage"))

    def _read_choice(self, place: int, choice: dict[str, Any]) -> None:
        index, reason = choice.get("index"), choice.get("finish_reason")
        if type(index) is not int:
            index = place

        self.begun.add(index)
        if isinstance(reason, str) and reason:
            self.reasons[index] = reason

        if choice.get("error") or reason == "error":
            self.fail(choice.get("error") or reason)

        message = choice.get("delta" if self.streamed else "message")
        if isinstance(message, dict) and isinstance(message.get("refusal"), str) and message["refusal"]:
            self.refused = True
