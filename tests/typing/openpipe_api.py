"""The blueprint's names as users write them. Checked by mypy, never run."""

from typing import Any, assert_type

from sidecard_client import AsyncClient
from sidecard_client.openpipe import (
    OpenPipeClient,
    OpenPipeIntegrationManager,
    OpenPipeLLMWrapper,
    get_performance_report,
    openpipe_manager,
)


class Llm:
    """An SDK's client."""

    async def generate(self, prompt: str) -> str:
        """Answer."""
        return prompt


class PlainLlm:
    """An SDK's client that is not asynchronous."""

    def generate(self, prompt: str) -> str:
        """Answer."""
        return prompt


async def client() -> None:
    """Methods and signatures are the original's, with an additional task."""
    one = OpenPipeClient({"openpipe": {"cache_ttl": 300, "sovereign_mode": True}, "redis": {"host": "redis"}})
    assert_type(await one.initialize(), bool)
    assert_type(one.sidecard, AsyncClient)
    assert_type(one.cache_ttl, float)
    assert_type(await one.get_cached_response("why?", {"language": "de"}), str | None)
    assert_type(await one.get_cached_response("why?", task_type="rag"), str | None)
    await one.cache_response("why?", "because", {"language": "de"})
    assert_type(await one.deduplicate_request("why?", {"language": "de"}), bool)
    await one.record_metrics("why?", "because", 12.5, 0.25, True, "rag")
    await one.record_metrics("why?", "because", latency=12.5, cost=0.25, success=True, task_type="rag")
    assert_type(await one.get_performance_summary(), dict[str, Any])
    await one.cache_response("why?", 5)  # type: ignore[arg-type]  # a wrong argument is found
    await one.shutdown()


async def wrapper(one: OpenPipeClient, llm: Llm, plain: PlainLlm) -> None:
    """Anything with a ``generate`` is wrapped."""
    assert_type(await OpenPipeLLMWrapper(llm, one).generate("why?"), str)
    assert_type(await OpenPipeLLMWrapper(plain, one, "rag").generate("why?", {"language": "de"}), str)
    OpenPipeLLMWrapper(llm, one, task_type="rag", usage=lambda _: {"cost_dollars": 0.5}, backend="cloud")
    OpenPipeLLMWrapper(object(), one)  # type: ignore[arg-type]  # it has nothing to call


async def manager(llm: Llm) -> None:
    """The module's manager, or another one."""
    assert_type(openpipe_manager, OpenPipeIntegrationManager)
    assert_type(await openpipe_manager.initialize(), bool)
    made = openpipe_manager.create_llm_wrapper(llm, "rag")
    assert_type(made, OpenPipeLLMWrapper | Llm)
    assert_type(await made.generate("why?"), str)
    assert_type(await openpipe_manager.get_performance_report(), dict[str, Any])
    assert_type(await get_performance_report(), dict[str, Any])
    await OpenPipeIntegrationManager({"openpipe": {}}).shutdown()
