"""SDKs and frameworks, each in the oldest and newest version in common use: shared calls are made once and equal in every field.

Each app of `tests/acceptance/frameworks` runs three times in an environment of its own: twice with sidecard, in two processes
at the same time, and once without. It differs in the lines that end with ``# sidecard``, which are counted.
"""

import json
import os
import queue
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
from msgspec import Struct

from tests.acceptance.framework_calls import CALLS
from tests.daemons import Daemon
from tests.framework_environments import python_of
from tests.framework_server import FrameworkServer
from tests.llm_servers import real_model

APPS = Path(__file__).parent / "frameworks"
SECONDS = 120.0

pytestmark = [pytest.mark.frameworks, pytest.mark.timeout(900)]


class Framework(Struct, frozen=True):
    """An app, and the packages that it runs with. ``without``: calls that this version does not have."""

    app: str
    requirements: str
    without: tuple[str, ...] = ()


FRAMEWORKS = [
    Framework("openai", "openai==1.66.0"),
    Framework("openai", "openai==2.0.0"),
    Framework("openai", "openai>=3"),
    Framework("openai", "openai>=3 httpx"),
    Framework("anthropic", "anthropic==0.40.0 httpx<0.28"),
    Framework("anthropic", "anthropic>=2"),
    Framework("groq", "groq==0.13.0 httpx<0.28"),
    Framework("groq", "groq>=1.7"),
    Framework("mistral", "mistralai==1.2.0"),
    Framework("mistral", "mistralai>=3.7"),
    Framework("cohere", "cohere==5.13.0"),
    Framework("cohere", "cohere>=7.3"),
    Framework("together", "together==2.0.0"),
    Framework("together", "together>=3.1"),
    Framework("ollama", "ollama==0.4.0"),
    Framework("ollama", "ollama>=0.6"),
    Framework("google_genai", "google-genai==1.10.0"),
    Framework("google_genai", "google-genai>=3.6"),
    Framework("huggingface", "huggingface_hub==1.0.0"),
    Framework("huggingface", "huggingface_hub>=2.4"),
    Framework("langchain_openai", "langchain-openai==0.3.0"),
    Framework("langchain_openai", "langchain-openai>=1.7"),
    Framework("langchain_anthropic", "langchain-anthropic==0.3.0 anthropic<0.50"),
    Framework("langchain_anthropic", "langchain-anthropic>=1.7"),
    Framework("langchain_google_genai", "langchain-google-genai==4.0.0"),
    Framework("langchain_google_genai", "langchain-google-genai>=4.4"),
    Framework("langchain_ollama", "langchain-ollama==0.2.0"),
    Framework("langchain_ollama", "langchain-ollama>=1.1"),
    Framework("llama_index", "llama-index-llms-openai==0.3.0"),
    Framework("llama_index", "llama-index-llms-openai>=0.8"),
    Framework("litellm", "litellm==1.60.0"),
    Framework("litellm", "litellm>=1.110"),
    Framework("pydantic_ai", "pydantic-ai-slim[openai,anthropic]==1.0.0 opentelemetry-api<1.39 anthropic==0.66.0"),
    Framework("pydantic_ai", "pydantic-ai-slim[openai,anthropic]>=2.60"),
    Framework("instructor", "instructor==1.7.0"),
    Framework("instructor", "instructor>=1.17"),
    Framework("dspy", "dspy==2.6.27"),
    Framework("dspy", "dspy>=3.4"),
    Framework("smolagents", "smolagents[openai]==1.16.0"),
    Framework("smolagents", "smolagents[openai]>=1.26"),
    Framework("crewai", "crewai==1.0.0", without=("async_plain",)),
    Framework("crewai", "crewai>=1.15"),
    Framework("haystack", "haystack-ai==2.20.0 openai<3"),
    Framework("haystack", "haystack-ai>=3.4"),
    Framework("semantic_kernel", "semantic-kernel==1.20.0"),
    Framework("semantic_kernel", "semantic-kernel>=1.45"),
    Framework("agno", "agno==2.0.0 openai"),
    Framework("agno", "agno>=3.1 openai"),
    # It needs details of usage that llama.cpp does not give.
    Framework("openai_agents", "openai-agents==0.2.0", without=("async_plain", "async_streamed")),
    Framework("openai_agents", "openai-agents>=0.24"),
    Framework("boto3", "boto3==1.36.0"),
    Framework("boto3", "boto3>=1.44"),
    Framework("aisuite", "aisuite[openai]==0.1.10 docstring-parser"),
    Framework("aisuite", "aisuite[openai,mcp]>=0.2"),
]

