"""Commands that query a daemon, run as a shell runs them."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from sidecard_client import Client
from tests.daemons import Daemon, poll

pytestmark = pytest.mark.usefixtures("patient_clients")

Start = Callable[..., Daemon]


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run one command to its end, with only ``environ`` as settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SIDECARD_")}
    return subprocess.run(
        [sys.executable, "-m", "sidecard", *arguments],
        env=clean | environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def answer(question: str) -> str:
    """Simulate a model."""
    return f"answer to {question}"


def down(_: str) -> str:
    """Simulate a failing backend."""
    raise ConnectionError


def test_ping_with_flag_or_environment_finds_the_daemon(daemon: Start, socket_path: str) -> None:
    """The socket is given by flag or by environment."""
    daemon()
    by_flag, by_environment = run("ping", "--socket", socket_path), run("ping", SIDECARD_SOCKET=socket_path)
    assert (by_flag.returncode, by_environment.returncode) == (0, 0)
    assert f"answered at {socket_path}" in by_flag.stdout


def test_commands_without_a_daemon_exit_69_and_name_the_socket(socket_path: str) -> None:
    """The error says what to start, and standard output is empty."""
    for command in (
        ["ping"],
        ["stats"],
        ["report"],
        ["metrics"],
        ["log-level", "debug"],
        ["reload"],
        ["purge", "--all"],
        ["watch"],
        ["config", "show", "--running"],
    ):
        result = run(*command, "--socket", socket_path, "--json")
        assert (result.returncode, result.stdout) == (69, ""), command
        assert socket_path in result.stderr
        assert "sidecard serve" in result.stderr


def test_report_shows_calls_in_text_and_json(daemon: Start, socket_path: str) -> None:
    """Without calls the report is a sentence; JSON has the wire's fields."""
    daemon()
    assert run("report", "--socket", socket_path).stdout.startswith("no calls yet")
    with Client(socket_path) as client:
        for _ in range(4):
            client.call(answer, "why?", task="rag")

    report = json.loads(run("report", "--socket", socket_path, "--json").stdout)
    assert (report["total"]["calls"], report["tasks"]["rag"]["hits"]) == (4, 3)
    assert report["total"]["hit_rate"] == 0.75
    assert "75.0 %" in run("report", "--socket", socket_path).stdout


def test_stats_agree_in_text_and_json(daemon: Start, socket_path: str) -> None:
    """Text and JSON show the same counter."""
    daemon()
    with Client(socket_path) as client:
        client.put("key", "value")

    assert json.loads(run("stats", "--socket", socket_path, "--json").stdout)["cache_entries"] == 1
    assert ["entries", "1"] in [line.split() for line in run("stats", "--socket", socket_path).stdout.split("\n")]


