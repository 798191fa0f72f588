"""Answers that are vectors, which have no finish reason. Pure."""

from typing import Any, ClassVar

from sidecard_client.http.answers.json_answer import JsonAnswer
from sidecard_client.http.family import NotStored


class VectorsAnswer(JsonAnswer):
    """An answer with one vector for each text, in a field that derived classes name."""

    field: ClassVar[str]

    def __init__(self, choices: int = 1, *, streamed: bool = False) -> None:
        super().__init__(choices, streamed=streamed)
        self._vectors = 0

    def read(self, event: dict[str, Any]) -> None:
        """Count the vectors."""
        found = event.get(self.field)
        if isinstance(found, list):
            self.fits = True
            self._vectors = sum(self.is_vector(item) for item in found)

        self.use(event, event.get("usage"))

    def is_vector(self, item: Any) -> bool:
        """Return whether a member of the list has a vector."""
        return isinstance(item, list) and bool(item)

    def missing(self) -> str:
        """Return how many vectors the answer lacks."""
        return "" if self._vectors >= self.choices else f"it has {self._vectors} vectors for {self.choices} texts"

    def not_stored(self) -> NotStored:
        """Vectors may always be stored."""
        return ""
