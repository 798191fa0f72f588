"""``sidecard explain`` with a real daemon, and without one."""

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

pytestmark = pytest.mark.usefixtures("patient_clients")

Start = Callable[..., Daemon]

CHAT = "https://api.openai.com/v1/chat/completions"


def run(*arguments: str, stdin: object = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; ``stdin`` is the request on standard input."""
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
    """Simulate a model."""
    return f"answer to {question}"


def test_explain_shows_the_daemons_entry_and_policy(daemon: Start) -> None:
    """The key is the client's; the policy and its sources are the daemon's."""
    path = daemon("--set", "tasks.rag.ttl_seconds=120").socket
    request = {"name": "app.answer", "args": ["why?"], "task": "rag"}
    before = json.loads(run("-", "--socket", path, "--json", stdin=request).stdout)
    assert (before["entry"], before["waiters"]) == (None, None)
    with Client(path) as client:
        client.call(answer, "why?", task="rag", name="app.answer", tags=["t"])
        assert before["key"] == client.explain(answer, "why?", task="rag", name="app.answer").key

    result = run("-", "--socket", path, "--json", stdin=request)
    assert result.returncode == 0, result.stderr
    after = json.loads(result.stdout)
    assert after["entry"]["tags"] == ["t"]
    assert 100 < after["entry"]["ttl_left_seconds"] <= 120
    assert after["policy"]["ttl_seconds"]["value"] == 120.0
    assert after["policy"]["ttl_seconds"]["setting"] == "tasks.rag.ttl_seconds"
    assert "--set" in after["policy"]["ttl_seconds"]["origin"]
    assert after["policy"]["stale_seconds"]["origin"] == "default"
    assert "An answer is stored" in run("-", "--socket", path, stdin=request).stdout


def test_explain_finds_an_entry_of_the_store(daemon: Start, tmp_path: Path) -> None:
    """A memory miss is followed by a read of the store, as in a begin."""
    url = f"sqlite:{tmp_path / 'store.db'}"
    one = daemon("--set", f"store.url={url}")
    request = {"name": "app.answer", "args": ["why?"]}
    with Client(one.socket) as client:
        client.call(answer, "why?", name="app.answer")

    assert one.terminate() == 0
    one.start_again()
    result = json.loads(run("-", "--socket", one.socket, "--json", stdin=request).stdout)
    assert result["entry"]["task"] == "general"


def test_explain_without_a_daemon_uses_its_own_settings(tmp_path: Path, socket_path: str) -> None:
    """Each value names its source; if ``--socket`` is given, the daemon is required."""
    settings = tmp_path / "s.toml"
    settings.write_text('[tasks.rag]\nttl_seconds = 7\ncache = "never"\n')
    request = {"name": "f", "task": "rag", "route": "fastest"}
    environ = {"SIDECARD_SOCKET": socket_path, "SIDECARD_CACHE_STALE_SECONDS": "9"}
    result = run("-", "--config", str(settings), "--set", "tasks.rag.early_refresh=1", stdin=request, **environ)
    assert result.returncode == 0, result.stderr
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert str(settings) in lines["ttl_seconds"]
    assert "SIDECARD_CACHE_STALE_SECONDS" in lines["stale_seconds"]
    assert "--set" in lines["early_refresh"]
    assert "call: route" in lines["route"]
    assert "(default)" in lines["failure_ttl_seconds"]
    assert "Its answer is not stored: its task stores no answers." in result.stdout
    assert "No daemon was queried" in result.stdout
    assert run("-", "--socket", socket_path, stdin=request).returncode == 69


def test_explain_compares_two_bodies(file: Callable[[str, object], str], socket_path: str) -> None:
    """The exit code is 1 if they do not share, and the difference is named; otherwise 0."""
    one, other = file("a", chat("Why  not?", temperature=0)), file("b", chat("Why not?", user="u", temperature=0))
    differs = run(one, other, "--url", CHAT, SIDECARD_SOCKET=socket_path)
    assert differs.returncode == 1, differs.stderr
    assert "  kwargs.body.messages[0].content: 'Why  not?' / 'Why not?'\n" in differs.stdout
    same = run(one, other, "--url", CHAT, "--normalize", "space", SIDECARD_SOCKET=socket_path)
    assert same.returncode == 0, same.stdout
    assert "(the same in normal form)" in same.stdout
    result = json.loads(run(one, other, "--url", CHAT, "--json", SIDECARD_SOCKET=socket_path).stdout)
    assert (result["share"], result["differences"][0]["path"]) == (False, "kwargs.body.messages[0].content")


def test_explain_uses_the_normal_form_of_the_daemons_task(daemon: Start, file: Callable[[str, object], str]) -> None:
    """The form applies with ``--normalize task`` only."""
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
        (("/nonexistent/file",), None, 1, "cannot read"),
        ((), None, 2, "REQUEST"),
        (("-", "--header", "x"), {"name": "f"}, 2, "NAME: VALUE"),
        (("-", "--set", "tasks.x.cache=maybe"), {"name": "f"}, 78, "tasks.x.cache"),
    ],
)
def test_explain_of_an_invalid_request_fails(
    arguments: tuple[str, ...], stdin: object, code: int, words: str, socket_path: str
) -> None:
    """The error is on standard error, with the usual exit code."""
    result = run(*arguments, stdin=stdin, SIDECARD_SOCKET=socket_path)
    assert (result.returncode, result.stdout) == (code, ""), result.stderr
    assert words in result.stderr
