"""Rows of the call log: ids, columns, queries."""

import itertools
import sqlite3
from typing import Any

import pytest
from msgspec import structs

from sidecard.observe.call_log.rows import (
    COLUMNS,
    ROW_BYTES,
    CallRow,
    Filter,
    Ids,
    add_all,
    first_id,
    page_query,
    read,
    row_of,
)
from tests.call_rows import AT, record

# Ids -----------------------------------------------------------------------------------------------------------------


def test_ids_sort_by_time() -> None:
    """Within a millisecond they sort by the order of creation."""
    ids = Ids()
    given = [ids.next(AT + step / 3000) for step in range(3000)]
    assert given == sorted(given)
    assert len({len(row_id) for row_id in given}) == 1


def test_the_first_digits_of_an_id_are_unique_in_a_daemon() -> None:
    """A list shows only these."""
    ids = Ids(lambda count: b"\0" * count)
    assert len({ids.next(AT)[:16] for _ in range(1000)}) == 1000


def test_ids_of_two_daemons_differ() -> None:
    """Also for rows of the same millisecond."""
    assert Ids().next(AT) != Ids().next(AT)


@pytest.mark.parametrize("at", [-1.0, 0.0, 1e300, float("nan"), float("inf")])
def test_an_absurd_clock_gives_a_valid_id(at: float) -> None:
    """Of the usual form."""
    assert len(Ids().next(at)) == 32


def test_first_id_separates_earlier_ids_from_later_ones() -> None:
    """Ids from that instant on are not below it."""
    ids = Ids()
    before, then = ids.next(AT - 0.001), ids.next(AT)
    assert before < first_id(AT) <= then


# Rows ----------------------------------------------------------------------------------------------------------------


def test_a_row_has_the_fields_of_its_record() -> None:
    """Field by field."""
    call = record(key="k1-a", backend="cloud", model="m", prompt_tokens=3, completion_tokens=4, billed_dollars=0.5)
    row = row_of("i", AT, "host", call, '"p"', '"a"')
    fields = structs.asdict(call)
    apart = {"prompt", "answer", "ago_seconds"}  # the last one is part of the row's time
    assert {name: getattr(row, name) for name in fields if name not in apart} == {
        name: value for name, value in fields.items() if name not in apart
    }
    assert (row.id, row.at_seconds, row.host, row.prompt, row.answer) == ("i", AT, "host", '"p"', '"a"')


def test_a_row_counts_the_bytes_of_its_texts() -> None:
    """In bytes, not in characters."""
    plain = row_of("i", AT, "", record())
    said = row_of("i", AT, "", record(), '"é"', None)
    assert plain.bytes > ROW_BYTES
    assert said.bytes - plain.bytes == 4


def test_characters_that_postgresql_cannot_store_are_replaced() -> None:
    """Any peer may choose names."""
    row = row_of("i", AT, "", record(task="a\0b", model="\ud800", key="k\0", seconds=float("nan")))
    assert (row.task, row.model, row.key, row.seconds) == ("a\ufffdb", "?", "k\ufffd", 0.0)


def test_a_row_that_can_never_be_stored_fails_alone() -> None:
    """Other rows of its batch are stored."""
    rows = [row_of(str(number), AT, "", record(pid=number)) for number in range(5)]
    kept: list[CallRow] = []

    def add(some: Any) -> None:
        if any(row.pid == 3 for row in some):
            raise ValueError

        kept.extend(some)

    assert add_all(rows, add, (ValueError,)) == 1
    assert [row.pid for row in kept] == [0, 1, 2, 4]


# Questions -----------------------------------------------------------------------------------------------------------


class Table:
    """Rows in a database in memory, asked as `page_query` says; counts the pages."""

    def __init__(self, rows: list[CallRow]) -> None:
        self.pages = 0
        self._connection = sqlite3.connect(":memory:")
        self._connection.execute(f"CREATE TABLE t ({', '.join(COLUMNS)})")
        marks = ", ".join("?" * len(COLUMNS))
        self._connection.executemany(
            f"INSERT INTO t VALUES ({marks})",  # noqa: S608 - marks
            [structs.astuple(row) for row in rows],
        )

    def page(self, wanted: Filter, *, after: str, newest_first: bool, limit: int, texts: bool) -> list[CallRow]:
        """See `CallReader`."""
        self.pages += 1
        sql, values = page_query("t", "?", wanted, after=after, newest_first=newest_first, limit=limit, texts=texts)
        return [CallRow(*values) for values in self._connection.execute(sql, values)]

    def close(self) -> None:
        """See `CallReader`."""
        self._connection.close()


def rows_of(count: int) -> list[CallRow]:
    """Return rows a second apart, of three tasks."""
    ids = Ids()
    return [
        row_of(ids.next(AT + number), AT + number, "", record(task=f"t{number % 3}", pid=number), '"p"', '"a"')
        for number in range(count)
    ]


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("limit", [None, 1, 64, 65, 999, 5000])
@pytest.mark.parametrize("texts", [False, True])
def test_pages_return_each_row_once(newest_first: bool, limit: int | None, texts: bool) -> None:
    """In order, and no more than the limit."""
    table = Table(rows_of(1200))
    pids = [row.pid for row in read(table, Filter(), newest_first=newest_first, limit=limit, texts=texts)]
    expected = list(range(1200))[:: -1 if newest_first else 1]
    assert pids == expected[:limit]
    table.close()


def test_a_page_is_read_only_when_needed() -> None:
    """Iterating a few rows reads one page."""
    table = Table(rows_of(1200))
    taken = list(itertools.islice(read(table, Filter(), newest_first=True), 10))
    assert (len(taken), table.pages) == (10, 1)
    table.close()


def test_filters_combine() -> None:
    """Names of one kind are alternatives, kinds must all match, and the end of a span is exclusive."""
    rows = rows_of(30)
    table = Table(rows)

    def pids(wanted: Filter) -> list[int]:
        return [row.pid for row in read(table, wanted, newest_first=False)]

    assert pids(Filter(tasks=("t1",))) == list(range(1, 30, 3))
    assert pids(Filter(tasks=("t1", "t2"), since_seconds=AT + 10, until_seconds=AT + 13)) == [10, 11]
    assert pids(Filter(models=("x",))) == []
    assert pids(Filter(id_prefix=rows[7].id[:16])) == [7]
    assert pids(Filter(id_prefix=rows[7].id)) == [7]
    table.close()


def test_without_texts_none_are_read() -> None:
    """A list needs none, and they are most of the log."""
    table = Table(rows_of(1))
    (row,) = read(table, Filter(), newest_first=True, texts=False)
    assert (row.prompt, row.answer) == (None, None)
    table.close()
