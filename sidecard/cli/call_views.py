"""How ``sidecard calls`` shows calls: to programs as JSON, to people as a table, or one by itself."""

from datetime import UTC, datetime
from itertools import chain
from typing import Any

import msgspec

from sidecard.observe.call_log.rows import Row

SHOWN_ID_CHARACTERS = 16
"""Enough to tell the rows of a daemon apart."""


def fields(row: Row, *, texts: bool = True) -> dict[str, Any]:
    """Return a row as JSON has it: with its time in words, and what was said as it is."""
    shown: dict[str, Any] = {"id": row.id, "at": _utc(row.at_seconds)} | msgspec.structs.asdict(row)
    for name in ("prompt", "answer"):
        text = shown.pop(name)
        if texts:
            shown[name] = None if text is None else msgspec.Raw(text.encode())

    return shown


def line(value: Any) -> bytes:
    """Return a value as a line of JSON."""
    return msgspec.json.encode(value) + b"\n"


def table_of(rows: list[Row]) -> str:
    """Return rows for people; empty where there are none."""
    if not rows:
        return ""

    from sidecard.cli.tables import count, dollars, drawn, seconds, table  # noqa: PLC0415 - rich, and what needs it, is for people alone

    heads = ["call", "at", "source", "task", "backend", "model", "tokens", "billed", "took", ""]
    return drawn(
        table(
            "",
            heads,
            [
                [
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
                ]
                for row in rows
            ],
            align="llllllrrrl",
        )
    )


def described(row: Row) -> str:
    """Return a row for people, a field a line."""
    from sidecard.cli.tables import dollars, plain, seconds, size  # noqa: PLC0415 - rich, and what needs it, is for people alone

    shown = msgspec.structs.asdict(row)
    prompt, answer = shown.pop("prompt"), shown.pop("answer")
    shown["at_seconds"] = f"{_local(row.at_seconds)} ({_utc(row.at_seconds)})"
    shown |= {name: dollars(shown[name]) for name in ("billed_dollars", "saved_dollars")}
    shown |= {name: seconds(shown[name]) for name in ("seconds", "age_seconds")}
    shown["bytes"] = size(row.bytes)
    names = {
        "at_seconds": "at",
        "billed_dollars": "billed",
        "saved_dollars": "saved",
        "seconds": "took",
        "age_seconds": "age",
    }
    width = max(len(names.get(name, name)) for name in shown)
    lines = [
        f"{names.get(name, name).replace('_', ' '):{width}}  {plain(str(value))}"
        for name, value in shown.items()
        if value not in ("", None)
    ]
    said = (("prompt", prompt), ("answer", answer))
    texts = [
        ["", f"{name}:", msgspec.json.format(text)] if text is not None else ["", f"{name}: not kept"]
        for name, text in said
    ]
    return "\n".join(chain(lines, *texts))


def _local(at_seconds: float) -> str:
    return datetime.fromtimestamp(at_seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _utc(at_seconds: float) -> str:
    return datetime.fromtimestamp(at_seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
