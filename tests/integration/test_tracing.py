"""Spans of calls, as an app's own OpenTelemetry gets them; and nothing of it where the app has none."""

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
    """Run a scenario, and return its spans in the order in which they ended."""
    done = subprocess.run(
        [sys.executable, "-W", "error", tracing_app.__file__, path, scenario],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("scenario", ["blocking", "asynchronous", "on trio"])
def test_each_call_is_a_span(daemon: Start, socket_path: str, scenario: str) -> None:
    """By the GenAI conventions, with what the SDK traces below it; and without a word of what was said."""
    daemon("--no-state")
    sdk, upstream, cached, failed = told = spans(socket_path, scenario)
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
    for span in told:
        assert "PROMPT" not in span["all"]
        assert "SECRET" not in span["all"]


def test_who_is_served_anothers_call_points_at_its_span(daemon: Start, socket_path: str) -> None:
    """So that a trace that waited shows for what; the daemon's histogram has the trace as an exemplar."""
    daemon("--no-state")
    told = {span["attributes"]["sidecard.source"]: span for span in spans(socket_path, "sharing")}
    assert told["shared"]["links"] == [told["upstream"]["id"]]
    assert told["upstream"]["links"] == []
    assert samples(socket_path)["sidecard_upstream_seconds_count backend=default"] == 1.0


@pytest.mark.parametrize("scenario", ["broken", "half broken"])
def test_a_tracing_library_that_fails_fails_no_call(daemon: Start, socket_path: str, scenario: str) -> None:
    """Values and exceptions arrive as they are."""
    daemon("--no-state")
    assert spans(socket_path, scenario) == []


def test_a_span_that_cannot_be_current_ends_all_the_same(daemon: Start, socket_path: str) -> None:
    """It is exported, and the call is made."""
    daemon("--no-state")
    (span,) = spans(socket_path, "without context")
    assert span["attributes"]["sidecard.source"] == "upstream"


@pytest.mark.parametrize("scenario", ["unshared", "unshared asynchronous"])
def test_what_a_call_used_and_where_it_failed_is_told_also_where_nothing_is_shared(
    daemon: Start, socket_path: str, scenario: str
) -> None:
    """Of a value that stays with its caller, and without a daemon."""
    daemon("--no-state")
    made, failed, alone, failed_alone = spans(socket_path, scenario)
    assert [span["attributes"]["sidecard.source"] for span in (made, alone)] == ["upstream", "fallback"]
    for span in (made, alone):
        assert span["attributes"]["gen_ai.usage.input_tokens"] == 3

    for span in (failed, failed_alone):
        assert span["status"] == "ERROR"
        assert span["attributes"]["gen_ai.provider.name"] == "cloud"
        assert "PROMPT" not in span["all"]


def test_an_app_without_tracing_imports_nothing_of_it(daemon: Start, socket_path: str) -> None:
    """Though it is installed."""
    daemon("--no-state")
    program = (
        "import sys; from sidecard_client import Client\n"
        "with Client(sys.argv[1]) as client: client.call(str, 1, name='f'); client.call(str, 1, name='f')\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry') or 'tracing' in name])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, socket_path], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "[]\n"


def test_a_library_that_imports_it_makes_nobody_trace(daemon: Start, socket_path: str) -> None:
    """redis-py does, and then each hit would take twice as long for spans that go nowhere."""
    daemon("--no-state")
    program = (
        "import sys; import opentelemetry.trace; from sidecard_client import Client\n"
        "with Client(sys.argv[1]) as client: client.call(str, 1, name='f'); client.call(str, 1, name='f')\n"
        "print('sidecard_client.metrics.tracing' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, socket_path], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout == "False\n"
