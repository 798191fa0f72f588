"""SDKs that make their HTTP clients late, or replace them: each of them is shared. Here by classes of the same names."""

import sys
from collections.abc import Callable
from functools import cached_property
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx2
import pytest

from sidecard_client import SidecardTransport, share
from sidecard_client.http.sharing import share_if_found
from sidecard_client.testing import FakeClient


def of_module(name: str) -> Callable[[type], type]:
    """Give a class the module of an SDK."""

    def give(kind: type) -> type:
        kind.__module__ = name
        return kind

    return give


def is_shared(client: Any) -> bool:
    """Return whether an HTTP client shares."""
    return isinstance(client._transport, SidecardTransport)


def modules(monkeypatch: pytest.MonkeyPatch, **found: dict[str, Any]) -> None:
    """Make modules that can be imported; two underscores in a name stand for a dot."""
    for name, content in found.items():
        module = ModuleType(name.replace("__", "."))
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_clients_that_are_made_at_first_use_are_made_and_shared() -> None:
    """LangChain's ChatAnthropic has two such properties."""

    @of_module("langchain_anthropic.chat_models")
    class ChatAnthropic:
        @cached_property
        def _client(self) -> Any:
            return SimpleNamespace(http=httpx2.Client())

        @cached_property
        def _async_client(self) -> Any:
            return SimpleNamespace(http=httpx2.AsyncClient())

    model = share([ChatAnthropic()])[0]
    assert is_shared(model._client.http)
    assert is_shared(model._async_client.http)


@pytest.mark.parametrize(("module", "shared"), [("llama_index.llms.openai.base", True), ("my_app.llms", False)])
def test_only_methods_of_known_packages_are_called(module: str, *, shared: bool) -> None:
    """A method of the same name elsewhere may have effects."""

    @of_module(module)
    class Model:
        made: Any = None

        def _get_client(self) -> Any:
            self.made = self.made or httpx2.Client()
            return self.made

    model = Model()
    assert share_if_found(model, FakeClient(), {}) is shared
    assert (model.made is not None) is shared


def test_a_client_for_each_request_cannot_be_shared() -> None:
    """The error says what to change."""

    @of_module("llama_index.llms.openai.base")
    class OpenAI:
        reuse_client = False

    with pytest.raises(
        TypeError, match=r"OpenAI cannot be shared: with reuse_client=False it makes .* pass http_client="
    ):
        share(OpenAI())


def test_what_an_sdk_raises_is_in_the_error() -> None:
    """It may lack its API key."""

    @of_module("agno.models.openai.chat")
    class OpenAIChat:
        def get_client(self) -> Any:
            raise LookupError("no API key")

    with pytest.raises(TypeError, match="Making its client failed: LookupError: no API key") as raised:
        share(OpenAIChat())

    assert isinstance(raised.value.__cause__, LookupError)


def test_methods_that_make_a_client_for_each_request_share_it() -> None:
    """As agno's models do in some versions; a client that is kept is shared once."""

    @of_module("agno.models.openai.chat")
    class OpenAIChat:
        kept = httpx2.Client()

        def get_client(self) -> Any:
            return self.kept

        def get_async_client(self) -> Any:
            return SimpleNamespace(http=httpx2.AsyncClient())

    model = OpenAIChat()
    share(share([model, model.kept]))
    assert is_shared(model.get_client())
    assert "get_client" not in vars(model)
    assert is_shared(model.get_async_client().http)


def test_an_asynchronous_maker_runs_without_a_loop() -> None:
    """Haystack's awaits nothing. Warming up any other component may load a model, so that is left alone."""

    @of_module("haystack.components.generators.chat.openai")
    class Generator:
        def __init__(self) -> None:
            self.client: Any = None
            self.async_client: Any = None

        def warm_up(self) -> None:
            self.client = httpx2.Client()

        async def warm_up_async(self) -> None:
            self.async_client = httpx2.AsyncClient()

    @of_module("haystack.components.rankers")
    class Ranker:
        def warm_up(self) -> None:
            raise AssertionError

    generator = Generator()
    share([Ranker(), generator])
    assert is_shared(generator.client)
    assert is_shared(generator.async_client)


def test_a_provider_that_replaces_its_client_shares_the_new_one() -> None:
    """pydantic-ai makes one for another event loop."""

    @of_module("pydantic_ai.providers")
    class Provider:
        def __init__(self) -> None:
            self._http_client_factory = httpx2.AsyncClient
            self._own_http_client = self._http_client_factory()

    @of_module("pydantic_ai.providers.openai")
    class OpenAIProvider(Provider):
        pass

    provider: Any = OpenAIProvider()
    share(share(provider))
    assert is_shared(provider._own_http_client)
    assert is_shared(provider._http_client_factory())


