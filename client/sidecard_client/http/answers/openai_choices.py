"""Answers that are a list of choices, in the form of OpenAI's completions. Pure."""

from typing import Any

from sidecard_client.http.answers.json_answer import JsonAnswer


class ChoicesAnswer(JsonAnswer):
    """A completion, or chunks of one. ``[DONE]`` proves nothing: servers send it after a truncated answer, or not at all.

    ``usage_asked``: its stream is to end with a chunk that has the usage.
    """

    def __init__(self, choices: int = 1, *, streamed: bool = False, usage_asked: bool = False) -> None:
        super().__init__(choices, streamed=streamed)
        self._awaits_usage = usage_asked and streamed

    def read(self, event: dict[str, Any]) -> None:
        """Read the choices that an object or a chunk has; the first and the last chunk may have none."""
        choices = event.get("choices")
        if isinstance(choices, list):
            self.fits = True
            for place, choice in enumerate(choices):
                if isinstance(choice, dict):
                    self._read_choice(place, choice)

        usage = event.get("usage")
        self._awaits_usage = self._awaits_usage and not usage
        self.use(event, usage)

    def missing(self) -> str:
        """As `JsonAnswer.missing`. Servers that have no usage to send end their stream with ``[DONE]``."""
        missing = super().missing()
        return missing or ("its usage is missing" if self._awaits_usage and not self.marked_done else "")

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
