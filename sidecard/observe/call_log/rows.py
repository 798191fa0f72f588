"""The rows of the call log in any database: columns, ids, queries."""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from msgspec import Struct

from sidecard.core.effects import CallRecord
from sidecard.errors import SidecardError

ROW_BYTES: Final = 400
"""Size of a row beside its texts: its numbers, and its place in an index."""

PAGE_ROWS: Final = 500
PAGE_ROWS_WITH_TEXTS: Final = 64
"""Rows of one page; with prompts and answers, which may have 256 KiB each."""

DAY_SECONDS: Final = 86400.0

_TIME_DIGITS: Final = 12
_MAX_MILLISECONDS: Final = 2**48 - 1
_COUNTER_MASK: Final = 2**16 - 1


class CallLogError(SidecardError):
    """The call log cannot be used at the moment."""


class NoCallLogError(SidecardError):
    """There is no call log at that place."""


class CallRow(Struct, frozen=True):
    """One call. The fields are the columns, in this order; `CallRecord` documents them."""

    id: str
    """See `Ids`."""
    at_seconds: float
    """When the call ended, by the wall clock, since 1970."""
    host: str
    source: str
    task: str
    namespace: str
    uid: int
    pid: int
    key: str | None
    backend: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    billed_dollars: float
    saved_dollars: float
    seconds: float
    age_seconds: float
    reason: str
    error: str
    trace: str
    bytes: int
    """The row's share of ``calls.max_bytes``."""
    prompt: str | None
    """JSON; None where prompts are not kept."""
    answer: str | None
    """As ``prompt``."""


COLUMNS: Final = CallRow.__struct_fields__


_TEXTS: Final = ("source", "task", "namespace", "backend", "model", "reason", "error", "trace")
_FLOATS: Final = ("billed_dollars", "saved_dollars", "seconds", "age_seconds")


def row_of(
    row_id: str, at_seconds: float, host: str, record: CallRecord, prompt: str | None = None, answer: str | None = None
) -> CallRow:
    """Return the row of a call; ``prompt`` and ``answer`` are JSON."""
    texts = {"host": host} | {name: getattr(record, name) for name in _TEXTS}
    if record.key is not None:
        texts["key"] = record.key

    values: dict[str, Any] = {"key": None} | {name: _storable(text) for name, text in texts.items()}
    text_bytes = sum(len(text.encode()) for text in (*values.values(), prompt, answer) if text is not None)
    values |= {name: _finite(getattr(record, name)) for name in _FLOATS}
    return CallRow(
        id=row_id,
        at_seconds=_finite(at_seconds),
        uid=record.uid,
        pid=record.pid,
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
        bytes=ROW_BYTES + text_bytes,
        prompt=prompt,
        answer=answer,
        **values,
    )


def _storable(text: str) -> str:
    """Return ``text`` without what PostgreSQL cannot store: any peer may choose names."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0


class Ids:
    """Ids that sort by time: 12 hexadecimal digits are milliseconds, 4 are a counter, 16 are random.

    A row that is written again keeps its id, so a database stores it once. The first 16 digits are unique in one daemon.
    """

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random_bytes = random_bytes
        self._milliseconds = -1
        self._count = 0

    def next(self, at_seconds: float) -> str:
        """Return a new id for an instant, in seconds since 1970."""
        milliseconds = _milliseconds(at_seconds)
        self._count = self._count + 1 if milliseconds == self._milliseconds else 0
        self._milliseconds = milliseconds
        return f"{milliseconds:012x}{self._count & _COUNTER_MASK:04x}{self._random_bytes(8).hex()}"


def first_id(at_seconds: float) -> str:
    """Return the lower bound of the ids of that instant and later."""
    return f"{_milliseconds(at_seconds):0{_TIME_DIGITS}x}"


def _milliseconds(at_seconds: float) -> int:
    return min(max(0, round(_finite(at_seconds) * 1000)), _MAX_MILLISECONDS)


class Filter(Struct, frozen=True):
    """Which rows to return; an empty field matches all. ``since_seconds`` is inclusive, ``until_seconds`` exclusive."""

    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    since_seconds: float | None = None
    until_seconds: float | None = None
    id_prefix: str = ""


class CallWriter(Protocol):
    """Writes rows. All methods wait for the database; only one is called at a time."""

    @property
    def place(self) -> str:
        """The database's name for logs, without a password."""

    def write(self, rows: Sequence[CallRow]) -> int:
        """Store rows that are not stored yet; return how many can never be stored.

        Raises `CallLogError` if it must be tried again.
        """

    def prune(self) -> bool:
        """Remove some rows that are too old or too many; return whether there are more. Raises `CallLogError`."""

    def notice(self) -> str:
        """Return a sentence for the operator, once; empty if there is none."""

    def close(self) -> None:
        """Disconnect; a later call connects again."""


