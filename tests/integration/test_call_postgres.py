"""The call log in a real PostgreSQL: writes, reads, outages."""

import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest
from msgspec import structs

from sidecard.errors import ConfigError
from sidecard.observe.call_log.postgres import PostgresCallReader, PostgresCallWriter
from sidecard.observe.call_log.rows import DAY_SECONDS, CallLogError, CallRow, Filter, NoCallLogError, read
from tests.call_rows import AT, row
from tests.postgres_server import PASSWORD, PostgresServer

PLACE = "postgresql://***@127.0.0.1/postgres"
GIBI = 1024**3


def said(at: float = AT, text: str | None = None) -> CallRow:
    """Return a row; with ``text`` for its prompt and its answer."""
    return row(at, text, text)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Run one server for all tests."""
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def no_table(server: PostgresServer) -> None:
    """Let each test begin without a log."""
    server.run("DROP TABLE IF EXISTS sidecard_calls")


Open = Callable[..., PostgresCallWriter]


@pytest.fixture
def opened(server: PostgresServer) -> Iterator[Open]:
    """Open the log for writing; it is closed with the test."""
    writers = []

    def open_it(
        url: str = "", max_bytes: int = GIBI, days: float = 30.0, clock: Callable[[], float] = lambda: 0.0
    ) -> PostgresCallWriter:
        writer = PostgresCallWriter(
            url or server.url,
            place=PLACE,
            max_bytes=max_bytes,
            retention_days=days,
            wall_clock=lambda: AT,
            clock=clock,
        )
        writers.append(writer)
        return writer

    yield open_it
    for writer in writers:
        writer.close()


def rows_in(server: PostgresServer, wanted: Filter | None = None, *, newest_first: bool = False) -> list[CallRow]:
    """Read the log as the command does."""
    reader = PostgresCallReader(server.url, place=PLACE)
    try:
        return list(read(reader, wanted or Filter(), newest_first=newest_first))
    finally:
        reader.close()


def test_written_rows_are_read_back(server: PostgresServer, opened: Open) -> None:
    """Field by field, and as SQLite returns them; in pages, by filters, in both directions."""
    rows = [
        row(AT + number, '{"args":["é\\u0000"]}', key=f"k{number}", task=f"t{number % 2}", model="a\0b")
        for number in range(200)
    ]
    assert opened().write(rows) == 0
    assert rows_in(server) == rows
    assert rows_in(server, newest_first=True) == rows[::-1]
    assert rows_in(server, Filter(tasks=("t1",), since_seconds=AT + 10, until_seconds=AT + 14)) == [rows[11], rows[13]]
    assert rows_in(server, Filter(id_prefix=rows[5].id[:16])) == [rows[5]]


def test_a_repeated_batch_is_stored_once(server: PostgresServer, opened: Open) -> None:
    """A batch whose result was lost is written again."""
    rows = [row(), row(), row()]
    writer = opened()
    writer.write(rows[:2])
    assert writer.write(rows) == 0
    assert rows_in(server) == rows


def test_a_row_that_can_never_be_stored_fails_alone(server: PostgresServer, opened: Open) -> None:
    """A number that is too large, an invalid text; the rows beside them stay."""
    rows = [row(), structs.replace(row(), pid=2**70), row(), structs.replace(row(), prompt="\0"), row()]
    assert opened().write(rows) == 2
    assert rows_in(server) == [rows[0], rows[2], rows[4]]


def test_hosts_that_start_together_create_one_table(server: PostgresServer, opened: Open) -> None:
    """None of them fails."""
    writers = [opened() for _ in range(8)]
    faults: list[Exception] = []

    def write(writer: PostgresCallWriter) -> None:
        try:
            writer.write([row()])
        except CallLogError as error:
            faults.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in writers]
    for thread in threads:
        thread.start()

    for thread in threads:
        thread.join()

    assert faults == []
    assert len(rows_in(server)) == 8


def test_a_table_of_another_program_is_left_alone(server: PostgresServer, opened: Open) -> None:
    """Nothing is written to it."""
    server.run("CREATE TABLE sidecard_calls (id text)")
    with pytest.raises(CallLogError, match="is not this version's call log"):
        opened().write([row()])

    with pytest.raises(NoCallLogError, match="no call log"):
        rows_in(server)

    assert server.run("SELECT count(*) FROM sidecard_calls") == [(0,)]


def test_a_user_without_the_right_to_create_can_keep_the_log(server: PostgresServer, opened: Open) -> None:
    """Once the table exists."""
    opened().write([row()])
    server.run("DROP ROLE IF EXISTS logger")
    server.run("CREATE ROLE logger LOGIN PASSWORD 'l'")
    server.run("GRANT SELECT, INSERT, UPDATE, DELETE ON sidecard_calls TO logger")
    writer = opened(f"postgresql://logger:l@127.0.0.1:{server.port}/postgres")
    assert writer.write([row()]) == 0
    assert writer.prune() is False
    assert len(rows_in(server)) == 2
    server.run("DROP OWNED BY logger")


def test_old_rows_are_removed_in_small_steps(server: PostgresServer, opened: Open) -> None:
    """Rows of any host."""
    writer = opened()
    writer.write([row(AT - 31 * DAY_SECONDS + number) for number in range(2500)])
    young = [row(AT - 29 * DAY_SECONDS), row(AT)]
    writer.write(young)
    steps = 1
    while writer.prune():
        steps += 1

    assert steps == 3
    assert rows_in(server) == young


def test_beyond_the_limit_the_oldest_rows_are_removed(server: PostgresServer, opened: Open) -> None:
    """The size is measured now and then."""
    now = [0.0]
    rows = [said(AT + number, "x" * 10_000) for number in range(100)]
    writer = opened(max_bytes=20 * rows[0].bytes, clock=lambda: now[0])
    assert writer.prune() is False
    writer.write(rows)
    writer.prune()
    assert len(rows_in(server)) == 100
    now[0] = 601.0
    assert writer.prune() is False
    assert rows_in(server) == rows[80:]


# Away ----------------------------------------------------------------------------------------------------------------


def test_a_server_that_returns_is_used_again(server: PostgresServer, opened: Open) -> None:
    """Each failed try has a sentence with the reason."""
    writer = opened()
    first, late = row(), row()
    writer.write([first])
    server.stop()
    for _ in range(2):
        with pytest.raises(CallLogError, match=r"^postgresql://\*\*\*@127\.0\.0\.1/postgres cannot be written \("):
            writer.write([late])

    with pytest.raises(CallLogError, match="cannot be read now"):
        rows_in(server)

    server.start()
    writer.write([late])
    assert rows_in(server) == [first, late]


def test_a_terminated_connection_is_replaced(server: PostgresServer, opened: Open) -> None:
    """A pooler or an operator may terminate it."""
    writer = opened()
    writer.write([row()])
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sidecard'")
    with pytest.raises(CallLogError):
        writer.write([row()])

    writer.write([row()])
    assert len(rows_in(server)) == 2


def test_a_locked_table_is_retried(server: PostgresServer, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """No statement waits forever."""
    monkeypatch.setattr("sidecard.observe.call_log.postgres.STATEMENT_SECONDS", 1)
    writer = opened()
    writer.write([row()])
    with server.connect() as other, other.transaction():
        other.execute("LOCK TABLE sidecard_calls")
        with pytest.raises(CallLogError, match="timeout"):
            writer.write([row()])

    writer.write([row()])
    assert len(rows_in(server)) == 2


def test_a_missing_table_is_a_missing_log(server: PostgresServer) -> None:
    """That differs from an unavailable server."""
    with pytest.raises(NoCallLogError, match="no call log"):
        rows_in(server)


# Passwords -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://app:hunter2@part@127.0.0.1/postgres",
        "postgresql://app:hunter2/part@127.0.0.1/postgres",
        "postgresql://app:%zzhunter2@127.0.0.1/postgres",
        "postgresql://app:x@127.0.0.1:hunter2/postgres",
        "postgresql://[hunter2",
    ],
)
def test_an_invalid_url_is_not_quoted(url: str) -> None:
    """Its password may be the invalid part."""
    with pytest.raises(ConfigError, match=r"^calls\.url cannot be read: write postgresql://") as raised:
        PostgresCallReader(url, place=PLACE)

    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_wrong_password_is_not_quoted(server: PostgresServer, opened: Open) -> None:
    """Nor is the right one."""
    writer = opened(server.url.replace("hunter2", "hunter3"))
    with pytest.raises(CallLogError, match="password authentication failed") as raised:
        writer.write([row()])

    assert "hunter" not in str(raised.value)


def test_settings_in_the_url_win(server: PostgresServer, opened: Open) -> None:
    """Over the defaults."""
    opened(f"{server.url}?application_name=mine").write([row()])
    assert server.run("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mine'") == [(1,)]


def test_the_password_of_these_tests_needs_escaping(server: PostgresServer) -> None:
    """It has characters that must be escaped in a URL."""
    assert psycopg.conninfo.conninfo_to_dict(server.url)["password"] == PASSWORD
