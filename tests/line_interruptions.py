"""Interrupt functions at each of their lines, as a signal handler that raises may."""

import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any


class LineInterruption:
    """A trace function that raises `KeyboardInterrupt` when the nth line of some functions begins.

    Each line counts once: a ``with`` has its line again at its end, and no handler runs between that and the release.
    """

    def __init__(self, number: int, functions: tuple[Callable[..., object], ...]) -> None:
        self._left = number
        self._codes = {function.__code__ for function in functions}
        self._begun = set[tuple[CodeType, int]]()

    def __call__(self, frame: FrameType, event: str, _: object) -> Any:
        """See a function entered, or a line begun."""
        if frame.f_code not in self._codes:
            return None

        place = frame.f_code, frame.f_lineno
        if event == "line" and place not in self._begun:
            self._begun.add(place)
            self._left -= 1
            if not self._left:
                raise KeyboardInterrupt

        return self


def was_interrupted(number: int, call: Callable[[], object], *functions: Callable[..., object]) -> bool:
    """Call, and interrupt it where the nth line of ``functions`` begins; return False if they had fewer lines."""
    before = sys.gettrace()
    sys.settrace(LineInterruption(number, functions))
    try:
        call()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)

    return False
