"""``sidecard calls``: the real command on real logs, while they are written."""

import json
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sidecard.observe.call_log.postgres import PostgresCallWriter
from sidecard.observe.call_log.rows import Row
from sidecard.observe.call_log.sqlite import SqliteCallWriter
from tests import call_rows
from tests.postgres_server import PostgresServer

HOUR_SECONDS = 3600.0
GIBI = 1024**3

wall_clock = time.time  # noqa: TID251 - the command's own: what it looks at outlives runs


def row(age_hours: float = 0.0, prompt: Any = None, answer: Any = None, **fields: Any) -> Row:
    """Return a row that is some hours old."""
    texts = [None if said is None else json.dumps(said) for said in (prompt, answer)]
    return call_rows.row(wall_clock() - age_hours * HOUR_SECONDS - 1.0, *texts, **fields)


def talk(question: str, answer: str, **fields: Any) -> Row:
    """Return a row with what was said."""
    return row(prompt={"args": [question], "kwargs": {}}, answer=answer, **fields)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Make a state directory."""
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def calls(state: Path) -> Run:
    """Run the command with that state directory, as somebody without settings of their own."""

    def run(*arguments: object, **environ: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command(*arguments), env=clean(state) | environ, capture_output=True, text=True, check=False
        )

    return run


def command(*arguments: object) -> list[str]:
    """Return the command's words."""
    return [sys.executable, "-m", "sidecard", "calls", *map(str, arguments)]


def clean(state: Path) -> dict[str, str]:
    """Return an environment without anybody's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIDECARD_", "PG"))}
    kept.pop("DATABASE_URL", None)
    return kept | {"STATE_DIRECTORY": str(state), "TZ": "UTC"}


def write(state: Path, rows: Sequence[Row]) -> None:
    """Fill the log as a daemon does."""
    writer = SqliteCallWriter(state / "calls.sqlite", max_bytes=GIBI, retention_days=30.0, wall_clock=wall_clock)
    writer.write(rows)
    writer.close()


def lines_of(done: "subprocess.CompletedProcess[str]") -> list[Any]:
    """Return what a command that went well has written, as JSON."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# Which log -----------------------------------------------------------------------------------------------------------


def test_where_there_is_no_log_that_is_told(state: Path, calls: Run) -> None:
    """And none is made."""
    for action in (["list"], ["show", "00"], ["export"]):
        done = calls(*action)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"sidecard: there is no call log at {state}/calls.sqlite (No such file or directory);"
            " calls are logged where calls.enabled is true\n"
        )

    assert list(state.iterdir()) == []


def test_the_settings_say_where_the_log_is(state: Path, calls: Run) -> None:
    """The file, the environment, a flag."""
    write(state, [row(), row()])
    (state / "calls.sqlite").rename(state / "other.sqlite")
    url = f"sqlite:{state}/other.sqlite"
    file = state / "sidecard.toml"
    file.write_text(f'[calls]\nurl = "{url}"\n')
    assert len(lines_of(calls("list", "--json", "--config", file))) == 2
    assert len(lines_of(calls("list", "--json", SIDECARD_CALLS_URL=url))) == 2
    assert len(lines_of(calls("list", "--json", DATABASE_URL=url))) == 2
    assert len(lines_of(calls("list", "--json", "--set", f"calls.url={url}"))) == 2


