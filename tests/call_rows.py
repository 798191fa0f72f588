"""Calls and their rows, for tests of the call log."""

from typing import Any

from sidecard.core.effects import CallRecord
from sidecard.observe.call_log.rows import CallRow, Ids, row_of

AT = 1_800_000_000.0
"""Some instant of the wall clock."""

_ids = Ids()


def record(**fields: Any) -> CallRecord:
    """Return a call."""
    defaults: dict[str, Any] = {"source": "upstream", "task": "rag", "namespace": "1:d", "uid": 1, "pid": 2}
    return CallRecord(**defaults | fields)


def row(at: float = AT, prompt: str | None = None, answer: str | None = None, **fields: Any) -> CallRow:
    """Return a row, with what was said as JSON."""
    return row_of(_ids.next(at), at, "h", record(**fields), prompt, answer)