def test_metrics_are_valid_in_both_formats(daemon: Start, socket_path: str) -> None:
    """Both formats contain the metrics of apps and daemon, and pass Prometheus' own checks."""
    daemon()
    with Client(socket_path) as client:
        client.call(answer, "why?")
        client.counter("pages", "Pages read.").labels(kind='a\n"b\\').inc(2)
        client.counter("lamps").labels(room="\x1b[2Jhall").inc()
        assert client.flush_metrics(5.0)

    text = run("metrics", "--socket", socket_path)
    openmetrics = run("metrics", "--socket", socket_path, "--format", "openmetrics")
    as_json = json.loads(run("metrics", "--socket", socket_path, "--json").stdout)
    assert (text.returncode, openmetrics.returncode) == (0, 0)
    assert 'pages_total{kind="a\\n\\"b\\\\"} 2.0' in text.stdout
    assert 'lamps_total{room="\\\\x1b[2Jhall"} 1.0' in text.stdout
    assert "\x1b" not in text.stdout + openmetrics.stdout
    assert openmetrics.stdout.endswith("# EOF\n")
    assert {"pages", "sidecard_requests"} <= {family["name"] for family in as_json["families"]}
    families = text_string_to_metric_families(openmetrics.stdout)  # type: ignore[no-untyped-call]  # it has no types
    assert "pages" in {family.name for family in families}
    if shutil.which("promtool") is not None:
        checked = subprocess.run(
            ["promtool", "check", "metrics"], input=text.stdout, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_log_level_is_set_and_logged(daemon: Start, socket_path: str) -> None:
    """An unknown level is a usage error."""
    one = daemon()
    done = run("log-level", "--socket", socket_path, "debug")
    assert (done.returncode, done.stdout) == (0, "log level set to debug\n")
    poll(lambda: "log level set" in one.output(), "the new level was not logged")
    assert run("log-level", "--socket", socket_path, "loud").returncode == 2


def test_purge_removes_only_selected_entries(daemon: Start, socket_path: str) -> None:
    """Both a filter and ``--all``, or neither, is a usage error."""
    daemon()
    with Client(socket_path) as client:
        client.put("one", 1, tags=["odd"])
        client.put("two", 2)
        assert run("purge", "--socket", socket_path).returncode == 2
        assert run("purge", "--socket", socket_path, "--all", "--tag", "odd").returncode == 2
        assert (client.get("one"), client.get("two")) == (1, 2)
        assert run("purge", "--socket", socket_path, "--tag", "odd", "--task", "rag").stdout == "0 entries removed\n"
        assert run("purge", "--socket", socket_path, "--tag", "odd").stdout == "1 entry removed\n"
        assert (client.get("one"), client.get("two")) == (None, 2)
        assert json.loads(run("purge", "--socket", socket_path, "--all", "--json").stdout)["count"] == 1
        assert client.get("two") is None


def test_purge_of_an_unknown_task_names_the_nearest(daemon: Start, socket_path: str) -> None:
    """Nothing is removed, and the name may be misspelled."""
    daemon()
    with Client(socket_path) as client:
        client.call(str, 1, name="f", task="rag")

    misspelled = run("purge", "--socket", socket_path, "--task", "rga")
    assert (misspelled.returncode, misspelled.stdout) == (0, "0 entries removed\n")
    assert "there has been no call of a task 'rga'; did you mean 'rag'? Known: 'rag'" in misspelled.stderr
    assert run("purge", "--socket", socket_path, "--task", "rag").stdout == "1 entry removed\n"
    assert run("purge", "--socket", socket_path, "--task", "rag").stderr == ""


def test_breakers_are_shown_and_set(daemon: Start, socket_path: str) -> None:
    """Exit code 1 means that a breaker has tripped; one opened by an operator has not."""
    daemon("--set", "backends.cloud.breaker.min_calls=1")
    with Client(socket_path) as client, pytest.raises(ConnectionError):
        client.call(down, "a", backend="cloud")

    shown = run("breakers", "--socket", socket_path)
    assert shown.returncode == 1
    assert "cloud" in shown.stdout
    assert "Too many calls failed" in shown.stdout
    assert run("breakers", "open", "cloud", "--socket", socket_path).returncode == 0
    as_json = run("breakers", "--json", "--socket", socket_path)
    assert as_json.returncode == 0
    assert json.loads(as_json.stdout)["backends"]["cloud"]["state"] == "forced_open"
    assert run("breakers", "close", "cloud", "--socket", socket_path).returncode == 0
    mistyped = run("breakers", "open", "clouud", "--socket", socket_path)
    assert mistyped.returncode == 1
    assert "did you mean 'cloud'?" in mistyped.stderr
    assert "closed" in run("breakers", "--socket", socket_path).stdout


def test_breakers_action_without_a_backend_is_a_usage_error(daemon: Start, socket_path: str) -> None:
    """The error shows the complete command."""
    daemon()
    refused = run("breakers", "open", "--socket", socket_path)
    assert refused.returncode == 2
    assert "sidecard breakers open BACKEND" in refused.stderr


def test_config_show_names_the_source_of_values(daemon: Start, socket_path: str) -> None:
    """The settings are those of the command, or of the running daemon."""
    daemon("--set", "cache.ttl_seconds=7")
    would_be = json.loads(run("config", "show", "--json", SIDECARD_CACHE_TTL_SECONDS="9").stdout)
    assert would_be["settings"]["cache.ttl_seconds"] == 9
    assert "SIDECARD_CACHE_TTL_SECONDS" in would_be["origins"]["cache.ttl_seconds"]
    running = json.loads(run("config", "show", "--running", "--json", "--socket", socket_path).stdout)
    assert running["settings"]["cache.ttl_seconds"] == 7
    assert "--set" in running["origins"]["cache.ttl_seconds"]


def test_config_check_names_every_problem_and_exits_78() -> None:
    """Problems are on standard error, or in the JSON; valid settings exit with 0."""
    wrong = {"SIDECARD_CACHE_TTL_SECONDS": "soon", "SIDECARD_LOG_LEVEL": "loud"}
    checked = run("config", "check", **wrong)
    assert (checked.returncode, checked.stdout) == (78, "")
    assert "SIDECARD_CACHE_TTL_SECONDS" in checked.stderr
    assert "SIDECARD_LOG_LEVEL" in checked.stderr
    listed = run("config", "check", "--json", **wrong)
    assert listed.returncode == 78
    assert len(json.loads(listed.stdout)["problems"]) == 2
    assert run("config", "check").returncode == 0


def test_a_socket_path_that_is_too_long_is_a_usage_error() -> None:
    """No daemon can listen there, so the exit code is not 69."""
    result = run("ping", "--socket", "/tmp/" + "x" * 200)
    assert result.returncode == 2
    assert "107 bytes" in result.stderr


def test_a_closed_pipe_is_not_an_error(daemon: Start, socket_path: str) -> None:
    """``sidecard stats | true`` prints no traceback."""
    daemon()
    command = f"{sys.executable} -m sidecard stats --socket {socket_path} | true"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_bench_cleans_up(socket_directory: Path, number: signal.Signals) -> None:
    """Its processes have ended and its directory is removed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecard", "bench", "--quick"],
        env=os.environ | {"TMPDIR": str(socket_directory)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        poll(lambda: bool(list(socket_directory.glob("*/sidecard.sock"))), "the bench did not start its daemon")
        process.send_signal(number)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()

    assert (process.returncode, stderr.split("\n")[-2]) == (
        130,
        "sidecard: interrupted; all processes of the bench have ended",
    )
    assert list(socket_directory.iterdir()) == []
