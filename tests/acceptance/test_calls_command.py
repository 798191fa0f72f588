"""``sidecard calls`` on real logs, also while they are written."""

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
from sidecard.observe.call_log.rows import CallRow
from sidecard.observe.call_log.sqlite import SqliteCallWriter
from tests import call_rows
from tests.postgres_server import PostgresServer

HOUR_SECONDS = 3600.0
GIBI = 1024**3

wall_clock = time.time  # noqa: TID251 - as the command


def row(age_hours: float = 0.0, prompt: Any = None, answer: Any = None, **fields: Any) -> CallRow:
    """Return a row that is some hours old."""
    texts = [None if said is None else json.dumps(said) for said in (prompt, answer)]
    return call_rows.row(wall_clock() - age_hours * HOUR_SECONDS - 1.0, *texts, **fields)


def talk(question: str, answer: str, **fields: Any) -> CallRow:
    """Return a row with prompt and answer."""
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
    """Run the command with that state directory and without other settings."""

    def run(*arguments: object, **environ: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command(*arguments), env=clean(state) | environ, capture_output=True, text=True, check=False
        )

    return run


def command(*arguments: object) -> list[str]:
    """Return the command line."""
    return [sys.executable, "-m", "sidecard", "calls", *map(str, arguments)]


def clean(state: Path) -> dict[str, str]:
    """Return an environment without settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIDECARD_", "PG"))}
    kept.pop("DATABASE_URL", None)
    return kept | {"STATE_DIRECTORY": str(state), "TZ": "UTC"}


def write(state: Path, rows: Sequence[CallRow]) -> None:
    """Fill the log as a daemon does."""
    writer = SqliteCallWriter(state / "calls.sqlite", max_bytes=GIBI, retention_days=30.0, wall_clock=wall_clock)
    writer.write(rows)
    writer.close()


def lines_of(done: "subprocess.CompletedProcess[str]") -> list[Any]:
    """Return the JSON lines of a successful command."""
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


# Which log -----------------------------------------------------------------------------------------------------------


def test_a_missing_log_is_reported(state: Path, calls: Run) -> None:
    """No log is created."""
    for action in (["list"], ["show", "00"], ["export"]):
        done = calls(*action)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"sidecard: there is no call log at {state}/calls.sqlite (No such file or directory);"
            " calls are logged if calls.enabled is true\n"
        )

    assert list(state.iterdir()) == []


def test_the_settings_locate_the_log(state: Path, calls: Run) -> None:
    """The URL comes from the file, the environment, or a flag."""
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
        (["show", "ffff"], 1, "no call has an id that begins with ffff"),
        (["list", "--task", "none"], 1, "no such calls"),
    ],
)
def test_errors_have_an_exit_code_and_a_sentence(
    state: Path, calls: Run, flags: list[str], code: int, sentence: str
) -> None:
    """The sentence contains no password."""
    write(state, [row()])
    done = calls(*flags)
    assert done.returncode == code, done.stderr
    assert any(words in done.stderr for words in sentence.split("|")), done.stderr
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stderr


# list and show -------------------------------------------------------------------------------------------------------


def test_list_shows_a_table(state: Path, calls: Run) -> None:
    """Each call is one row, newest first."""
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


def test_list_json_has_all_fields_but_texts(state: Path, calls: Run) -> None:
    """Prompts and answers are not listed."""
    one = talk("secret question", "secret answer", key="k1-a")
    write(state, [one])
    (output,) = lines_of(calls("list", "--json"))
    assert output.pop("at") == datetime.fromtimestamp(one.at_seconds, UTC).isoformat(timespec="milliseconds").replace(
        "+00:00", "Z"
    )
    assert output == {name: getattr(one, name) for name in one.__struct_fields__ if name not in {"prompt", "answer"}}


@pytest.mark.slow
def test_filters_select_calls(state: Path, calls: Run) -> None:
    """Calls are selected by name, outcome and time; repeated options are alternatives."""
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
        return [output["pid"] for output in lines_of(calls("list", "--json", *flags))]

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


def test_show_finds_a_call_by_the_beginning_of_its_id(state: Path, calls: Run) -> None:
    """Text and JSON contain prompt and answer."""
    rows = [talk("Why?", "Because."), talk("\x1b]0;evil\x07", "No.")]
    write(state, rows)
    done = calls("show", rows[0].id[:16])
    assert done.returncode == 0
    assert '"Why?"' in done.stdout
    assert '"Because."' in done.stdout
    assert "upstream" in done.stdout
    (output,) = lines_of(calls("show", rows[0].id.upper(), "--json"))
    assert (output["prompt"], output["answer"]) == ({"args": ["Why?"], "kwargs": {}}, "Because.")
    assert "\x1b" not in calls("show", rows[1].id).stdout
    done = calls("show", rows[0].id[:4])
    assert done.returncode == 1
    assert "several calls have an id that begins with" in done.stderr


# export --------------------------------------------------------------------------------------------------------------


def test_export_writes_all_fields(state: Path, calls: Run, tmp_path: Path) -> None:
    """Calls are exported oldest first, into a file that only its owner can read."""
    rows = [talk("é", "a"), row(source="cache")]
    write(state, rows)
    output = lines_of(calls("export"))
    assert [line["id"] for line in output] == [each.id for each in rows]
    assert output[0]["prompt"] == {"args": ["é"], "kwargs": {}}
    assert output[1]["prompt"] is None
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    done = calls("export", "--output", target, "--limit", "1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "1 call exported\n")
    assert json.loads(target.read_text())["id"] == rows[0].id
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("out")] == ["out.jsonl"]


def test_a_failed_export_keeps_the_existing_file(state: Path, calls: Run, tmp_path: Path) -> None:
    """No partial file remains."""
    write(state, [row()])
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    (state / "calls.sqlite").write_bytes(b"no database" * 1000)
    assert calls("export", "--output", target).returncode == 1
    assert target.read_text() == "old"
    done = calls("export", "--output", tmp_path / "absent/out.jsonl", "--set", f"calls.url=sqlite:{state}/calls.sqlite")
    assert done.returncode == 1


def test_export_of_conversations_takes_the_newest_call_of_each_key(state: Path, calls: Run) -> None:
    """Only calls that were made are exported; omitted calls are counted by reason."""
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
    output = lines_of(done)
    assert [[message["role"] for message in line["messages"]] for line in output] == [["user", "assistant"]] * 4
    assert [[message["content"] for message in line["messages"]] for line in output] == [
        ["one", "newer"],
        ["three", "3"],
        ["three", "3"],
        ["two", "2"],
    ]
    assert done.stderr == (
        "4 calls exported, omitted 4: no prompt kept (2), no conversation in the prompt (1), an older call of the same key (1)\n"
    )
    done = calls("export", "--format", "openai-chat", "--task", "other", "--limit", "1")
    assert (len(lines_of(done)), done.stderr) == (1, "1 call exported\n")


def test_a_closed_pipe_is_not_an_error(state: Path) -> None:
    """`sidecard calls export | head -1` succeeds."""
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
def test_a_log_is_readable_while_it_is_written(state: Path, calls: Run) -> None:
    """An export ends although rows are added."""
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
def test_an_export_uses_little_memory(state: Path, tmp_path: Path) -> None:
    """300 MB of log are exported with 400 MB of address space."""
    text = "x" * 100_000
    for _ in range(30):
        write(state, [talk(text, "y") for _ in range(100)])

    limited = ["bash", "-c", 'ulimit -v 400000; exec "$@"', "-", *command("export", "--output", tmp_path / "out")]
    done = subprocess.run(limited, env=clean(state), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "3,000 calls exported\n")


# PostgreSQL ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Run one server."""
    server = PostgresServer()
    yield server
    server.close()


def test_a_log_in_postgresql_is_queried_like_a_file(server: PostgresServer, calls: Run) -> None:
    """The URL is never shown."""
    done = calls("list", DATABASE_URL=server.url)
    assert done.returncode == 1
    assert "there is no call log at postgresql://***@127.0.0.1" in done.stderr
    rows = [talk("Why?", "Because.", key="k1"), row(source="cache")]
    writer = PostgresCallWriter(
        server.url, place="p", max_bytes=GIBI, retention_days=30.0, wall_clock=wall_clock, clock=time.monotonic
    )
    writer.write(rows)
    writer.close()
    assert [output["id"] for output in lines_of(calls("list", "--json", DATABASE_URL=server.url))] == [
        rows[1].id,
        rows[0].id,
    ]
    assert "Because." in calls("show", rows[0].id[:16], DATABASE_URL=server.url).stdout
    (output,) = lines_of(calls("export", "--format", "openai-chat", DATABASE_URL=server.url))
    assert output["messages"][1] == {"role": "assistant", "content": "Because."}
    server.stop()
    done = calls("list", DATABASE_URL=server.url)
    assert done.returncode == 69
    assert "hunter2" not in done.stderr
