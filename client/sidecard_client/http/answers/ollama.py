"""Answers of Ollama: an object, or lines whose last one is ``done``. Pure."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer


class OllamaAnswer(JsonAnswer):
    """A generated text or message."""

    has_end: ClassVar[bool] = True

    def read(self, event: dict[str, Any]) -> None:
        """Read an answer, or a line of one."""
        done = event.get("done")
        self.fits = self.fits or (isinstance(done, bool) and ("message" in event or "response" in event or done))
        if done is True:
            self.ended = True
            # Old versions send no reason; an empty one says that the model's process went away.
            reason = event.get("done_reason", "stop")
            if isinstance(reason, str) and reason:
                self.reasons[0] = reason

        self.use(event, event)
