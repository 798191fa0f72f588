"""The rows of the call log: their shape, which SQLite and PostgreSQL share, their ids, and how they are asked for."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

from msgspec import Struct

from sidecard.core.effects import CallRecord
from sidecard.errors import SidecardError

ROW_BYTES: Final = 400
"""What a row costs beside its texts: its numbers, and its place in an index."""

PAGE_ROWS: Final = 500
PAGE_ROWS_WITH_TEXTS: Final = 64
"""Rows that a reader takes at once; with prompts and answers, each of which may have 256 KiB."""

_TIME_DIGITS: Final = 12
_MAX_MILLISECONDS: Final = 2**48 - 1
_COUNTER_MASK: Final = 2**16 - 1


class CallsError(SidecardError):
    """The call log cannot be used for now, as the message says."""


class CallsAbsentError(SidecardError):
    """There is no call log where one was looked for."""


class Row(Struct, frozen=True):
    """One call. The fields are the columns, in this order; what they mean `CallRecord` says."""

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
    """What the row is charged."""
    prompt: str | None
    """JSON; None where it was not to be kept."""
    answer: str | None
    """As ``prompt``."""


COLUMNS: Final = Row.__struct_fields__


def row_of(
    row_id: str, at_seconds: float, host: str, record: CallRecord, prompt: str | None = None, answer: str | None = None
) -> Row:
    """Return what is kept of a call; ``prompt`` and ``answer`` are JSON."""
    host, source, task, namespace, backend, model, reason, error, trace = texts = [
        _storable(text)
        for text in (
            host,
            record.source,
            record.task,
            record.namespace,
            record.backend,
            record.model,
            record.reason,
            record.error,
            record.trace,
        )
    ]
    key = None if record.key is None else _storable(record.key)
    said = sum(len(text.encode()) for text in (*texts, key, prompt, answer) if text is not None)
    return Row(
        row_id,
        _finite(at_seconds),
        host,
        source,
        task,
        namespace,
        record.uid,
        record.pid,
        key,
        backend,
        model,
        record.prompt_tokens,
        record.completion_tokens,
        _finite(record.billed_dollars),
        _finite(record.saved_dollars),
        _finite(record.seconds),
        _finite(record.age_seconds),
        reason,
        error,
        trace,
        ROW_BYTES + said,
        prompt,
        answer,
    )


def _storable(text: str) -> str:
    """Return ``text`` without what PostgreSQL's texts cannot hold: names come from whoever may connect."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _finite(number: float) -> float:
    return number if math.isfinite(number) else 0.0


class Ids:
    """Names rows so that their order is that of time: 12 hexadecimal digits are milliseconds, 4 count, 16 are random.

    A row keeps its id however often it is written: what a database has taken already, it does not take twice.
    The first 16 digits tell the rows of one daemon apart.
    """

    def __init__(self, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._random_bytes = random_bytes
        self._milliseconds = -1
        self._count = 0

    def next(self, at_seconds: float) -> str:
        """Return an id of that instant, in seconds since 1970."""
        milliseconds = _milliseconds(at_seconds)
        self._count = self._count + 1 if milliseconds == self._milliseconds else 0
        self._milliseconds = milliseconds
        return f"{milliseconds:012x}{self._count & _COUNTER_MASK:04x}{self._random_bytes(8).hex()}"


def first_id(at_seconds: float) -> str:
    """Return what is not above any id of that instant or later, and above those before it."""
    return f"{_milliseconds(at_seconds):0{_TIME_DIGITS}x}"


def _milliseconds(at_seconds: float) -> int:
    return min(max(0, round(_finite(at_seconds) * 1000)), _MAX_MILLISECONDS)


class Filter(Struct, frozen=True):
    """Which rows are wanted; what is empty or None does not matter. ``since_seconds`` is included, ``until_seconds`` is not."""

    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    since_seconds: float | None = None
    until_seconds: float | None = None
    id_prefix: str = ""


class CallWriter(Protocol):
    """Where rows go. All methods wait for the database, and none is called while another is."""

    @property
    def place(self) -> str:
        """Its name, as a log may say it: without a password."""

    def write(self, rows: Sequence[Row]) -> int:
        """Keep rows, those that are there already excepted; return how many of them can never be kept.

        Raises `CallsError` where it must be tried again.
        """

    def tidy(self) -> bool:
        """Remove some of what is too old or too much; tell whether there is more. Raises `CallsError`."""

    def remark(self) -> str:
        """Return a sentence that the operator should read, once; empty where there is none."""

    def close(self) -> None:
        """Disconnect; what is called later connects again."""


class CallReader(Protocol):
    """Where rows come from, while daemons write there."""

    def page(self, wanted: Filter, *, after: str, newest_first: bool, limit: int, texts: bool) -> list[Row]:
        """Return at most ``limit`` rows that follow the id ``after``, in their order; without ``texts``, those are None.

        Raises `CallsError`, `CallsAbsentError`.
        """

    def close(self) -> None:
        """Disconnect."""


def read(
    reader: CallReader, wanted: Filter, *, newest_first: bool, limit: int | None = None, texts: bool = True
) -> Iterator[Row]:
    """Yield rows, a page of them in memory at a time. Each page is read by itself, so that no writer waits for long.

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
    """Return the SQL of a page, and its values. ``mark`` stands for a value: ``?`` or ``%s``."""
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

    # Not by ``at_seconds``: the ids are in the same order, and have an index.
    bounds = {">=": wanted.since_seconds, "<": wanted.until_seconds}
    for comparison, instant in bounds.items():
        if instant is not None:
            conditions.append(f"id {comparison} {mark}")
            values.append(first_id(instant))

    if wanted.id_prefix:
        conditions += [f"id >= {mark}", f"id < {mark}"]
        values += [wanted.id_prefix, f"{wanted.id_prefix}g"]  # the letter after the last digit

    return conditions, values


def insertion(table: str, mark: str) -> str:
    """Return the SQL that adds a row whose values are the fields of a `Row`; one that is there already stays."""
    marks = ", ".join([mark] * len(COLUMNS))
    return f"INSERT INTO {table} ({', '.join(COLUMNS)}) VALUES ({marks}) ON CONFLICT (id) DO NOTHING"  # noqa: S608 - constants


def add_all(rows: Sequence[Row], add: Callable[[Sequence[Row]], None], never_kept: tuple[type[Exception], ...]) -> int:
    """Add rows at once; where one of them cannot be kept, each by itself. Return how many cannot; ``never_kept`` says so."""
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
