"""``sidecard explain`` as a shell runs it, with a real daemon and without one."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sidecard_client import Client
from tests.daemons import Daemon

Start = Callable[..., Daemon]

CHAT = "https://api.openai.com/v1/chat/completions"


def run(*arguments: str, stdin: object = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; ``stdin`` is a request that it reads there."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    return subprocess.run(
        [sys.executable, "-m", "sidecard", "explain", *arguments],
        env=clean | environ,
        input=None if stdin is None else json.dumps(stdin),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, object], str]:
    """Write a request into a file."""

    def write(name: str, request: object) -> str:
        path = tmp_path / name
        path.write_text(json.dumps(request))
        return str(path)

    return write


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """Return a body as OpenAI's SDK sends it."""
    return {"model": "gpt", "messages": [{"role": "user", "content": text}], **fields}


def answer(question: str) -> str:
    """Stand for a model."""
    return f"answer to {question}"


def test_a_call_is_explained_with_what_the_daemon_has_of_it(daemon: Start) -> None:
    """Its key is the client's; the policy is the running daemon's, and says where it was said."""
    path = daemon("--set", "tasks.rag.ttl_seconds=120").socket
    request = {"name": "app.answer", "args": ["why?"], "task": "rag"}
    before = json.loads(run("-", "--socket", path, "--json", stdin=request).stdout)
    assert (before["entry"], before["waiters"]) == (None, None)
    with Client(path) as client:
        client.call(answer, "why?", task="rag", name="app.answer", tags=["t"])
        assert before["key"] == client.explain(answer, "why?", task="rag", name="app.answer").key

    told = run("-", "--socket", path, "--json", stdin=request)
    assert told.returncode == 0, told.stderr
    after = json.loads(told.stdout)
    assert after["entry"]["tags"] == ["t"]
    assert 100 < after["entry"]["ttl_left_seconds"] <= 120
    assert after["policy"]["ttl_seconds"]["value"] == 120.0
    assert after["policy"]["ttl_seconds"]["setting"] == "tasks.rag.ttl_seconds"
    assert "--set" in after["policy"]["ttl_seconds"]["origin"]
    assert after["policy"]["stale_seconds"]["origin"] == "default"
    assert "An answer is stored" in run("-", "--socket", path, stdin=request).stdout


def test_what_only_the_store_has_is_found(daemon: Start, tmp_path: Path) -> None:
    """As a begin would find it."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    one = daemon("--set", f"store.url={url}")
    request = {"name": "app.answer", "args": ["why?"]}
    with Client(one.socket) as client:
        client.call(answer, "why?", name="app.answer")

    assert one.terminate() == 0
    one.start_again()
    told = json.loads(run("-", "--socket", one.socket, "--json", stdin=request).stdout)
    assert told["entry"]["task"] == "general"


def test_without_a_daemon_the_settings_of_the_command_count(tmp_path: Path, socket_path: str) -> None:
    """From file, environment and flag, each told; a daemon that was named must be there."""
    settings = tmp_path / "s.toml"
    settings.write_text('[tasks.rag]\nttl_seconds = 7\ncache = "never"\n')
    request = {"name": "f", "task": "rag", "route": "fastest"}
    environ = {"SIDECARD_SOCKET": socket_path, "SIDECARD_CACHE_STALE_SECONDS": "9"}
    told = run("-", "--config", str(settings), "--set", "tasks.rag.early_refresh=1", stdin=request, **environ)
    assert told.returncode == 0, told.stderr
    lines = {line.split()[0]: line for line in told.stdout.splitlines() if line}
    assert str(settings) in lines["ttl_seconds"]
    assert "SIDECARD_CACHE_STALE_SECONDS" in lines["stale_seconds"]
    assert "--set" in lines["early_refresh"]
    assert "call: route" in lines["route"]
    assert "(default)" in lines["failure_ttl_seconds"]
    assert "Its answer is not stored: nothing of its task is." in told.stdout
    assert "No daemon was asked" in told.stdout
    assert run("-", "--socket", socket_path, stdin=request).returncode == 69


def test_two_bodies_are_compared(file: Callable[[str, object], str], socket_path: str) -> None:
    """Exit code 1 where they do not share, and the place; 0 where they do."""
    one, other = file("a", chat("Why  not?", temperature=0)), file("b", chat("Why not?", user="u", temperature=0))
    differs = run(one, other, "--url", CHAT, SIDECARD_SOCKET=socket_path)
    assert differs.returncode == 1, differs.stderr
    assert "  kwargs.body.messages[0].content: 'Why  not?' / 'Why not?'\n" in differs.stdout
    same = run(one, other, "--url", CHAT, "--normalize", "space", SIDECARD_SOCKET=socket_path)
    assert same.returncode == 0, same.stdout
    assert "(the same in normal form)" in same.stdout
    told = json.loads(run(one, other, "--url", CHAT, "--json", SIDECARD_SOCKET=socket_path).stdout)
    assert (told["share"], told["differences"][0]["path"]) == (False, "kwargs.body.messages[0].content")


def test_a_task_of_the_daemon_says_what_is_one(daemon: Start, file: Callable[[str, object], str]) -> None:
    """For those who go by it."""
    path = daemon("--set", "tasks.loose.normalize=space,case").socket
    one, other = file("a", chat("WHY  not?")), file("b", chat("why not?"))
    flags = ("--url", CHAT, "--task", "loose", "--socket", path)
    assert run(one, other, *flags).returncode == 1
    assert run(one, other, *flags, "--normalize", "task").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "words"),
    [
        (("-",), {"messages": []}, 2, "--url"),
        (("-", "-"), {"name": "f"}, 2, "standard input is one request"),
        (("-", "--url", "http://x/y"), {"a": 1}, 2, "is not shared"),
        (("/nonexistent/file",), None, 1, "cannot be read"),
        ((), None, 2, "REQUEST"),
        (("-", "--header", "x"), {"name": "f"}, 2, "NAME: VALUE"),
        (("-", "--set", "tasks.x.cache=maybe"), {"name": "f"}, 78, "tasks.x.cache"),
    ],
)
def test_what_cannot_be_explained_is_said(
    arguments: tuple[str, ...], stdin: object, code: int, words: str, socket_path: str
) -> None:
    """On standard error, with the exit code that it has everywhere."""
    told = run(*arguments, stdin=stdin, SIDECARD_SOCKET=socket_path)
    assert (told.returncode, told.stdout) == (code, ""), told.stderr
    assert words in told.stderr
