"""Canaries in every place that can hold a secret, through failures, at debug level: none is in any output or file.

A canary that is found says by its own name which place it was put in.
"""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from sidecard_client import Client
from sidecard_client.http import SidecardTransport
from tests.daemons import Daemon, ask, poll
from tests.llm_servers import Refusal, ScriptedModel
from tests.servers import free_port

Start = Callable[..., Daemon]

CANARY = re.compile(rb"canary-[a-z-]*")
COMMANDS = (
    ("ping",), ("stats",), ("report",), ("breakers",), ("metrics",), ("config", "show"), ("config", "show", "--running"),
    ("config", "check"), ("calls", "list"), ("cache", "verify"), ("reload",),
)  # fmt: skip
ASKED = ("ping", "stats", "report", "health", "config", "breakers", "metrics")


def answer(prompt: str) -> str:
    """Stand for a model."""
    return f"canary-answer to {prompt}"


def refuse(prompt: str) -> str:
    """Stand for a model that says too much when it fails."""
    raise ConnectionError(f"401 for url https://model.example/?key=canary-in-exception: {prompt}")


def found(data: bytes) -> set[bytes]:
    """Return which canaries are in an output."""
    return set(CANARY.findall(data))


def secrets_of(directory: Path) -> dict[str, str]:
    """Return an environment with a canary wherever one can be, and addresses at which no server listens."""
    port = free_port()
    token, password = directory / "token", directory / "password"
    token.write_text("canary-bearer-token\n", encoding="utf-8")
    password.write_text("canary-password-file\n", encoding="utf-8")
    return {
        "REDIS_URL": f"redis://user:canary-redis-url@127.0.0.1:{port}/0",
        "SIDECARD_STORE_PASSWORD": "canary-store-password",
        "SIDECARD_PUSH_URL": f"http://u:canary-push-url@127.0.0.1:{port}/api/v1/import?key=canary-push-query",
        "SIDECARD_PUSH_INTERVAL_SECONDS": "0.1",
        "SIDECARD_PUSH_USERNAME": "pusher",
        "SIDECARD_PUSH_PASSWORD": "canary-push-password",
        "DATABASE_URL": f"postgresql://logger:canary-database-url@127.0.0.1:{port}/calls?password=canary-database-query",
        "SIDECARD_CALLS_ENABLED": "true",
        "SIDECARD_LOG_LEVEL": "debug",
        "SOME_APPS_API_KEY": "canary-environment",
    }


def output_of_commands(path: str, environ: dict[str, str]) -> bytes:
    """Run every command that prints values, for people and for programs, and return all output."""
    exposed = b""
    for command in COMMANDS:
        for form in ((), ("--json",)):
            done = subprocess.run(
                [sys.executable, "-m", "sidecard", *command, "--socket", path, *form],
                env=os.environ | environ, capture_output=True, check=False, timeout=60,
            )  # fmt: skip
            exposed += done.stdout + done.stderr

    return exposed


@pytest.mark.timeout(240)
@pytest.mark.slow
def test_commands_with_unreachable_servers_show_no_secret(daemon: Start, socket_path: str, tmp_path: Path) -> None:
    """Some twenty commands show no secret, for people and as JSON."""
    environ = secrets_of(tmp_path)
    daemon(STATE_DIRECTORY=str(tmp_path), **environ)
    exposed = output_of_commands(socket_path, environ | {"STATE_DIRECTORY": str(tmp_path)})
    assert b"store.password" in exposed
    assert found(exposed) == set()


def test_logs_replies_and_files_with_unreachable_servers_have_no_secret(
    daemon: Start, socket_path: str, tmp_path: Path
) -> None:
    """Logs, replies and files have no secret, no request, no answer and no cause of a failed call, through a failed reload and a stop."""
    state, settings, page = tmp_path / "state", tmp_path / "sidecard.toml", f"{socket_path}.http"
    state.mkdir()
    settings.write_text("", encoding="utf-8")
    running = daemon(
        f"--config={settings}", f"--set=http.listen={page}", STATE_DIRECTORY=str(state), **secrets_of(tmp_path)
    )
    with Client(socket_path) as client:
        for _ in range(2):
            client.call(answer, "canary-prompt")

        with pytest.raises(ConnectionError):
            client.call(refuse, "canary-prompt")

    poll(lambda: bool(running.said("metrics not pushed")), "nothing was pushed to where nobody is")
    poll(lambda: bool(running.said("store failed")), "Redis was not missed")
    exposed = b"".join(json.dumps(ask(socket_path, {"op": op})).encode() for op in ASKED)
    exposed += json.dumps(ask(socket_path, {"op": "canary-op", "id": 7})).encode().replace(b"canary-op", b"")
    with httpx.Client(transport=httpx.HTTPTransport(uds=page)) as browser:
        for place in ("/", "/health", "/metrics", "/v1/summary", "/v1/history"):
            exposed += browser.get(f"http://localhost{place}").content

        exposed += browser.post("http://localhost/v1/metrics", content=b'{"cost": "canary-posted"').content

    settings.write_text('[store]\npassword = "canary-reloaded\n[push]\npassword = 5', encoding="utf-8")
    running.process.send_signal(signal.SIGHUP)
    poll(lambda: bool(running.said("settings not changed")), "it was not read again")
    exposed += Path(f"/proc/{running.pid}/cmdline").read_bytes()
    assert running.terminate() == 0
    exposed += running.output().encode()
    files = [path for path in state.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"ledger.json", "lock"}
    assert found(exposed + b"".join(path.read_bytes() for path in files)) == set()


def test_api_key_of_an_intercepted_request_reaches_only_the_model(
    daemon: Start, socket_path: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The key is in no call log, not even one that keeps prompts, whether the model accepts or refuses it."""
    running = daemon(
        "--set=calls.enabled=true", "--set=calls.prompts=true", "--log-level=debug", STATE_DIRECTORY=str(tmp_path)
    )
    caplog.set_level("DEBUG")
    headers = {"Authorization": "Bearer canary-api-key", "X-Api-Key": "canary-x-api-key", "Cookie": "canary-cookie"}
    body: dict[str, object] = {"model": "m", "messages": [{"role": "user", "content": "what was asked"}]}
    with (
        ScriptedModel() as model,
        Client(socket_path) as client,
        httpx.Client(transport=SidecardTransport(httpx.HTTPTransport(), client), headers=headers) as app,
    ):
        for refused in (False, False, True):
            if refused:
                model.next.append(Refusal(401))
                body["seed"] = 5

            app.post(f"{model.url}/v1/chat/completions", json=body)

        exposed = json.dumps([ask(socket_path, {"op": op}) for op in ASKED]).encode()

    assert running.terminate() == 0
    with sqlite3.connect(tmp_path / "calls.sqlite") as log:
        logged = repr(log.execute("SELECT * FROM calls").fetchall())

    log.close()
    assert "what was asked" in logged
    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert found(exposed + kept + running.output().encode() + caplog.text.encode()) == set()
