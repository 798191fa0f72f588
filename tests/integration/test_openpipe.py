"""The names of the blueprint's integration on a real daemon."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from sidecard_client import Client
from sidecard_client.openpipe import (
    OpenPipeClient,
    OpenPipeIntegrationManager,
    OpenPipeLLMWrapper,
    get_performance_report,
    openpipe_manager,
)
from tests.daemons import Daemon, poll
from tests.metrics import samples

Start = Callable[..., Daemon]

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("patient_clients")]


@pytest.fixture
def anyio_backend() -> str:
    """Run on asyncio, like the original."""
    return "asyncio"


class Llm:
    """A model that counts its calls, each of which takes ``seconds``."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls = 0
        self.seconds = seconds

    async def generate(self, prompt: str) -> str:
        """Answer."""
        self.calls += 1
        await asyncio.sleep(self.seconds)
        if prompt == "bad":
            raise ValueError(prompt)

        return f"answer to {prompt}"


def holding(path: str) -> "subprocess.Popen[bytes]":
    """Start a process whose call never ends."""
    program = (
        "import asyncio, sys\n"
        "from sidecard_client.openpipe import OpenPipeClient, OpenPipeLLMWrapper\n"
        "class Llm:\n"
        "    async def generate(self, prompt): await asyncio.sleep(600)\n"
        "async def main():\n"
        "    client = OpenPipeClient({'openpipe': {'socket': sys.argv[1]}})\n"
        "    await client.initialize()\n"
        "    await OpenPipeLLMWrapper(Llm(), client).generate('why?')\n"
        "asyncio.run(main())"
    )
    return subprocess.Popen([sys.executable, "-c", program, path])


class PlainLlm(Llm):
    """A model that is not asynchronous."""

    def generate(self, prompt: str) -> str:  # type: ignore[override]  # as many are
        """Answer."""
        self.calls += 1
        return f"answer to {prompt}"


@pytest.fixture
async def client(daemon: Start, socket_path: str) -> AsyncIterator[OpenPipeClient]:
    """Open a client of a daemon."""
    daemon("--no-state")
    one = OpenPipeClient(
        {"openpipe": {"socket": socket_path, "api_key": "x", "cache_ttl": 60}, "redis": {"host": "gone"}}
    )
    assert await one.initialize()
    yield one
    await one.shutdown()


async def test_duplicates_await_the_real_answer(client: OpenPipeClient) -> None:
    """Twenty concurrent callers make one call; the next one gets a hit."""
    llm = Llm(0.1)
    wrapper = OpenPipeLLMWrapper(llm, client, "rag")
    assert set(await asyncio.gather(*(wrapper.generate("why?") for _ in range(20)))) == {"answer to why?"}
    assert await wrapper.generate("why?") == "answer to why?"
    assert llm.calls == 1
    assert await client.get_cached_response("why?", task_type="rag") == "answer to why?"
    summary = await client.get_performance_summary()
    assert (summary["total_requests"], summary["shared_requests"], summary["cache_hits"]) == (21, 19, 1)
    assert summary["cache_hit_rate"] == pytest.approx(1 / 21)


async def test_a_failure_reaches_its_caller_and_blocks_no_key(client: OpenPipeClient) -> None:
    """The next caller of the key makes its own call."""
    llm = Llm()
    wrapper = OpenPipeLLMWrapper(llm, client)
    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            await wrapper.generate("bad")

    assert llm.calls == 2


async def test_prompt_context_and_task_make_the_key(client: OpenPipeClient) -> None:
    """Requests that differ in one of them are not shared, with a plain model too."""
    llm = PlainLlm()
    for context in ({"language": "de"}, {"language": "en"}, None, {"language": "de"}):
        assert await OpenPipeLLMWrapper(llm, client).generate("why?", context) == "answer to why?"

    await OpenPipeLLMWrapper(llm, client, "rag").generate("why?")
    assert llm.calls == 4


async def test_the_originals_separate_steps_work_too(client: OpenPipeClient) -> None:
    """Get, deduplicate, fetch and store, each by its own method."""
    assert await client.get_cached_response("why?") is None
    assert await client.deduplicate_request("why?") is False
    await client.cache_response("why?", "because")
    assert await client.get_cached_response("why?") == "because"
    assert await client.deduplicate_request("why?") is True


async def test_deduplicate_request_waits_for_the_other_callers_answer(client: OpenPipeClient) -> None:
    """It returns when the answer is stored."""
    wrapper = OpenPipeLLMWrapper(Llm(0.2), client)
    fetching = asyncio.ensure_future(wrapper.generate("why?"))
    while not (await client.sidecard.stats()).flights:  # noqa: ASYNC110 - of a daemon that sets no event here
        await asyncio.sleep(0.005)

    assert await client.deduplicate_request("why?") is True
    assert await client.get_cached_response("why?") == await fetching


async def test_metrics_are_counted(client: OpenPipeClient, socket_path: str) -> None:
    """The metrics have the names of ``POST /v1/metrics``."""
    await client.record_metrics("why?", "because", 12.5, 0.25, success=True, task_type="rag")
    await asyncio.to_thread(client.sidecard.flush_metrics, 5.0)
    exposed = samples(socket_path)
    assert exposed["openpipe_calls_total success=true task=rag"] == 1.0
    assert exposed["openpipe_latency_seconds_sum task=rag"] == 0.0125
    assert exposed["openpipe_cost_dollars_total task=rag"] == 0.25


