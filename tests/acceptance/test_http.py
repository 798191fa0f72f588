"""The HTTP listener of a real daemon: what scrapers, browsers, health checks and strangers get."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sidecard_client import Client
from tests.daemons import Daemon, ask, poll
from tests.servers import free_port

Start = Callable[..., Daemon]
Serve = Callable[..., str]


@pytest.fixture
def serve(daemon: Start) -> Serve:
    """Start a daemon with a listener, and return its URL."""

    def start(*flags: str) -> str:
        port = free_port()
        daemon("--no-state", f"--set=http.listen=127.0.0.1:{port}", *flags)
        return f"http://127.0.0.1:{port}"

    return start


def raw(url: str, request: bytes) -> bytes:
    """Send bytes, and return all that comes back."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        received = b""
        while data := connection.recv(65536):
            received += data

    return received


def test_scrape_has_the_requested_format(serve: Serve, socket_path: str) -> None:
    """The scrape has the daemon's and the apps' metrics, and promtool finds no fault with it."""
    url = serve()
    with Client(socket_path) as client:
        client.call(str, 1, name="f")
        client.counter("pages", "Pages.").inc(3)
        assert client.flush_metrics(5.0)

    text = httpx.get(f"{url}/metrics")
    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "pages_total 3.0" in text.text
    openmetrics = httpx.get(f"{url}/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")
    if shutil.which("promtool") is not None:
        done = subprocess.run(["promtool", "check", "metrics"], input=text.content, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (0, b"")


def test_health_is_503_only_while_the_daemon_drains(daemon: Start, socket_path: str) -> None:
    """An open breaker is reported and does not make the daemon unhealthy."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    one = daemon("--no-state", f"--set=http.listen=127.0.0.1:{port}", "--set=backends.cloud.weight=1")
    ask(socket_path, {"op": "breaker", "backend": "cloud", "action": "open"})
    healthy = httpx.get(f"{url}/health")
    assert healthy.status_code == 200
    assert "cloud" in healthy.json()["reasons"][0]
    with socket.socket(socket.AF_UNIX) as holder:
        holder.connect(socket_path)
        holder.sendall(b'{"op":"begin","key":"k"}\n')
        holder.recv(4096)
        one.process.terminate()
        poll(lambda: httpx.get(f"{url}/health").status_code == 503, "it does not say that it drains")
        assert httpx.get(f"{url}/health").json()["status"] == "draining"


@pytest.fixture(scope="module")
def shared_url(module_daemon: Start) -> str:
    """Start a daemon for several tests, and return its URL."""
    port = free_port()
    module_daemon("--no-state", f"--set=http.listen=127.0.0.1:{port}")
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "said"),
    [
        ("GET", "/nothing", {}, b"", 404, "use /, /health"),
        ("POST", "/metrics", {}, b"", 405, "The method POST is not allowed"),
        ("GET", "/v1/metrics", {}, b"", 405, "The method GET is not allowed"),
        ("GET", "/health", {"Host": "evil.example"}, b"", 421, "http.allow_hosts"),
        ("POST", "/v1/metrics", {}, b"cost=1", 415, "Content-Type: application/json"),
        ("POST", "/v1/metrics", {"Content-Type": "text/plain"}, b"{}", 415, "Content-Type: application/json"),
        ("POST", "/v1/metrics", {"Content-Type": "application/json"}, b"{", 400, "not JSON"),
        ("POST", "/v1/metrics", {"Content-Type": "application/json"}, b'{"cost":-1}', 400, "cost"),
        ("POST", "/v1/metrics", {"Content-Type": "application/json"}, b" " * 70_000, 413, "65536 bytes"),
        ("GET", "/v1/history?after=x", {}, b"", 400, "after"),
        ("GET", "/assets/../http.py", {}, b"", 404, "Unknown path"),
        ("GET", "/assets/%2e%2e/http.py", {}, b"", 404, "Unknown path"),
    ],
)
def test_invalid_request_is_answered_by_a_sentence(
    shared_url: str, method: str, path: str, headers: dict[str, str], body: bytes, status: int, said: str
) -> None:
    """The error is JSON, and the next request on the connection is served."""
    with httpx.Client(base_url=shared_url) as client:
        answer = client.request(method, path, headers=headers, content=body)
        assert (answer.status_code, said in answer.json()["error"]) == (status, True), answer.text
        assert client.get("/health").status_code == 200


def test_responses_have_security_headers(serve: Serve) -> None:
    """Responses allow only the page's own script, no frame and no sniffing, are not stored, and do not name the server."""
    url = serve()
    for path in ("/", "/assets/style.css", "/metrics", "/v1/summary", "/nothing"):
        headers = httpx.get(url + path).headers
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert not {"server", "access-control-allow-origin"} & set(headers)

    page = httpx.get(f"{url}/")
    assert page.headers["content-type"].startswith("text/html")
    assert httpx.head(f"{url}/").content == b""


def test_known_host_name_is_answered(serve: Serve) -> None:
    """A configured host name is served, as behind a reverse proxy or in a pod."""
    url = serve('--set=http.allow_hosts=["openpipe"]')
    assert httpx.get(f"{url}/health", headers={"Host": "openpipe:3000"}).status_code == 200


def test_hostile_http_clients_delay_no_other(serve: Serve, socket_path: str) -> None:
    """Garbage, endless headers and silent connections delay no peer on either socket."""
    url = serve()
    assert b"400" in raw(url, b"\x00\x01nonsense\r\n\r\n").split(b"\r\n")[0]
    assert b"400" in raw(url, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000).split(b"\r\n")[0]
    port = int(url.rpartition(":")[2])
    crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    try:
        for one in crowd:
            one.sendall(b"GET / HT")

        assert httpx.get(f"{url}/health").status_code == 200
        with Client(socket_path) as client:
            assert client.outcome(str, 1, name="f").source == "upstream"
    finally:
        for one in crowd:
            one.close()


def test_http_on_a_unix_socket_serves(daemon: Start, socket_directory: Path) -> None:
    """The socket is as private as the daemon's own, is removed with it, and accepts any host name."""
    path = socket_directory / "http.sock"
    one = daemon("--no-state", f"--set=http.listen={path}")
    assert path.stat().st_mode & 0o777 == 0o660
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
        assert client.get("http://whatever/health").json()["status"] == "ok"

    assert one.terminate() == 0
    assert not path.exists()


def start_in_vain(socket_path: str, listen: object) -> "subprocess.CompletedProcess[str]":
    """Start a daemon with an HTTP address that it cannot use."""
    command = [sys.executable, "-m", "sidecard", "serve", "--no-state", "--socket", socket_path]
    return subprocess.run(
        [*command, f"--set=http.listen={listen}"], capture_output=True, text=True, check=False, timeout=30
    )


def test_address_in_use_is_reported_at_the_start(socket_path: str) -> None:
    """The error says what to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = start_in_vain(socket_path, listen)

    assert done.returncode != 0
    assert f"cannot listen on {listen} for HTTP" in done.stderr
    assert not Path(socket_path).exists()


def test_posted_call_is_counted_without_its_prompt(serve: Serve) -> None:
    """A posted call is counted, and its prompt is nowhere."""
    url = serve()
    call: dict[str, Any] = {
        "prompt": "CANARY",
        "response_length": 3,
        "latency_ms": 12.5,
        "cost": 0.25,
        "task_type": "rag",
    }
    assert httpx.post(f"{url}/v1/metrics", json=call).json() == {"recorded": 4, "dropped": 0}
    text = httpx.get(f"{url}/metrics").text
    assert 'openpipe_calls_total{success="true",task="rag"} 1.0' in text
    assert 'openpipe_cost_dollars_total{task="rag"} 0.25' in text
    assert "CANARY" not in text


def test_socket_path_in_use_is_reported_with_its_setting(socket_path: str, tmp_path: Path) -> None:
    """The error names the HTTP setting, not the daemon's own socket."""
    taken = tmp_path / "file"
    taken.write_text("somebody's")
    done = start_in_vain(socket_path, taken)
    assert done.returncode != 0
    assert f"{taken} exists and is not a socket: remove it, or choose another http.listen" in done.stderr
    assert taken.read_text() == "somebody's"
