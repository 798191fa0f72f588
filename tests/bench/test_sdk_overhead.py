"""What the transport adds to a call of OpenAI's SDK, hit and miss, beside LiteLLM's own caching; ``pytest -m bench -n 0 -s``.

LiteLLM is asked in a process of its own: of the Python that ``LITELLM_PYTHON`` names, else of this one.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import httpx2
import openai
import pytest

from sidecard_client import Client
from sidecard_client.http import SidecardTransport
from tests.daemons import Daemon

HERE = Path(__file__).parent
ROUNDS = 300
WARM_UP = 20

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]


@pytest.fixture
def url() -> Iterator[str]:
    """Where a model listens that takes no time."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "llm_server_process.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(HERE.parent.parent)},
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.communicate("", timeout=10)


def measured(url: str, socket: str, *, stream: bool) -> dict[str, list[float]]:
    """Measure a call without the transport, one that misses and one that hits, in turn."""
    times: dict[str, list[float]] = {"direct": [], "miss": [], "hit": []}
    with (
        Client(socket) as sidecard,
        httpx2.Client(transport=SidecardTransport(httpx2.HTTPTransport(), sidecard)) as shared,
        httpx2.Client() as direct,
    ):
        models = {
            kind: openai.OpenAI(base_url=f"{url}/v1", api_key="k", http_client=http_client, max_retries=0)
            for kind, http_client in (("direct", direct), ("miss", shared), ("hit", shared))
        }
        for number in range(ROUNDS + WARM_UP):
            for kind, llm in models.items():
                messages: Any = [{"role": "user", "content": f"q {number}"}]
                began = time.perf_counter()
                answer = llm.chat.completions.create(model="m", messages=messages, stream=stream)
                if stream:
                    for _ in answer:
                        pass

                if number >= WARM_UP:
                    times[kind].append(time.perf_counter() - began)

    return times


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_hit_is_faster_than_the_call_and_a_miss_costs_little(
    url: str, daemon: Callable[..., Daemon], stream: bool
) -> None:
    """Even of a model that takes no time at all."""
    times = {kind: median(taken) * 1e3 for kind, taken in measured(url, daemon().socket, stream=stream).items()}
    what = "a stream" if stream else "a whole answer"
    print(
        f"\nOpenAI's SDK, {what}: direct {times['direct']:.2f} ms, miss {times['miss']:.2f} ms "
        f"(+{times['miss'] - times['direct']:.2f}), hit {times['hit']:.2f} ms"
    )
    assert times["hit"] < times["direct"]
    assert times["miss"] < 1.75 * times["direct"]


def test_beside_litellms_own_cache(url: str, daemon: Callable[..., Daemon]) -> None:
    """Its memory cache is in the process, and of one process; a hit through our socket is of all of them."""
    python = os.environ.get("LITELLM_PYTHON")
    if python is None and importlib.util.find_spec("litellm") is None:
        pytest.skip("LiteLLM is not installed: name a Python that has it with LITELLM_PYTHON")

    ours = {kind: median(taken) * 1e3 for kind, taken in measured(url, daemon().socket, stream=False).items()}
    command = [python or sys.executable, str(HERE / "litellm_worker.py"), url, str(ROUNDS)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=240).stdout
    theirs = {kind: median(taken) * 1e3 for kind, taken in json.loads(output.splitlines()[-1]).items()}
    print(
        f"\nhit: OpenAI's SDK through the sidecar {ours['hit']:.2f} ms, litellm.completion() {theirs['hit']:.2f} ms "
        f"({ours['hit'] / theirs['hit']:.2f}x); miss: {ours['miss']:.2f} ms, {theirs['miss']:.2f} ms "
        f"({ours['miss'] / theirs['miss']:.2f}x); direct call: {ours['direct']:.2f} ms"
    )
    assert ours["hit"] < theirs["hit"]
