"""Attacks by metrics of apps, scrapes and reports."""

import time
from contextlib import suppress
from typing import Any

from tests.bench.bystanders.attack import Target, attack, exchange, framed

BOUNDS = [float(bound) for bound in range(1, 65)]
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
HTTP = ("http.listen=127.0.0.1:{port}",)


def _series(target: Target, count: int, labels: int = 1, label_characters: int = 8) -> None:
    """Record histograms of 64 bounds, each with labels of its own."""
    connection = target.connect()
    for start in range(0, count, 1000):
        metrics = [
            {
                "name": f"h{start // 1000}",
                "kind": "histogram",
                "value": 1.0,
                "labels": {f"l{label}": f"{number}".ljust(label_characters, "x") for label in range(labels)},
                "bounds": BOUNDS,
                "counts": [1] * 65,
            }
            for number in range(start, start + min(1000, count - start))
        ]
        connection.ask(op="record", metrics=metrics, acknowledge=True)


def _many_series(target: Target) -> None:
    _series(target, 20_000)


def _long_labels(target: Target) -> None:
    _series(target, 2_000, labels=16, label_characters=250)


def _read(connection: Any, seconds: float = 10.0) -> None:
    """Read one HTTP answer to its end, as far as it comes."""
    until = time.monotonic() + seconds
    with suppress(OSError):
        connection.settimeout(1.0)
        while time.monotonic() < until and connection.recv(1 << 20):
            pass


@attack(prepare=_many_series)
def metrics_of_20_000_histograms(target: Target) -> None:
    """`metrics` over the socket, with 20,000 histograms of 64 bounds."""
    target.connect().ask(op="metrics")


@attack(prepare=_many_series, settings=HTTP)
def scrapes_of_20_000_histograms(target: Target) -> None:
    """`GET /metrics`, with 20,000 histograms of 64 bounds."""
    _read(target.http(SCRAPE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))


@attack(prepare=_long_labels, settings=HTTP)
def scrapes_of_long_labels(target: Target) -> None:
    """`GET /metrics`, with 2,000 histograms of 16 labels of 250 characters."""
    _read(target.http(SCRAPE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))


def _busy_host(target: Target) -> None:
    _series(target, 1_000)


@attack(prepare=_busy_host, settings=HTTP)
def parallel_scrapes(target: Target) -> None:
    """8 `GET /metrics` at a time, by a uid without access to the socket."""
    connections = [target.http(SCRAPE.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) for _ in range(8)]
    for connection in connections:
        _read(connection)


@attack(prepare=_busy_host, settings=HTTP)
def pipelined_scrapes(target: Target) -> None:
    """500 pipelined HTTP requests on each of 8 connections."""
    connections = [target.http(SCRAPE * 250 + SCRAPE.replace(b"/metrics", b"/v1/summary") * 250) for _ in range(8)]
    time.sleep(0.5)
    for connection in connections:
        connection.close()


@attack(settings=HTTP, long=True)
def half_http_requests(target: Target) -> None:
    """200 HTTP requests that are never finished."""
    connections = [target.http(SCRAPE[:20]) for _ in range(200)]
    time.sleep(2.0)
    for connection in connections:
        connection.close()


@attack(long=True)
def new_series_without_end(target: Target) -> None:
    """`record` with 2,048 new label sets at a time."""
    connection = target.connect()
    for _ in range(50):
        metrics = [
            {
                "name": f"m{number % 7}",
                "kind": "counter",
                "value": 1e308,
                "labels": {"a": target.name(), "b": "y" * 900},
            }
            for number in range(2048)
        ]
        connection.ask(op="record", metrics=metrics, acknowledge=True)


@attack(processes=2, long=True)
def labels_of_32_names(target: Target) -> None:
    """`record` with 2,048 measurements of 32 labels, without an end."""
    connection = target.connect()
    metrics = [
        {"name": "wide", "kind": "gauge", "value": 1, "labels": {f"l{label}": f"{number}" for label in range(32)}}
        for number in range(2048)
    ]
    message = framed({"op": "record", "metrics": metrics})
    for _ in range(20):
        connection.socket.sendall(message)

    connection.ask(op="ping")


@attack(long=True)
def sessions_without_end(target: Target) -> None:
    """`record` of gauges with a new session name each, on new connections."""
    for _ in range(50):
        connection = target.connect()
        metrics = [
            {"name": "g", "kind": "gauge", "value": 1, "aggregate": "each", "labels": {"n": str(number)}}
            for number in range(50)
        ]
        requests = [
            {"op": "record", "metrics": metrics, "session": target.name("s" * 100), "sequence": 1, "acknowledge": True}
            for _ in range(50)
        ]
        exchange(connection, requests)
        connection.close()


def _many_tasks(target: Target) -> None:
    connection = target.connect()
    for start in range(0, 10_000, 200):
        exchange(
            connection,
            ({"op": "put", "key": "k", "value": 1, "task": f"task{number}"} for number in range(start, start + 200)),
        )
        for number in range(start, start + 200):
            lease = connection.lease(f"of {number}", task=f"task{number}", backends=[f"backend{number}"])
            usage = {"model": f"model{number}", "cost_dollars": 0.01}
            connection.ask(op="complete", lease=lease, value=1, usage=usage)


@attack(prepare=_many_tasks)
def reports_of_many_names(target: Target) -> None:
    """`report`, `stats`, `health` and `breakers` after 10,000 names of tasks, backends and models."""
    exchange(target.connect(), ({"op": op} for op in ("report", "stats", "health", "breakers") * 5))


@attack(prepare=_many_tasks, processes=4)
def reports_one_at_a_time(target: Target) -> None:
    """256 connections that each ask `report` one at a time, with many names of tasks, backends and models."""
    connections = target.crowd(64)
    message = framed({"op": "report"})
    for connection in connections:
        connection.socket.sendall(message)

    while True:
        for connection in connections:
            connection.receive()
            connection.socket.sendall(message)
