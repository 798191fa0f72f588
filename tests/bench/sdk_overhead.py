"""Measure what the transport adds to a call of OpenAI's SDK, for hits and misses, and compare with LiteLLM's own cache.

LiteLLM runs in a separate process, with the Python that ``LITELLM_PYTHON`` names, otherwise with this one.
"""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import httpx2
import openai

from sidecard.cli.bench.hosts import WORKER, Hosts
from sidecard.cli.bench.load import Order
from sidecard.cli.bench.rows import Effort, Row
from sidecard_client import Client
from sidecard_client.http import SidecardTransport

HERE = Path(__file__).parent
CALLS = 300
OWN_SECONDS = 100e-6
"""How much of a hit's time may be the transport's and the daemon's; the rest is the SDK's and its HTTP library's.

Rows compare a hit with a call that consists of the rest. The gate cannot use the difference of the two: it varies more than either.
"""
WARM_UP = 20


def sdk_overhead(hosts: Hosts, _: Effort) -> list[Row]:
    """Compare hits and misses with direct calls, and hits with LiteLLM's cache in memory."""
    model = hosts.processes.start(
        sys.executable, "-m", "tests.bench.llm_server_process", stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert model.stdout is not None
    url = model.stdout.readline().decode().strip()
    rows: list[Row] = []
    for stream, what in ((False, "answer"), (True, "stream")):
        times = _measure(url, hosts.sockets["sidecard"], stream=stream)
        at_once = times["at_once"]
        own, own_of_view = times["hit"] - at_once, times["view"] - at_once
        limit = 1 + OWN_SECONDS / at_once
        figures = {f"{kind}_seconds": seconds for kind, seconds in times.items() if kind != "second"}
        figures |= {"own_seconds": own, "added_by_miss_seconds": times["miss"] - times["direct"]}
        of_view = figures | {"own_seconds": own_of_view}
        rows += [
            Row(f"SDK hit, {what}, against a direct call", 1.0, times["hit"] / times["direct"], figures=figures),
            Row(f"SDK miss, {what}, against a direct call", 1.75, times["miss"] / times["direct"], figures=figures),
            Row(f"SDK hit, {what}, against one answered at once", limit, times["hit"] / at_once, figures=figures),
            Row(
                f"SDK hit from a view, {what}, against one answered at once",
                limit,
                times["view"] / at_once,
                figures=of_view,
            ),
        ]

    return [*rows, *_against_litellm(hosts, url, rows[0].figures)]


def _measure(url: str, socket: str, *, stream: bool) -> dict[str, float]:
    """Return the median seconds of a direct call, a miss, a hit, a call that its transport answers at once, and a hit from a view.

    They are interleaved, with a model that takes no time. The second hit of an answer publishes it, so the third is from a view.
    """
    with (
        Client(socket) as sidecard,
        httpx2.Client(transport=SidecardTransport(sidecard=sidecard)) as shared,
        httpx2.Client() as direct,
        httpx2.Client(transport=httpx2.MockTransport(_answers(direct, url, stream=stream))) as at_once,
    ):
        clients = {
            "direct": direct,
            "miss": shared,
            "hit": shared,
            "second": shared,
            "at_once": at_once,
            "view": shared,
        }
        times: dict[str, list[float]] = {kind: [] for kind in clients}
        models = {
            kind: openai.OpenAI(base_url=f"{url}/v1", api_key="k", http_client=http_client, max_retries=0)
            for kind, http_client in clients.items()
        }
        for number in range(CALLS + WARM_UP):
            # Sockets of different runs differ, so each run's first request for a question is a miss.
            messages: Any = [{"role": "user", "content": f"{'stream' if stream else 'answer'} {number} of {socket}"}]
            for kind, llm in models.items():
                began = perf_counter()
                answer = llm.chat.completions.create(model="m", messages=messages, stream=stream)
                if stream:
                    for _ in answer:
                        pass

                if number >= WARM_UP:
                    times[kind].append(perf_counter() - began)

    return {kind: median(seconds) for kind, seconds in times.items()}


def _answers(http: httpx2.Client, url: str, *, stream: bool) -> Callable[[httpx2.Request], httpx2.Response]:
    """Return a handler that gives the model's answer to every request, unread as a transport gives it."""
    body = {"model": "m", "messages": [{"role": "user", "content": "at once"}], "stream": stream}
    answer = http.post(f"{url}/v1/chat/completions", json=body)
    headers = {"content-type": answer.headers["content-type"]}
    return lambda _: httpx2.Response(200, headers=headers, stream=httpx2.ByteStream(answer.content))


def _against_litellm(hosts: Hosts, url: str, ours: Mapping[str, float]) -> list[Row]:
    """Compare with LiteLLM; ``ours`` has the seconds of our hits of answers."""
    what = "SDK hit, against litellm.completion() with its cache in memory"
    what_view = "SDK hit from a view, against litellm.completion() with its cache in memory"
    what_lookup = "hit from a view, against LiteLLM's cache in memory, asked directly"
    python = os.environ.get("LITELLM_PYTHON")
    if python is None and importlib.util.find_spec("litellm") is None:
        missing = "LiteLLM: name a Python that has it with LITELLM_PYTHON"
        return [Row(one, 1.0, missing=missing) for one in (what, what_view, what_lookup)]

    command = [python or sys.executable, str(HERE / "litellm_worker.py"), url, str(CALLS)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout
    times = json.loads(output.splitlines()[-1])
    theirs, lookup = median(times["hit"]), median(times["lookup"])
    (worker,) = hosts.workers(1, WORKER, "sidecard")
    view = worker.perform(Order("single", count=CALLS)).seconds
    hits = [(what, ours["hit_seconds"]), (what_view, ours["view_seconds"])]
    return [
        *(
            Row(one, 1.0, seconds / theirs, figures={"sidecard_seconds": seconds, "litellm_seconds": theirs})
            for one, seconds in hits
        ),
        Row(what_lookup, 1.0, view / lookup, figures={"view_seconds": view, "litellm_seconds": lookup}),
    ]
