"""Read answers that are no JSON: audio, subtitles, text. They are whole if their body ended where HTTP says so. Pure."""

from collections.abc import Mapping

from sidecard_client.http.family import AnswerReader, AnswerSummary


class WholeBodyReader(AnswerReader):
    """Reads an answer that may be any bytes but none.

    A connection that breaks within a body of known length or in chunks is an error of HTTP, and never ends here. A body that
    lasts until the connection is closed may have been cut anywhere.
    """

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._is_delimited = "content-length" in headers or "transfer-encoding" in headers
        self._is_empty = True

    def feed(self, data: bytes) -> None:
        """Note that there is something."""
        self._is_empty = self._is_empty and not data
        self.has_output = self.has_output or bool(data.strip())

    def finish(self) -> AnswerSummary:
        """Return whether the body was whole."""
        if self._is_empty:
            return AnswerSummary("unproven", "incomplete", "it is empty")

        if not self._is_delimited:
            return AnswerSummary(
                "unproven", "incomplete", "its length is unknown: it lasts until the connection is closed"
            )

        return AnswerSummary("complete")