def test_a_package_with_one_client_for_all_shares_each_that_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub makes it at the first request, and another one in a forked child."""
    http = {
        "_GLOBAL_CLIENT_FACTORY": httpx2.Client,
        "_GLOBAL_ASYNC_CLIENT_FACTORY": httpx2.AsyncClient,
        "_GLOBAL_CLIENT": httpx2.Client(),
        "set_client_factory": None,
    }
    modules(monkeypatch, huggingface_hub={}, huggingface_hub__utils={}, huggingface_hub__utils___http=http)

    @of_module("huggingface_hub.inference._client")
    class InferenceClient:
        pass

    share(share(InferenceClient()))
    made: Any = sys.modules["huggingface_hub.utils._http"]
    assert is_shared(made._GLOBAL_CLIENT)
    assert is_shared(made._GLOBAL_CLIENT_FACTORY())
    assert is_shared(made._GLOBAL_ASYNC_CLIENT_FACTORY())


@pytest.mark.parametrize("by", ["module", "function", "model"])
def test_a_module_with_makers_shares_what_they_make(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM's handlers make a client for each provider, and its caches have earlier ones."""

    @of_module("smolagents.models")
    class LiteLLMModel:
        pass

    class HTTPHandler:
        def __init__(self) -> None:
            self.client = httpx2.Client()

    class AsyncHTTPHandler:
        def create_client(self) -> Any:
            return httpx2.AsyncClient()

    class BaseOpenAILLM:
        @staticmethod
        def _get_sync_http_client() -> Any:
            return httpx2.Client()

    def completion() -> None:
        pass

    completion.__module__ = "litellm.main"
    cached = HTTPHandler()
    modules(
        monkeypatch,
        litellm={"in_memory_llm_clients_cache": {"key": [cached, completion]}},
        litellm__llms={},
        litellm__llms__custom_httpx={},
        litellm__llms__custom_httpx__http_handler={"HTTPHandler": HTTPHandler, "AsyncHTTPHandler": AsyncHTTPHandler},
        litellm__llms__openai={},
        litellm__llms__openai__common_utils={"BaseOpenAILLM": BaseOpenAILLM},
    )
    targets = {"module": sys.modules["litellm"], "function": [completion], "model": LiteLLMModel()}
    share(share(targets[by]))
    assert is_shared(cached.client)
    assert is_shared(HTTPHandler().client)
    assert is_shared(AsyncHTTPHandler().create_client())
    assert is_shared(BaseOpenAILLM._get_sync_http_client())

    other = FakeClient()
    share(targets[by], sidecard=other)
    share(targets[by])
    later: Any = HTTPHandler()
    for client in (cached.client, later.client):
        transport: Any = client._transport
        assert transport._clients.blocking is other


def test_an_earlier_module_shares_the_sdks_that_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    """LiteLLM before version 1.62 had no maker of HTTP clients for OpenAI's SDK."""

    class Handler:
        pass

    class OpenAIChatCompletion:
        def _get_openai_client(self) -> Any:
            return SimpleNamespace(http=httpx2.Client())

    modules(
        monkeypatch,
        litellm={},
        litellm__llms={},
        litellm__llms__custom_httpx={},
        litellm__llms__custom_httpx__http_handler={"HTTPHandler": Handler, "AsyncHTTPHandler": Handler},
        litellm__llms__openai={},
        litellm__llms__openai__common_utils={},
        litellm__llms__openai__openai={"OpenAIChatCompletion": OpenAIChatCompletion},
    )
    share(sys.modules["litellm"])
    assert is_shared(OpenAIChatCompletion()._get_openai_client().http)


def test_providers_that_are_made_at_first_use_are_made_and_shared() -> None:
    """The client of aisuite has their settings."""

    @of_module("aisuite.client")
    class Client:
        def __init__(self) -> None:
            self.providers: dict[str, Any] = {}

        def _initialize_providers(self) -> None:
            self.providers["openai"] = SimpleNamespace(http=httpx2.Client())

    client = share(share(Client()))
    assert is_shared(client.providers["openai"].http)


def test_an_engine_without_http_clients_says_which_one_has_some() -> None:
    """DSPy's own engine uses the standard library."""

    @of_module("dspy.clients.lm")
    class LM:
        _engine_spec = "auto"

    with pytest.raises(TypeError, match=r'LM cannot be shared: .* Use dspy.LM\(..., engine="litellm"\)'):
        share(LM())
