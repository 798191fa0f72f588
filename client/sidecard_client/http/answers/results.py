"""Answers that have one result for each input: vectors, scores, verdicts, images. Pure."""

from collections.abc import Iterable
from typing import Any

from sidecard_client.http.answers.json_answer import JsonAnswer


class ResultsAnswer(JsonAnswer):
    """An answer without finish reasons. ``choices`` is the number of its results; 0 means one or more."""

    def find(self, results: Iterable[bool]) -> None:
        """Note the results: whether each of them is whole."""
        self.fits = True
        for place, whole in enumerate(results):
            self.begun.add(place)
            if whole:
                self.reasons[place] = "stop"

    def missing(self) -> str:
        """Return which result the answer lacks."""
        broken = self.begun - self.reasons.keys()
        if broken:
            return f"result {min(broken)} is empty"

        found, expected = len(self.reasons), self.choices
        return "" if found and expected in {0, found} else f"it has {found} results of {expected or 'any number'}"


def is_vector(value: Any) -> bool:
    """Return whether a value is a vector that is not empty, in numbers or in base64."""
    if isinstance(value, str):
        return bool(value)

    return isinstance(value, list) and bool(value) and isinstance(value[0], int | float)
