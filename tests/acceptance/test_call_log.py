"""The call log of a real daemon, as ``sidecard calls`` shows it: the caller, the call, its cost, and the prompt and answer if they are kept."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from sidecard_client import AsyncClient, Client
from tests.daemons import Daemon, poll
from tests.many_hosts import reasons
from tests.metrics import samples

pytestmark = pytest.mark.usefixtures("patient_clients")

Start = Callable[..., Daemon]

LOGGED = "--set=calls.enabled=true"
PROMPTS = "--set=calls.prompts=true"
SECRET = "sk-4711"


def answer(prompt: str, system: str = "") -> str:
    """Stand for a model."""
    return f"{system}{prompt}!"


def fail(prompt: str) -> str:
    """Stand for a model that finds the prompt wrong."""
    raise ValueError(prompt)


def calls(state: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run ``sidecard calls``, and return its JSON lines."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    done = subprocess.run(
        [sys.executable, "-m", "sidecard", "calls", *arguments],
        env=environ | {"STATE_DIRECTORY": str(state)},
        capture_output=True,
        check=False,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def rows(state: Path, number: int) -> list[dict[str, Any]]:
    """Return all calls with what was said, the oldest first, once there are so many."""
    poll(lambda: len(calls(state, "list", "--json")) >= number, f"there are not {number} calls")
    return calls(state, "export")


def test_each_call_is_a_row(daemon: Start, socket_path: str, tmp_path: Path) -> None:
    """Each call has a row with task, model, tokens, cost and source, without its text."""
    daemon(LOGGED, STATE_DIRECTORY=str(tmp_path))
    usage = {"model": "small", "prompt_tokens": 3, "completion_tokens": 4, "cost_dollars": 0.25}
    with Client(socket_path, usage=lambda _: usage, task="rag") as client:
        client.call(answer, SECRET, backend="cloud")
        client.call(answer, SECRET, backend="cloud")
        with pytest.raises(ValueError, match="wrong"):
            client.call(fail, "wrong")

    upstream, cached, failed = rows(tmp_path, 3)
    assert upstream.items() >= {"source": "upstream", "task": "rag", "backend": "cloud", "model": "small",
                                "prompt_tokens": 3, "completion_tokens": 4, "billed_dollars": 0.25}.items()  # fmt: skip
    assert cached.items() >= {"source": "cache", "key": upstream["key"], "model": "small", "saved_dollars": 0.25,
                              "billed_dollars": 0.0, "uid": os.getuid(), "pid": os.getpid()}.items()  # fmt: skip
    assert (failed["source"], failed["error"]) == ("failed", "ValueError")
    for row in (upstream, cached, failed):
        assert row["prompt"] is row["answer"] is None

    assert SECRET.encode() not in (tmp_path / "calls.sqlite").read_bytes()


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_texts_are_kept_if_app_and_operator_agree(daemon: Start, socket_path: str, tmp_path: Path) -> None:
    """Texts are kept if both sides ask for it; the app's hook runs first, then the operator's expressions redact matches."""
    daemon(LOGGED, PROMPTS, '--set=calls.redact=["sk-[0-9]+"]', STATE_DIRECTORY=str(tmp_path))
    async with AsyncClient(socket_path) as client:
        await client.call(answer, f"my key is {SECRET}", system="Be brief. ", name="async")
        await client.call(answer, "one", name="kept", redact=lambda *_: None)
        await client.call(
            answer, "two", name="changed", redact=lambda prompt, said: (prompt["args"][0].upper(), len(said))
        )

    with Client(socket_path) as blocking:
        blocking.call(answer, "three", name="blocking")

    logged = [(row["prompt"], row["answer"]) for row in rows(tmp_path, 4)]
    assert logged == [
        (
            {"args": ["my key is [redacted]"], "kwargs": {"system": "Be brief. "}},
            "Be brief. my key is [redacted]!",
        ),
        (None, None),
        ("TWO", 4),
        ({"args": ["three"], "kwargs": {}}, "three!"),
    ]
    conversations = calls(tmp_path, "export", "--format", "openai-chat")
    assert {
        "messages": [{"role": "user", "content": "three"}, {"role": "assistant", "content": "three!"}]
    } in conversations


def test_stop_writes_pending_rows(daemon: Start, socket_path: str, tmp_path: Path) -> None:
    """A stopping daemon writes all rows of the last batch."""
    one = daemon(LOGGED, STATE_DIRECTORY=str(tmp_path))
    with Client(socket_path) as client:
        for number in range(300):
            client.call(answer, str(number))

    assert one.terminate() == 0
    assert len(calls(tmp_path, "export")) == 300


@pytest.mark.slow
def test_kill_loses_only_pending_rows(daemon: Start, socket_path: str, tmp_path: Path) -> None:
    """After a kill the written rows are there, and the next daemon continues the same file."""
    one = daemon(LOGGED, STATE_DIRECTORY=str(tmp_path))
    with Client(socket_path) as client:
        client.call(answer, "first")
        poll(lambda: samples(socket_path)["sidecard_calls_pending"] == 0, "not written")
        client.call(answer, "perhaps")
        one.kill()
        one.start_again()
        poll(lambda: client.outcome(answer, "last").source != "fallback", "the daemon is not used again")

    logged = [row["key"] for row in rows(tmp_path, 2)]
    assert len(logged) == len(set(logged)) in {2, 3}


def test_call_log_without_a_place_prevents_the_start(socket_path: str) -> None:
    """A call log that has no place to be written is an error at the start."""
    done = subprocess.run(
        [sys.executable, "-m", "sidecard", "serve", "--no-state", "--socket", socket_path, LOGGED],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert done.returncode == 78
    assert "there is no state directory" in done.stderr
    assert "sqlite:PATH" in done.stderr


def test_unusable_state_directory_costs_the_call_log_alone(daemon: Start, tmp_path: Path) -> None:
    """Another daemon has locked it: this one serves without a call log, and `health` gives the reason."""
    first = daemon(LOGGED, STATE_DIRECTORY=str(tmp_path))
    second = daemon(LOGGED, STATE_DIRECTORY=str(tmp_path))
    assert "Calls are not logged: there is no state directory" in reasons(second)
    assert "Calls are not logged" not in reasons(first)
    with Client(second.socket) as client:
        assert client.call(lambda: "answer", key="k") == "answer"

    second.terminate()
    assert len(second.said("calls not logged")) == 1


def test_call_log_that_cannot_be_written_is_a_reason(daemon: Start, tmp_path: Path) -> None:
    """Calls go on; when the file can be written again, the reason is gone and the rows are there."""
    (tmp_path / "calls.sqlite").mkdir()
    one = daemon(LOGGED, STATE_DIRECTORY=str(tmp_path))
    with Client(one.socket) as client:
        assert client.call(lambda: "answer", key="k") == "answer"

    poll(lambda: "Calls are not logged: " in reasons(one), "no reason appears")
    (tmp_path / "calls.sqlite").rmdir()
    assert len(rows(tmp_path, 1)) == 1
    poll(lambda: "Calls are not logged" not in reasons(one), "the reason stays")


@pytest.mark.slow
def test_callers_of_one_shared_call_have_a_row_each(daemon: Start, socket_path: str, tmp_path: Path) -> None:
    """Each caller has a row, whichever caller made the call."""
    daemon(LOGGED, STATE_DIRECTORY=str(tmp_path))
    with Client(socket_path) as client, ThreadPoolExecutor(3) as threads:
        entered, opened = threading.Event(), threading.Event()

        def slow(prompt: str) -> str:
            entered.set()
            assert opened.wait(20)
            return prompt

        holder = threads.submit(client.call, slow, "question", key="same")
        assert entered.wait(20)
        waiters = [threads.submit(client.call, slow, "question", key="same") for _ in range(2)]
        poll(lambda: client.stats().waiters == 2, "nobody waits")
        opened.set()
        assert [one.result(20) for one in (holder, *waiters)] == ["question"] * 3

    assert sorted(row["source"] for row in rows(tmp_path, 3)) == ["shared", "shared", "upstream"]
