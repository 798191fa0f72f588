"""Spans of calls in an app's own OpenTelemetry, and no overhead in apps without it."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.daemons import Daemon
from tests.integration import tracing_app
from tests.metrics import samples

Start = Callable[..., Daemon]


def spans(path: str, scenario: str) -> list[dict[str, Any]]:
    """Run a scenario; return its spans in the order in which they ended."""
    done = subprocess.run(
        [sys.executable, "-W", "error", tracing_app.__file__, path, scenario],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    exported: list[dict[str, Any]] = json.loads(done.stdout)
    return exported


@pytest.mark.parametrize("scenario", ["blocking", "asynchronous", "on trio"])
def test_each_call_is_a_span(daemon: Start, socket_path: str, scenario: str) -> None:
    """A span follows the GenAI conventions, is the parent of the SDK's spans, and contains no prompt or answer."""
    daemon("--no-state")
    sdk, upstream, cached, failed = exported = spans(socket_path, scenario)
    assert (upstream["name"], upstream["kind"], upstream["status"]) == ("chat small", "CLIENT", "UNSET")
    assert sdk["parent"] == upstream["id"]
    attributes = upstream["attributes"]
    assert (
        attributes.items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "cloud",
            "gen_ai.request.model": "small",
            "gen_ai.response.model": "small-7",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 5,
            "sidecard.source": "upstream",
            "sidecard.task": "rag",
            "sidecard.backend": "cloud",
            "sidecard.attempts": 1,
        }.items()
    )
    assert len(attributes["sidecard.key"]) == 12
    assert cached["attributes"].items() >= {"sidecard.source": "cache", "sidecard.saved_dollars": 0.25}.items()
    assert "gen_ai.usage.input_tokens" not in cached["attributes"]
    assert (failed["name"], failed["status"]) == ("embeddings", "ERROR")
    assert failed["attributes"]["error.type"] == "ValueError"
    for span in exported:
        assert "PROMPT" not in span["all"]
        assert "SECRET" not in span["all"]


def test_a_shared_call_links_to_the_holders_span(daemon: Start, socket_path: str) -> None:
    """The trace of a waiter shows the call that it waited for."""
    daemon("--no-state")
    by_source = {span["attributes"]["sidecard.source"]: span for span in spans(socket_path, "sharing")}
    assert by_source["shared"]["links"] == [by_source["upstream"]["id"]]
    assert by_source["upstream"]["links"] == []
    assert samples(socket_path)["sidecard_upstream_seconds_count backend=default"] == 1.0


@pytest.mark.parametrize("scenario", ["batches", "batches asynchronous"])
def test_a_batch_is_a_span(daemon: Start, socket_path: str, scenario: str) -> None:
    """All inputs of a batch have one span, with the usage of its upstream call."""
    daemon("--no-state")
    first, second = spans(socket_path, scenario)
    assert (first["name"], first["kind"]) == ("embeddings small", "CLIENT")
    for span, inputs in ((first, 2), (second, 3)):
        assert (
            span["attributes"].items()
            >= {
                "sidecard.inputs": inputs,
                "sidecard.source": "upstream",
                "gen_ai.usage.input_tokens": 10,
                "gen_ai.response.model": "small-7",
            }.items()
        )
        assert "PROMPT" not in span["all"]


@pytest.mark.parametrize("scenario", ["broken", "half broken"])
def test_a_failing_tracing_library_does_not_affect_calls(daemon: Start, socket_path: str, scenario: str) -> None:
    """Values and exceptions reach the caller unchanged."""
    daemon("--no-state")
    assert spans(socket_path, scenario) == []


def test_a_span_that_cannot_be_current_is_exported(daemon: Start, socket_path: str) -> None:
    """If the context library fails, the span ends and the call is made."""
    daemon("--no-state")
    (span,) = spans(socket_path, "without context")
    assert span["attributes"]["sidecard.source"] == "upstream"


@pytest.mark.parametrize("scenario", ["unshared", "unshared asynchronous"])
def test_unshared_calls_record_usage_and_failure(daemon: Start, socket_path: str, scenario: str) -> None:
    """Spans of unshareable values, and of calls without a daemon, have usage and error."""
    daemon("--no-state")
    made, failed, alone, failed_alone = spans(socket_path, scenario)
    assert [span["attributes"]["sidecard.source"] for span in (made, alone)] == ["upstream", "fallback"]
    for span in (made, alone):
        assert span["attributes"]["gen_ai.usage.input_tokens"] == 3

    for span in (failed, failed_alone):
        assert span["status"] == "ERROR"
        assert span["attributes"]["gen_ai.provider.name"] == "cloud"
        assert "PROMPT" not in span["all"]


def tracing_modules_of_an_app(path: str, imports: str) -> str:
    """Run an app that makes a call and repeats it; return its loaded modules for tracing."""
    program = (
        f"import sys{imports}; from sidecard_client import Client\n"
        "with Client(sys.argv[1]) as client: client.call(str, 1, name='f'); client.call(str, 1, name='f')\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry') or 'tracing' in name])"
    )
    command = [sys.executable, "-c", program, path]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


def test_an_app_without_tracing_does_not_import_opentelemetry(daemon: Start, socket_path: str) -> None:
    """OpenTelemetry is installed, but a call does not import it."""
    daemon("--no-state")
    assert tracing_modules_of_an_app(socket_path, "") == "[]\n"


def test_importing_the_api_alone_does_not_enable_tracing(daemon: Start, socket_path: str) -> None:
    """redis-py imports the API; without a provider, spans would double the time of a hit for nothing."""
    daemon("--no-state")
    modules = tracing_modules_of_an_app(socket_path, ", opentelemetry.trace")
    assert "'opentelemetry.trace'" in modules
    assert "sidecard_client.metrics.tracing" not in modules