@pytest.mark.parametrize(
    ("flags", "code", "sentence"),
    [
        (["list", "--since", "yesterday"], 2, "neither a span such as 90s"),
        (["list", "--limit", "0"], 2, "write 1 or more"),
        (["show", "xyz"], 2, "not the id of a call"),
        (["show"], 2, "ID"),
        (["export", "--format", "csv"], 2, "invalid choice"),
        (["list", "--set", "calls.url=sqlite:relative.db"], 78, "absolute path"),
        (["list", "--set", "calls.uri=x"], 78, "calls.url"),
        (["list", "--set", "calls.url=postgresql://u:hunter2@127.0.0.1:1/x"], 69, "Connection refused"),
        (["list", "--set", "calls.url=postgresql://u:hunter2@part@127.0.0.1:1/x"], 78, "percent|%40"),
        (["show", "ffff"], 1, "no call's id begins with ffff"),
        (["list", "--task", "none"], 1, "no such calls"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence(
    state: Path, calls: Run, flags: list[str], code: int, sentence: str
) -> None:
    """With the exit code of its kind, and without a password."""
    write(state, [row()])
    done = calls(*flags)
    assert done.returncode == code, done.stderr
    assert any(words in done.stderr for words in sentence.split("|")), done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


# list and show -------------------------------------------------------------------------------------------------------


def test_a_list_is_for_people(state: Path, calls: Run) -> None:
    """A line for each call, the newest first."""
    rows = [
        row(
            2, backend="cloud", model="m-1", prompt_tokens=1200, completion_tokens=30, billed_dollars=0.25, seconds=1.5
        ),
        row(1, source="failed", reason="transient", error="openai.APIError"),
        row(0, source="rejected", reason="breaker_open", task="a\x1b[31mb"),
    ]
    write(state, rows)
    done = calls("list")
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["call", "at", "source", "task", "backend", "model", "tokens", "billed", "took"]
    assert [line.split()[0] for line in lines] == [each.id[:16] for each in reversed(rows)]
    assert "\x1b" not in done.stdout
    assert lines[1].endswith("transient openai.APIError")
    for word in ("upstream", "rag", "cloud", "m-1", "1,200+30", "$0.25", "1.5 s"):
        assert word in lines[2]


def test_a_list_is_for_programs(state: Path, calls: Run) -> None:
    """Every field, and nothing that was said."""
    one = talk("secret question", "secret answer", key="k1-a")
    write(state, [one])
    (told,) = lines_of(calls("list", "--json"))
    assert told.pop("at") == datetime.fromtimestamp(one.at_seconds, UTC).isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )
    assert told == {name: getattr(one, name) for name in one.__struct_fields__ if name not in {"prompt", "answer"}}


@pytest.mark.slow
def test_filters_say_which_calls_are_meant(state: Path, calls: Run) -> None:
    """By name, by kind, by time; several of a kind are alternatives."""
    write(
        state,
        [
            row(50, pid=1, task="rag", model="a", backend="x"),
            row(30, pid=2, task="sum", model="a", backend="y", source="cache"),
            row(3, pid=3, task="rag", model="b", backend="x", source="shared"),
            row(1, pid=4, task="chat", model="b", backend="y"),
        ],
    )

    def pids(*flags: str) -> list[int]:
        return [told["pid"] for told in lines_of(calls("list", "--json", *flags))]

    assert pids() == [4, 3, 2, 1]
    assert pids("--limit", "2") == [4, 3]
    assert pids("--task", "rag") == [3, 1]
    assert pids("--task", "rag", "--task", "chat") == [4, 3, 1]
    assert pids("--model", "a", "--source", "cache") == [2]
    assert pids("--backend", "x") == [3, 1]
    assert pids("--since", "2h") == [4]
    assert pids("--until", "2h", "--since", "2d") == [3, 2]
    instant = datetime.fromtimestamp(wall_clock() - 20 * HOUR_SECONDS, UTC)
    assert pids("--since", instant.isoformat()) == [4, 3]
    assert pids("--until", instant.replace(tzinfo=None).isoformat(timespec="seconds")) == [2, 1]


def test_one_call_is_shown_by_the_beginning_of_its_id(state: Path, calls: Run) -> None:
    """With what was said, for people and for programs."""
    rows = [talk("Why?", "Because."), talk("\x1b]0;evil\x07", "No.")]
    write(state, rows)
    done = calls("show", rows[0].id[:16])
    assert done.returncode == 0
    assert '"Why?"' in done.stdout
    assert '"Because."' in done.stdout
    assert "upstream" in done.stdout
    (told,) = lines_of(calls("show", rows[0].id.upper(), "--json"))
    assert (told["prompt"], told["answer"]) == ({"args": ["Why?"], "kwargs": {}}, "Because.")
    assert "\x1b" not in calls("show", rows[1].id).stdout
    done = calls("show", rows[0].id[:4])
    assert done.returncode == 1
    assert "more than one call's id begins with" in done.stderr


# export --------------------------------------------------------------------------------------------------------------


def test_an_export_has_all_that_is_kept(state: Path, calls: Run, tmp_path: Path) -> None:
    """The oldest first; into a file of one's own."""
    rows = [talk("é", "a"), row(source="cache")]
    write(state, rows)
    told = lines_of(calls("export"))
    assert [line["id"] for line in told] == [each.id for each in rows]
    assert told[0]["prompt"] == {"args": ["é"], "kwargs": {}}
    assert told[1]["prompt"] is None
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    done = calls("export", "--output", target, "--limit", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "exported 1\n")
    assert json.loads(target.read_text())["id"] == rows[0].id
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("out")] == ["out.jsonl"]


def test_an_export_that_fails_leaves_what_was_there(state: Path, calls: Run, tmp_path: Path) -> None:
    """Nothing half written."""
    write(state, [row()])
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    (state / "calls.sqlite").write_bytes(b"no database" * 1000)
    assert calls("export", "--output", target).returncode == 1
    assert target.read_text() == "old"
    done = calls("export", "--output", tmp_path / "absent/out.jsonl", "--set", f"calls.url=sqlite:{state}/calls.sqlite")
    assert done.returncode == 1


def test_conversations_for_fine_tuning(state: Path, calls: Run) -> None:
    """Calls that were made, the newest of each key; what is none is counted."""
    write(
        state,
        [
            talk("one", "older", key="k1"),
            talk("two", "2", key="k2", task="other"),
            talk("three", "3"),
            talk("three", "3"),
            talk("one", "newer", key="k1"),
            talk("one", "cached", key="k1", source="cache"),
            row(key="k3"),
            row(key="k4"),
            row(key="k5", prompt={"args": [1]}, answer="x"),
        ],
    )
    done = calls("export", "--format", "openai-chat")
    told = lines_of(done)
    assert [[message["role"] for message in line["messages"]] for line in told] == [["user", "assistant"]] * 4
    assert [[message["content"] for message in line["messages"]] for line in told] == [
        ["one", "newer"],
        ["three", "3"],
        ["three", "3"],
        ["two", "2"],
    ]
    assert done.stderr == (
        "exported 4, left out 4: no prompt kept (2), no conversation in the prompt (1), an older call of the same key (1)\n"
    )
    done = calls("export", "--format", "openai-chat", "--task", "other", "--limit", "1")
    assert (len(lines_of(done)), done.stderr) == (1, "exported 1\n")


def test_a_reader_that_has_had_enough_is_no_error(state: Path) -> None:
    """As in `sidecard calls export | head -1`."""
    write(state, [talk("x" * 1000, "y") for _ in range(2000)])
    process = subprocess.Popen(command("export"), env=clean(state), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith(b"{")
    process.stdout.close()
    assert process.wait(timeout=20) == 0
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.slow
def test_a_log_can_be_read_while_it_is_written(state: Path, calls: Run) -> None:
    """And an export ends, though rows go on coming."""
    write(state, [row()])
    ended = threading.Event()
    faults: list[Exception] = []

    def keep_writing() -> None:
        try:
            while not ended.is_set():
                write(state, [talk("x" * 200, "y") for _ in range(50)])
        except Exception as error:  # noqa: BLE001 - handed to the test's own thread
            faults.append(error)

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        for _ in range(3):
            assert lines_of(calls("export"))
            assert lines_of(calls("list", "--json"))
    finally:
        ended.set()
        writer.join()

    assert faults == []


@pytest.mark.slow
def test_an_export_needs_little_memory(state: Path, tmp_path: Path) -> None:
    """However large the log is: 300 MB of it within 200 MB of address space more than an empty one needs."""
    text = "x" * 100_000
    for _ in range(30):
        write(state, [talk(text, "y") for _ in range(100)])

    limited = ["bash", "-c", 'ulimit -v 400000; exec "$@"', "-", *command("export", "--output", tmp_path / "out")]
    done = subprocess.run(limited, env=clean(state), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "exported 3,000\n")


# PostgreSQL ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Run one server."""
    server = PostgresServer()
    yield server
    server.close()


def test_a_log_in_postgresql_is_looked_at_in_the_same_way(server: PostgresServer, calls: Run) -> None:
    """By its URL, which is never told."""
    done = calls("list", DATABASE_URL=server.url)
    assert done.returncode == 1
    assert "there is no call log at postgresql://***@127.0.0.1" in done.stderr
    rows = [talk("Why?", "Because.", key="k1"), row(source="cache")]
    writer = PostgresCallWriter(
        server.url, place="p", max_bytes=GIBI, retention_days=30.0, wall_clock=wall_clock, clock=time.monotonic
    )
    writer.write(rows)
    writer.close()
    assert [told["id"] for told in lines_of(calls("list", "--json", DATABASE_URL=server.url))] == [
        rows[1].id,
        rows[0].id,
    ]
    assert "Because." in calls("show", rows[0].id[:16], DATABASE_URL=server.url).stdout
    (told,) = lines_of(calls("export", "--format", "openai-chat", DATABASE_URL=server.url))
    assert told["messages"][1] == {"role": "assistant", "content": "Because."}
    server.stop()
    done = calls("list", DATABASE_URL=server.url)
    assert done.returncode == 69
    assert "hunter2" not in done.stderr
