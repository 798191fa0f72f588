"""The client code of the blueprint, as it was written, against the HTTP listener; and the same stack on `sidecard_client.openpipe`.

The blueprint is no part of this repository: it is looked for beside it, and where `SIDECARD_BLUEPRINT` says.
"""

import logging
import os
import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from sidecard_client import Client
from tests.daemons import Daemon
from tests.servers import free_port

BESIDE = Path(__file__).parents[3] / "shared" / "blueprint.md"
BLUEPRINT = Path(os.environ.get("SIDECARD_BLUEPRINT", BESIDE))

pytestmark = pytest.mark.skipif(
    not BLUEPRINT.is_file(), reason="the blueprint is not here: name it in SIDECARD_BLUEPRINT"
)


class Llm:
    """A model that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    async def generate(self, prompt: str) -> str:
        """Answer after a while, so that duplicates meet."""
        self.calls += 1
        await anyio.sleep(0.05)
        return f"answer to {prompt}"


class Proxy:
    """What the blueprint's module of breakers has; it is not part of what is printed."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def call(self, function: Callable[[], Any]) -> Any:
        """Pass the call on."""
        return await function()


@pytest.fixture
def module() -> Iterator[Any]:
    """Run the module that the blueprint prints, with stand-ins for what it imports from the user's stack."""
    blocks = re.findall(r"```python\n(.*?)(?:```|\Z)", BLUEPRINT.read_text(encoding="utf-8"), re.DOTALL)
    source = next(block for block in blocks if "class OpenPipeClient" in block)
    package = "blueprint_stack"
    surroundings: dict[str, dict[str, Any]] = {
        package: {"__path__": []},
        f"{package}.config_loader": {"load_config": dict},
        f"{package}.logging_config": {"get_logger": logging.getLogger},
        f"{package}.circuit_breakers": {"CircuitBreakerProxy": Proxy},
    }
    for name, contents in surroundings.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(contents)

    printed = types.ModuleType(f"{package}.openpipe_integration")
    printed.__package__ = package
    exec(compile(source, str(BLUEPRINT), "exec"), vars(printed))  # noqa: S102 - the point of this test
    yield printed
    for name in surroundings:
        del sys.modules[name]


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, as the blueprint's code does."""
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.filterwarnings("ignore:Call to deprecated close:DeprecationWarning")  # the blueprint's own, of redis-py
async def test_the_blueprints_client_hits_metrics_and_summary_and_reads_sense(
    daemon: Callable[..., Daemon], socket_path: str, module: Any
) -> None:
    """Its numbers are exposed with the daemon's, and the summary has what its users look for, measured."""
    port = free_port()
    daemon("--no-state", f"--set=http.listen=127.0.0.1:{port}")
    url = f"http://127.0.0.1:{port}"
    client = module.OpenPipeClient({"openpipe": {"base_url": url, "api_key": "none"}, "redis": {"host": "127.0.0.1"}})
    assert await client.initialize()
    await client.record_metrics("why?", "because", 12.5, 0.002, success=True, task_type="rag")
    await client.record_metrics("why?", "no", 30.0, 0.0, success=False, task_type="rag")
    with Client(socket_path) as sidecard:
        for _ in range(4):
            await anyio.to_thread.run_sync(lambda: sidecard.call(str, "x", name="f", task="rag"))

    summary = await client.get_performance_summary()
    await client.shutdown()
    assert summary["total_requests"] == 4
    assert summary["cache_hit_rate"] == 0.75
    assert summary["deduplication_rate"] == 0.0
    assert 0.0 < summary["avg_latency_reduction"] <= 1.0
    async with httpx.AsyncClient() as scraper:
        text = (await scraper.get(f"{url}/metrics")).text

    assert 'openpipe_calls_total{success="true",task="rag"} 1.0' in text
    assert 'openpipe_calls_total{success="false",task="rag"} 1.0' in text
    assert 'openpipe_latency_seconds_count{task="rag"} 2.0' in text
    assert 'openpipe_cost_dollars_total{task="rag"} 0.002' in text
