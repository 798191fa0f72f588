"""``sidecard cache`` on real files, without a daemon."""

import base64
import fcntl
import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sidecard.adapters.zstd import Zstd
from sidecard.cli import cache, main
from sidecard.core.effects import StoreWrite
from sidecard.core.records import Record
from sidecard.store.sqlite.format import StoreReader
from sidecard.store.sqlite.rows import Instant
from sidecard.store.sqlite.writer import StoreWriter
from sidecard_client.protocol.wire import Usage

MAX_BYTES = 1 << 30

wall_clock = time.time  # noqa: TID251 - as the command


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the environment's settings."""
    for name in os.environ:
        if name.startswith("SIDECARD_"):
            monkeypatch.delenv(name)

    monkeypatch.setenv("XDG_STATE_HOME", "/nonexistent")
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a store that does not exist yet."""
    return tmp_path / "store.db"


def packed(value: object) -> bytes:
    """Return a value as the daemon stores it."""
    return msgspec.msgpack.encode(value)


def fill(path: Path, *entries: tuple[str, object, float, float]) -> None:
    """Store entries, each a key, a value, its age and its lifetime in seconds."""
    writer = StoreWriter(path, MAX_BYTES, lambda: 0.0)
    now = wall_clock()
    writer.apply(
        [
            (StoreWrite("1:default", key, record(value, ttl_seconds)), now - age_seconds)
            for key, value, age_seconds, ttl_seconds in entries
        ]
    )
    writer.close()


def record(value: object = "v", ttl_seconds: float = 300.0) -> Record:
    """Return a record whose fields all differ from their defaults."""
    return Record(packed(value), 1.5, ttl_seconds, 60.0, "cloud", Usage("m", 1, 2, 0.25), ("a", "b"))


def found(path: Path, key: str) -> Record | None:
    """Read an entry as the daemon does."""
    reader = StoreReader(path, lambda: Instant(wall_clock()))
    try:
        row = reader.look("1:default", key)
    finally:
        reader.close()

    return None if row is None else row[1]


def run(*arguments: object) -> int:
    """Run the command."""
    return main(["cache", *map(str, arguments)])


@pytest.fixture
def in_use(path: Path) -> Iterator[Path]:
    """Lock a store as a daemon does."""
    fill(path, ("k", "v", 0, 300))
    lock = os.open(f"{path}.lock", os.O_RDONLY | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield path
    os.close(lock)


# Which store ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", [["verify"], ["export", "-"], ["compact"]])
def test_a_missing_store_is_reported(path: Path, action: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is created."""
    assert run(*action, "--store", path) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert f"no store at {path}" in err
    assert list(path.parent.iterdir()) == []