_CALL = re.compile(r"^(?:async )?def ([a-z]\w*)\(\)", re.MULTILINE)
_CHANGED = re.compile(r"# sidecard$", re.MULTILINE)

VOLATILE = ("date", "transfer-encoding", "connection")
"""Headers of one connection, where an app shows headers."""


@pytest.fixture(scope="module")
def server() -> Iterator[FrameworkServer]:
    """A server with a real model for all it can answer."""
    with real_model() as model, FrameworkServer(model.url) as server:
        yield server


class App:
    """A process that makes calls one by one."""

    def __init__(self, python: Path, app: Path, server: FrameworkServer, mode: str, log: Path, **environ: str) -> None:
        self._log = log
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        quiet = {"OTEL_SDK_DISABLED": "true", "CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false"}
        offline = {"LITELLM_LOCAL_MODEL_COST_MAP": "true", "HAYSTACK_TELEMETRY_ENABLED": "false"}
        with log.open("w") as output:
            self._process = subprocess.Popen(
                [python, APPS / "run.py", app, server.url, mode],
                env=clean | quiet | offline | environ | {"HOME": str(log.parent)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
            )

        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._reader.join()
        self._process.communicate()

    def ask(self, call: str) -> None:
        """Start a call."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{call}\n")
        self._process.stdin.flush()

    def reply(self) -> Any:
        """Return the next reply."""
        try:
            line = self._replies.get(timeout=SECONDS)
        except queue.Empty:
            line = ""

        assert line, f"no reply from the app\n{self._log.read_text()[-3000:]}"
        return _lasting(json.loads(line))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._replies.put(line)

        self._replies.put("")


def _lasting(value: Any) -> Any:
    """Return a result without headers that belong to one caller."""
    if isinstance(value, dict):
        return {
            name: _lasting(each)
            for name, each in value.items()
            if name.lower() not in VOLATILE and not name.lower().startswith("x-sidecard-")
        }

    return [_lasting(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda framework: framework.requirements.replace(" ", ","))
def test_calls_are_made_once_and_equal_in_every_field(
    framework: Framework,
    server: FrameworkServer,
    module_daemon: Callable[..., Daemon],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """In two processes, and as without sidecard."""
    path = APPS / f"{framework.app}_app.py"
    source = path.read_text(encoding="utf-8")
    names = [name for name in _CALL.findall(source) if name not in framework.without]
    python = python_of(framework.requirements)
    daemon = module_daemon("--no-state")
    failures: dict[str, str] = {}
    with ExitStack() as stack:
        modes = {"first": "shared", "second": "shared", "alone": "alone"}
        apps = {
            name: stack.enter_context(
                App(python, path, server, mode, tmp_path / f"{name}.log", SIDECARD_SOCKET=daemon.socket)
            )
            for name, mode in modes.items()
        }
        for app in apps.values():
            assert app.reply() == "ready"

        for name in names:
            failures[name] = _problem(apps, server, name)

    daemon.terminate()
    changed = len(_CHANGED.findall(source))
    marks = ["-" if call not in failures else "no" if failures[call] else "yes" for call in CALLS]
    record_property("framework", (framework.requirements, changed, *marks))
    problems = {name: problem for name, problem in failures.items() if problem}
    assert not problems, "\n".join(f"{name}: {problem}" for name, problem in problems.items())


def _problem(apps: dict[str, App], server: FrameworkServer, call: str) -> str:
    """Make a call in all processes; return what is wrong, if anything."""
    server.asked.clear()
    for name in ("first", "second"):
        apps[name].ask(call)

    first, second = apps["first"].reply(), apps["second"].reply()
    shared = list(server.asked)
    server.asked.clear()
    apps["alone"].ask(call)
    alone = apps["alone"].reply()
    if "error" in alone:
        return f"the app fails without sidecard: {alone['error']}"

    if not server.asked:
        return "the app makes no call"

    if alone not in (first, second) or first != second:
        return f"results differ: {first} and {second}, alone {alone}"

    if sorted(shared) != sorted(set(server.asked)):
        return (
            f"{len(shared)} upstream calls instead of {len(set(server.asked))}: {shared[:3]}, alone {server.asked[:3]}"
        )

    return ""