async def test_an_application_starts_and_ends_the_manager(
    daemon: Start, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`openpipe_manager` takes its settings from the environment; start and end may run in different tasks."""
    daemon("--no-state")
    for name, value in {"SIDECARD_SOCKET": socket_path, "CACHE_TTL": "60", "SOVEREIGN_MODE": "true"}.items():
        monkeypatch.setenv(name, value)

    llm = Llm()
    assert openpipe_manager.create_llm_wrapper(llm, "rag") is llm
    assert await get_performance_report() == {"status": "disabled"}
    assert await asyncio.ensure_future(openpipe_manager.initialize())
    wrapper = openpipe_manager.create_llm_wrapper(llm, "rag", usage=lambda _: {"model": "m", "cost_dollars": 0.5})
    for _ in range(2):
        assert await wrapper.generate("why?") == "answer to why?"

    report: dict[str, Any] = await get_performance_report()
    assert report["integration_status"] == "active"
    assert report["local_metrics"]["cache_hit_rate"] == 0.5
    assert report["openpipe_summary"]["saved_dollars"] == 0.5
    await asyncio.ensure_future(openpipe_manager.shutdown())
    assert await get_performance_report() == {"status": "disabled"}


async def test_without_a_daemon_calls_are_made(socket_path: str) -> None:
    """They are made once per process and key and not stored, and the report says why it is empty."""
    manager = OpenPipeIntegrationManager({"openpipe": {"socket": socket_path}})
    assert await manager.initialize()
    llm = Llm(0.05)
    wrapper = manager.create_llm_wrapper(llm, "rag")
    assert set(await asyncio.gather(*(wrapper.generate("why?") for _ in range(5)))) == {"answer to why?"}
    assert llm.calls == 1
    client = manager.openpipe_client
    assert client is not None
    assert await client.deduplicate_request("why?", task_type="rag") is False
    await client.cache_response("why?", "because")
    assert await client.get_cached_response("why?") is None
    assert (await manager.get_performance_report())["integration_status"] == "no daemon answers"
    await manager.shutdown()


async def test_an_invalid_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and its value."""
    monkeypatch.setenv("CACHE_TTL", "soon")
    with pytest.raises(ValueError, match="CACHE_TTL should be a number of seconds, not 'soon'"):
        await OpenPipeIntegrationManager().initialize()


async def test_sovereign_mode_accepts_words() -> None:
    """A configuration made of the environment has words for flags; a missing section is an empty one."""
    for word, flag in (("false", False), ("On", True), (True, True)):
        assert OpenPipeClient({"openpipe": {"sovereign_mode": word}}).sovereign_mode is flag

    assert OpenPipeClient({"openpipe": None}).sovereign_mode is True
    with pytest.raises(ValueError, match=r"sovereign_mode should be one of true, 1, .* not 'perhaps'"):
        OpenPipeClient({"openpipe": {"sovereign_mode": "perhaps"}})


async def test_a_waiter_replaces_a_killed_holder(client: OpenPipeClient, socket_path: str) -> None:
    """In the original the key stayed blocked until a time-out, and the others got a placeholder."""
    holder = holding(socket_path)
    with Client(socket_path) as watching:
        await asyncio.to_thread(poll, lambda: watching.stats().leases == 1, "no lease")
        waiting = asyncio.ensure_future(OpenPipeLLMWrapper(Llm(), client).generate("why?"))
        await asyncio.to_thread(poll, lambda: watching.stats().waiters == 1, "no waiter")

    holder.kill()
    holder.wait()
    assert await waiting == "answer to why?"


def test_a_client_works_in_one_event_loop_after_another(socket_path: str) -> None:
    """Also without a shutdown in between: a test runner has one loop per test."""
    one = OpenPipeClient({"openpipe": {"socket": socket_path}})
    for shuts_down in (True, False, True):

        async def use(*, shuts_down: bool = shuts_down) -> str:
            await one.initialize()
            await asyncio.sleep(0)
            answer = await OpenPipeLLMWrapper(Llm(), one).generate("why?")
            if shuts_down:
                await one.shutdown()

            return answer

        assert asyncio.run(use()) == "answer to why?"


async def test_concurrent_initialize_opens_one_client(socket_path: str) -> None:
    """All callers find it open, and one shutdown closes it."""
    before = asyncio.all_tasks()
    manager = OpenPipeIntegrationManager({"openpipe": {"socket": socket_path}})

    async def start() -> str:
        assert await manager.initialize()
        return await manager.create_llm_wrapper(Llm(), "rag").generate("why?")

    assert set(await asyncio.gather(*(start() for _ in range(3)))) == {"answer to why?"}
    await manager.shutdown()
    assert asyncio.all_tasks() <= before


async def test_initialize_raises_for_an_invalid_setting_every_time(socket_path: str) -> None:
    """The second attempt raises too, and `create_llm_wrapper` returns the model itself."""
    one = OpenPipeClient({"openpipe": {"socket": socket_path, "cache_ttl": -1}})
    manager = OpenPipeIntegrationManager(one.config)
    llm = Llm()
    for _ in range(2):
        with pytest.raises(ValueError, match="ttl="):
            await one.initialize()

        with pytest.raises(ValueError, match="ttl="):
            await manager.initialize()

    assert manager.create_llm_wrapper(llm, "rag") is llm


async def test_deduplicate_request_is_true_only_if_the_answer_is_stored(socket_path: str) -> None:
    """Without a daemon, the answer is shared within the process but not stored."""
    one = OpenPipeClient({"openpipe": {"socket": socket_path}})
    await one.initialize()
    llm = Llm(0.1)
    fetching = asyncio.ensure_future(OpenPipeLLMWrapper(llm, one).generate("why?"))
    while not llm.calls:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.001)

    assert await one.deduplicate_request("why?") is False
    assert await one.get_cached_response("why?") is None
    assert await fetching == "answer to why?"
    await one.shutdown()