def test_a_fifo_is_rejected_without_waiting(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Opening a FIFO without a writer would block."""
    os.mkfifo(path)
    assert run("verify", "--store", path) == 1
    assert "not a regular file" in capsys.readouterr().err


def test_the_default_store_is_the_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The flag takes precedence over the settings, and these over the state directory."""
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    fill(tmp_path / "store.db", ("k", "v", 0, 300))
    fill(tmp_path / "other.db", ("k", "v", 0, 300), ("l", "v", 0, 300))
    assert run("verify") == 0
    assert run("verify", "--set", f"store.url=sqlite:{tmp_path}/other.db") == 0
    assert run("verify", "--store", tmp_path / "store.db", "--set", f"store.url=sqlite:{tmp_path}/other.db") == 0
    output = capsys.readouterr().out.splitlines()
    assert ["1 entry" in line or "2 entries" in line for line in output] == [True] * 3
    assert ["store.db" in line for line in output] == [True, False, True]


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("none", "no store"),
        ("redis://:hunter2@127.0.0.1/0", "Redis"),
        (None, "no state directory"),
        (None, "STATE_DIRECTORY as the daemon has it"),
    ],
)
def test_without_a_store_on_disk_the_error_names_the_flag(
    url: str | None, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error omits the URL, which may contain a password."""
    assert run("verify", *([] if url is None else ["--set", f"store.url={url}"])) == 1
    err = capsys.readouterr().err
    assert what in err
    assert "--store" in err
    assert "hunter2" not in err


# verify --------------------------------------------------------------------------------------------------------------


def test_verify_counts_the_entries(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The counts are in the text and in the JSON."""
    fill(path, ("old", "v", 400, 500), ("new", "v", 0, 300))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET expires_at = 1 WHERE key = 'old'")
        connection.execute("UPDATE entries SET about = x'9763' WHERE key = 'new'")

    connection.close()
    assert run("verify", "--store", path) == 0
    assert "2 entries (1 expired, 1 of another version)" in capsys.readouterr().out
    assert run("verify", "--store", path, "--json") == 0
    output = json.loads(capsys.readouterr().out)
    assert (output["fine"], output["problems"], output["entries"], output["expired"], output["foreign"]) == (
        True,
        [],
        2,
        1,
        1,
    )
    assert output["file_bytes"] >= output["bytes"] > 0


def test_verify_works_while_a_daemon_runs(in_use: Path) -> None:
    """Verification only reads."""
    assert run("verify", "--store", in_use) == 0


def test_verify_reports_wrong_sums(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Limits are enforced with these sums."""
    fill(path, ("k", "v", 0, 300))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sums SET bytes = 7 WHERE queue = 0")

    connection.close()
    assert run("verify", "--store", path) == 1
    assert "1 entries of 7 bytes" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"no database" * 1000, b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8192])
def test_verify_reports_a_file_that_is_not_a_store(
    path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is not changed."""
    path.write_bytes(content)
    assert run("verify", "--store", path) == 1
    assert "is damaged" in capsys.readouterr().err
    assert run("verify", "--store", path, "--json") == 1
    assert json.loads(capsys.readouterr().out)["fine"] is False
    assert path.read_bytes() == content


def test_verify_finds_damaged_pages(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A daemon notices such damage only when it reads the page."""
    fill(path, *((f"{number}", "x" * 1000, 0, 300) for number in range(300)))
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2 // 4096 * 4096)
        file.write(b"\xff" * 8192)

    assert run("verify", "--store", path) == 1
    assert capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "what"),
    [("PRAGMA user_version = 99", "later version"), ("PRAGMA application_id = 5", "another program")],
)
def test_a_foreign_file_is_rejected(path: Path, change: str, what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every action rejects it and leaves it unchanged."""
    fill(path, ("k", "v", 0, 300))
    with sqlite3.connect(path) as connection:
        connection.execute(change)

    connection.close()
    before = path.read_bytes()
    source = path.with_name("in")
    source.write_bytes(b"")
    for action in (["verify"], ["export", "-"], ["compact"], ["import", source]):
        assert run(*action, "--store", path) == 1, action
        assert what in capsys.readouterr().err

    assert path.read_bytes() == before


# export and import ---------------------------------------------------------------------------------------------------


def test_an_export_can_be_imported(path: Path, tmp_path: Path) -> None:
    """All fields survive, and import creates a missing store."""
    fill(path, ("k", {"answer": ["ä", None, 1.5]}, 100, 300), ("gone", "v", 400, 500))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET expires_at = 1 WHERE key = 'gone'")

    connection.close()
    out, copy = tmp_path / "out", tmp_path / "copy.db"
    assert run("export", out, "--store", path) == 0
    assert [json.loads(line)["key"] for line in out.read_bytes().splitlines()] == ["k"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert run("import", out, "--store", copy) == 0
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    original, copied = found(path, "k"), found(copy, "k")
    assert original is not None
    assert copied is not None
    assert msgspec.structs.replace(copied, age_seconds=0.0) == msgspec.structs.replace(original, age_seconds=0.0)
    assert copied.age_seconds == pytest.approx(100, abs=10)
    assert run("verify", "--store", copy) == 0


def test_export_writes_one_entry_per_line(path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Standard output contains only entries."""
    fill(path, ("k", "v", 0, 300), ("l", "w", 0, 300))
    assert run("export", "-", "--store", path) == 0
    out, err = capfdbinary.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert b"2 entries exported" in err
    assert [line["key"] for line in lines] == ["k", "l"]
    assert base64.b64decode(lines[1]["value"]) == packed("w")
    assert lines[0]["about"]["tags"] == ["a", "b"]
    assert lines[0]["expires_at"] == lines[0]["stored_at"] + 300


def test_export_to_standard_output_controls_no_terminal(path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Peers choose keys; escapes of JSON keep them the same."""
    key = "k\x1b[31m\x9b2J\u202e\x7f\n"
    fill(path, (key, "v", 0, 300))
    assert run("export", "-", "--store", path) == 0
    out = capfdbinary.readouterr().out
    assert out.rstrip(b"\n").decode().isprintable()
    assert json.loads(out)["key"] == key


def test_compressed_answers_are_exported_uncompressed(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged answer is omitted and counted."""
    value = packed("The capital of France is Paris. " * 100)
    kept = len(value).to_bytes(4, "big") + Zstd().compress(value)
    writer = StoreWriter(path, MAX_BYTES, lambda: 0.0)
    for key, data in (("whole", kept), ("damaged", kept[:-1])):
        compressed = msgspec.structs.replace(record(), value=data, compressed=True)
        writer.apply([(StoreWrite("1:default", key, compressed), wall_clock())])

    writer.close()
    file = tmp_path / "exported"
    assert run("export", file, "--store", path) == 0
    output = capsys.readouterr().err
    assert output.startswith("1 entry exported; 1 entry ")
    assert "omitted" in output
    assert base64.b64decode(json.loads(file.read_text())["value"]) == value
    other = tmp_path / "other.db"
    assert run("import", file, "--store", other) == 0
    taken_in = found(other, "whole")
    assert taken_in is not None
    assert (taken_in.value, taken_in.compressed) == (value, False)


def test_import_and_compact_fail_while_a_daemon_runs(in_use: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Export only reads, so it works."""
    out = in_use.with_name("out")
    assert run("export", out, "--store", in_use) == 0
    for action in (["import", out], ["compact"]):
        assert run(*action, "--store", in_use) == 1
        assert "stop the daemon first" in capsys.readouterr().err


def test_a_failed_export_keeps_the_existing_file(path: Path, tmp_path: Path) -> None:
    """The existing file may be the last copy of a damaged store."""
    path.write_bytes(b"no database" * 1000)
    out = tmp_path / "out"
    out.write_bytes(b"the last one")
    assert run("export", out, "--store", path) == 1
    assert out.read_bytes() == b"the last one"
    assert not out.with_name("out.new").exists()


def test_export_into_the_store_is_rejected(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A symbolic link to the store is recognized."""
    fill(path, ("k", "v", 0, 300))
    before = path.read_bytes()
    link = path.with_name("link")
    link.symlink_to(path)
    for name in (path, link):
        assert run("export", name, "--store", path) == 1
        assert "the store itself" in capsys.readouterr().err

    assert path.read_bytes() == before


def lines_of(path: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Export, and return the lines."""
    assert run("export", tmp_path / "lines", "--store", path) == 0
    return [json.loads(line) for line in (tmp_path / "lines").read_bytes().splitlines()]


@pytest.mark.parametrize(
    "change",
    [
        {"scope": "default"},
        {"key": ""},
        {"value": "%"},
        {"value": base64.b64encode(b"\xc1").decode()},
        {"about": {}},
        {"stored_at": None},
        {"stored_at": -1},
        {"surplus": 1},
    ],
    ids=str,
)
def test_import_of_a_file_with_an_invalid_line_changes_nothing(
    path: Path,
    tmp_path: Path,
    change: dict[str, object],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error names the line."""
    monkeypatch.setattr("sidecard.store.sqlite.export_import.BATCH_LINES", 1)
    fill(path, ("k", "v", 0, 300), ("l", "w", 0, 300))
    good, other = lines_of(path, tmp_path)
    source, copy = tmp_path / "in", tmp_path / "copy.db"
    source.write_text("\n".join(json.dumps(line) for line in (good, other, good | change)))
    assert run("import", source, "--store", copy) == 1
    assert "line 3" in capsys.readouterr().err
    assert not copy.exists()


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[1]", b"{}"])
def test_import_of_invalid_json_names_the_line(
    path: Path, tmp_path: Path, text: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the first invalid line."""
    source = tmp_path / "in"
    source.write_bytes(b"\n" + text + b"\n")
    assert run("import", source, "--store", path) == 1
    assert "line 2" in capsys.readouterr().err


@pytest.mark.parametrize("batch", [1, 1000])
def test_import_keeps_the_newer_entry(
    path: Path, tmp_path: Path, batch: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other entry may be in the store or in the file, in any order."""
    monkeypatch.setattr("sidecard.store.sqlite.export_import.BATCH_LINES", batch)
    fill(path, ("k", "middle", 100, 300))
    (line,) = lines_of(path, tmp_path)
    older, newer, expired = ({**line, "value": base64.b64encode(packed(value)).decode()} for value in ("o", "n", "e"))
    older["stored_at"] -= 50
    newer["stored_at"] += 50
    expired["key"], expired["expires_at"] = "expired", 1.0
    source = tmp_path / "in"
    for lines in ([older, newer, expired], [newer, older, expired]):
        store = tmp_path / f"{lines[0] is older}.db"
        fill(store, ("k", "middle", 100, 300))
        source.write_text("".join(json.dumps(one) + "\n" for one in lines))
        assert run("import", source, "--store", store) == 0
        kept = found(store, "k")
        assert kept is not None
        assert kept.value == packed("n")
        err = capsys.readouterr().err
        assert "1 expired" in err
        assert found(store, "expired") is None

    source.write_text(json.dumps(older))
    assert run("import", source, "--store", path) == 0
    assert "0 entries imported; omitted: 1 not newer" in capsys.readouterr().err


def test_import_respects_the_stores_limit(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The limit comes from the settings."""
    fill(path, *((str(number), "x" * 20_000, 0, 300) for number in range(100)), ("huge", "x" * 200_000, 0, 300))
    copy = tmp_path / "copy.db"
    assert run("export", tmp_path / "out", "--store", path) == 0
    assert run("import", tmp_path / "out", "--store", copy, "--set", "store.max_bytes=1MiB") == 0
    err = capsys.readouterr().err
    assert "1 too large" in err
    assert "evicted" in err
    assert run("verify", "--store", copy, "--json") == 0
    assert 0 < json.loads(capsys.readouterr().out)["bytes"] <= 1 << 20


def test_standard_input_can_be_imported(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input can be read only once, so it is copied."""
    fill(path, ("k", "v", 0, 300))
    assert run("export", tmp_path / "out", "--store", path) == 0
    with (tmp_path / "out").open() as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        assert run("import", "-", "--store", tmp_path / "copy.db") == 0

    assert found(tmp_path / "copy.db", "k") is not None


def test_long_work_reports_progress(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress lines are on standard error."""
    monkeypatch.setattr(cache, "PROGRESS_SECONDS", 0.0)
    fill(path, ("k", "v", 0, 300), ("l", "v", 0, 300))
    assert run("export", tmp_path / "out", "--store", path) == 0
    assert "1 entry exported so far" in capsys.readouterr().err


# compact -------------------------------------------------------------------------------------------------------------


def test_compact_frees_space_and_keeps_live_entries(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The store is valid afterwards."""
    fill(path, *((str(number), "x" * 1000, 0, 300) for number in range(2500)), ("live", "v", 0, 300))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET expires_at = 1 WHERE key <> 'live'")

    connection.close()
    before = path.stat().st_size
    assert run("compact", "--store", path) == 0
    assert "2,500 entries had expired" in capsys.readouterr().out
    assert path.stat().st_size < before / 10
    assert found(path, "live") is not None
    assert run("verify", "--store", path) == 0
    assert "1 entry of" in capsys.readouterr().out


def test_import_by_root_keeps_the_directorys_owner(path: Path, tmp_path: Path) -> None:
    """Otherwise the daemon could not open its store."""
    if os.geteuid() != 0:
        pytest.skip("only root makes files of others")

    fill(path, ("k", "v", 0, 300))
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 4242, 4242)
    assert run("export", tmp_path / "out", "--store", path) == 0
    assert run("import", tmp_path / "out", "--store", theirs / "store.db") == 0
    assert {one.name: one.stat().st_uid for one in theirs.iterdir()} == {"store.db": 4242, "store.db.lock": 4242}
