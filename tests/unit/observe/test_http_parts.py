"""Parts of the HTTP listener without a socket: host names, formats, posted calls."""

import pytest

from sidecard.observe.http.address import TcpAddress, parse
from sidecard.observe.http.app import prefers_openmetrics
from sidecard.observe.http.guard import HostNames
from sidecard.observe.http.posted import measurements
from sidecard.observe.http.posted import parse as parse_call


@pytest.mark.parametrize(
    ("host", "admitted"),
    [
        ("localhost", True),
        ("LOCALHOST.:9464", True),
        ("127.0.0.1:9464", True),
        ("[::1]:9464", True),
        ("10.1.2.3", True),
        ("build-7:9464", True),
        ("evil.example", False),
        ("localhost.evil.example:9464", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_known_names_and_all_addresses_are_admitted(host: str, admitted: bool) -> None:
    """The owner of a name can make it resolve to this host; an address cannot be rebound."""
    assert HostNames(["Build-7"]).admit(host) is admitted


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1", True),
        ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5", False),
        ("application/openmetrics-text; version=1.0.0; q=0", False),
        ("application/openmetrics-text", True),
        ("Application/OpenMetrics-Text; Q=0.5, */*", True),
        ("text/plain;q=nonsense,application/openmetrics-text;q=0.9", False),
    ],
)
def test_openmetrics_is_sent_only_if_preferred(accept: str, openmetrics: bool) -> None:
    """Prometheus prefers it, browsers do not."""
    assert prefers_openmetrics(accept) is openmetrics


@pytest.mark.parametrize("part", [" ", ";", ",", "a ", ";q=1", "text/plain;q= "])
def test_a_long_header_is_parsed_in_linear_time(part: str) -> None:
    """A backtracking pattern would block the daemon for an hour."""
    assert prefers_openmetrics(f"{part * 500_000}x, application/openmetrics-text") is True


@pytest.mark.parametrize(
    ("listen", "place"),
    [
        ("127.0.0.1:9464", TcpAddress("127.0.0.1", 9464)),
        ("[::1]:0", TcpAddress("::1", 0)),
        ("localhost:80", TcpAddress("localhost", 80)),
        ("/run/sidecard/http.sock", "/run/sidecard/http.sock"),
    ],
)
def test_text_with_a_slash_is_a_path_and_other_text_an_address(listen: str, place: TcpAddress | str) -> None:
    """IPv6 addresses lose their brackets."""
    assert parse(listen) == place


def test_only_the_last_of_repeated_fields_is_converted() -> None:
    """64 KiB of numbers such as 1e308 would take 90 ms: here the first one is out of range, and goes unnoticed."""
    call = parse_call(b'{"cost":1e308,"unknown":[1e999],"cost":"0.5","latency_ms":7}')
    assert (call.cost, call.latency_ms) == (0.5, 7)


def test_a_posted_call_becomes_measurements() -> None:
    """In seconds and dollars; the prompt is not decoded."""
    call = parse_call(
        b'{"prompt":"CANARY","task_type":"rag","success":false,"latency_ms":250,"cost":"0.5","timestamp":1e9}'
    )
    record = measurements(call)
    measured = {(one.name, tuple(sorted(one.labels.items()))): one.value for one in record.metrics}
    assert measured == {
        ("openpipe_calls", (("success", "false"), ("task", "rag"))): 1.0,
        ("openpipe_latency_seconds", (("task", "rag"),)): 0.25,
        ("openpipe_cost_dollars", (("task", "rag"),)): 0.5,
    }
    assert "CANARY" not in repr(record)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"cost":-1}', b'{"cost":1e999}', b'{"task_type":5}', b"\xff", b"[" * 9999]
)
def test_an_invalid_body_is_an_error(body: bytes) -> None:
    """The sentence does not repeat the body."""
    with pytest.raises(ValueError, match="The body is not") as caught:
        parse_call(body)

    assert str(caught.value).endswith(".")