class CallReader(Protocol):
    """Reads rows, while daemons write."""

    def page(self, wanted: Filter, *, after: str, newest_first: bool, limit: int, texts: bool) -> list[CallRow]:
        """Return at most ``limit`` rows after the id ``after``, in order; without ``texts``, prompts and answers are None.

        Raises `CallLogError`, `NoCallLogError`.
        """

    def close(self) -> None:
        """Disconnect."""


def read(
    reader: CallReader, wanted: Filter, *, newest_first: bool, limit: int | None = None, texts: bool = True
) -> Iterator[CallRow]:
    """Yield rows, with one page in memory at a time. Each page is a read of its own, so that no writer waits for long.

    Raises as `CallReader.page`.
    """
    page_rows = PAGE_ROWS_WITH_TEXTS if texts else PAGE_ROWS
    after = ""
    left = math.inf if limit is None else limit
    while left > 0:
        rows = reader.page(wanted, after=after, newest_first=newest_first, limit=int(min(left, page_rows)), texts=texts)
        yield from rows
        if len(rows) < min(left, page_rows):
            return

        left -= len(rows)
        after = rows[-1].id


def page_query(
    table: str, mark: str, wanted: Filter, *, after: str, newest_first: bool, limit: int, texts: bool
) -> tuple[str, list[Any]]:
    """Return the SQL of a page, and its values. ``mark`` is the placeholder of a value: ``?`` or ``%s``."""
    conditions, values = _conditions(wanted, mark)
    if after:
        conditions.append(f"id {'<' if newest_first else '>'} {mark}")
        values.append(after)

    shown = [name if texts or name not in {"prompt", "answer"} else f"NULL AS {name}" for name in COLUMNS]
    sql = (
        f"SELECT {', '.join(shown)} FROM {table} WHERE {' AND '.join(conditions) or '1 = 1'}"  # noqa: S608 - constants
        f" ORDER BY id {'DESC' if newest_first else 'ASC'} LIMIT {mark}"
    )
    return sql, [*values, limit]


def _conditions(wanted: Filter, mark: str) -> tuple[list[str], list[Any]]:
    conditions: list[str] = []
    values: list[Any] = []
    named = {"task": wanted.tasks, "model": wanted.models, "source": wanted.sources, "backend": wanted.backends}
    for column, names in named.items():
        if names:
            conditions.append(f"{column} IN ({', '.join([mark] * len(names))})")
            values += names

    # By id instead of ``at_seconds``: same order, and indexed.
    bounds = {">=": wanted.since_seconds, "<": wanted.until_seconds}
    for comparison, instant in bounds.items():
        if instant is not None:
            conditions.append(f"id {comparison} {mark}")
            values.append(first_id(instant))

    if wanted.id_prefix:
        conditions += [f"id >= {mark}", f"id < {mark}"]
        values += [wanted.id_prefix, f"{wanted.id_prefix}g"]  # the letter after the last digit

    return conditions, values


def column_definitions(types: Mapping[str, str], text_type: str) -> str:
    """Return the columns of ``CREATE TABLE``; ``types`` has those that are no texts."""
    return ", ".join(
        f"{name} {types.get(name, text_type)}{'' if name in {'key', 'prompt', 'answer'} else ' NOT NULL'}"
        for name in COLUMNS
    )


def insertion(table: str, mark: str) -> str:
    """Return the SQL that adds a `CallRow`; an existing row of that id stays."""
    marks = ", ".join([mark] * len(COLUMNS))
    return f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"  # noqa: S608 - constants


def add_all(
    rows: Sequence[CallRow], add: Callable[[Sequence[CallRow]], None], never_kept: tuple[type[Exception], ...]
) -> int:
    """Add rows together or, if that raises one of ``never_kept``, one by one. Return how many can never be stored."""
    try:
        add(rows)
    except never_kept:
        pass
    else:
        return 0

    refused = 0
    for row in rows:
        try:
            add([row])
        except never_kept:
            refused += 1

    return refused
