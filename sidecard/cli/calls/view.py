"""How ``sidecard calls`` shows calls: as JSON fields, as a table, or one call in full."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from sidecard.cli.text.numbers import count, dollars, seconds, size
from sidecard.cli.text.tables import render, table
from sidecard.observe.call_log.rows import CallRow
from sidecard.printable import printable

SHOWN_ID_CHARACTERS = 16
"""Enough to identify a row of one daemon."""

_COLUMNS = ("call", "at", "source", "task", "backend", "model", "tokens", "billed", "took", "")
_NAMES = {
    "at_seconds": "at",
    "billed_dollars": "billed",
    "saved_dollars": "saved",
    "seconds": "took",
    "age_seconds": "age",
}


def fields_of_call(row: CallRow, *, texts: bool = True) -> dict[str, Any]:
    """Return a row's fields for JSON, with an ISO time and, if ``texts``, with prompt and answer."""
    shown: dict[str, Any] = {"id": row.id, "at": _utc(row.at_seconds)} | msgspec.structs.asdict(row)
    for name in ("prompt", "answer"):
        text = shown.pop(name)
        if texts:
            shown[name] = None if text is None else msgspec.Raw(text.encode())

    return shown


def table_of(rows: list[CallRow]) -> str:
    """Return rows as a table."""
    return render(table("", _COLUMNS, [_cells(row) for row in rows], align="llllllrrrl"))


def _cells(row: CallRow) -> tuple[str, ...]:
    return (
        row.id[:SHOWN_ID_CHARACTERS],
        _local(row.at_seconds),
        row.source,
        row.task,
        row.backend,
        row.model,
        f"{count(row.prompt_tokens)}+{count(row.completion_tokens)}",
        dollars(row.billed_dollars),
        seconds(row.seconds),
        " ".join(filter(None, (row.reason, row.error))),
    )


def call_text(row: CallRow) -> str:
    """Return one row in full, one field per line."""
    shown = msgspec.structs.asdict(row)
    texts = {name: shown.pop(name) for name in ("prompt", "answer")}
    shown["at_seconds"] = f"{_local(row.at_seconds)} ({_utc(row.at_seconds)})"
    shown |= {name: dollars(shown[name]) for name in ("billed_dollars", "saved_dollars")}
    shown |= {name: seconds(shown[name]) for name in ("seconds", "age_seconds")}
    shown["bytes"] = size(row.bytes)
    width = max(len(_NAMES.get(name, name)) for name in shown)
    lines = [
        f"{_NAMES.get(name, name).replace('_', ' '):{width}}  {printable(str(value))}"
        for name, value in shown.items()
        if value not in ("", None)
    ]
    for name, text in texts.items():
        lines += ["", f"{name}: not logged"] if text is None else ["", f"{name}:", msgspec.json.format(text)]

    return "\n".join(lines)


def _local(at_seconds: float) -> str:
    return datetime.fromtimestamp(at_seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _utc(at_seconds: float) -> str:
    return datetime.fromtimestamp(at_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
