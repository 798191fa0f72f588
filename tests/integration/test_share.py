"""``share()`` and ``wrap()`` of real SDKs: one upstream call for equal requests, and the identity of who makes them."""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from time import time as wall_clock  # noqa: TID251 - tokens expire by the wall clock
from types import MappingProxyType
from typing import Any

import anthropic
import anyio
import httpx
import httpx2
import ollama
import openai
import pytest

from sidecard_client import AsyncClient, Client, share
from tests.daemons import Daemon
from tests.llm_servers import Refusal, ScriptedModel

pytestmark = pytest.mark.usefixtures("patient_clients")

HELLO: Any = [{"role": "user", "content": "hello"}]


@pytest.fixture
def model() -> Iterator[ScriptedModel]:
    """A model without calls."""
    with ScriptedModel() as model:
        yield model


@pytest.fixture(scope="module")
def running(module_daemon: Callable[..., Daemon]) -> Daemon:
    """One daemon for all tests: each has a model of its own, whose address is in the keys."""
    return module_daemon()


@pytest.fixture
def client(running: Daemon) -> Iterator[Client]:
    """A client of the daemon."""
    with Client(running.socket) as client:
        yield client


@pytest.fixture
def gpt(model: ScriptedModel, client: Client) -> Iterator[Callable[..., openai.OpenAI]]:
    """Make shared clients of OpenAI's SDK; the keywords are those of ``share()``."""
    with ExitStack() as stack:

        def make(key: str = "k", options: Mapping[str, Any] = MappingProxyType({}), **policy: Any) -> openai.OpenAI:
            llm = openai.OpenAI(**{"base_url": f"{model.url}/v1", "api_key": key, "max_retries": 0, **options})
            return share(stack.enter_context(llm), sidecard=client, **policy)

        yield make


def chat_of(llm: openai.OpenAI, text: str = "hello", **headers: str) -> str:
    """Make a chat call, and return the source of its answer."""
    messages: Any = [{"role": "user", "content": text}]
    raw = llm.chat.completions.with_raw_response.create(
        model="m", messages=messages, extra_headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    raw.parse()
    return str(raw.headers["x-sidecard-source"])


# SDKs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["share", "wrap"])
def test_sdks_share_in_one_line(by: str, model: ScriptedModel, client: Client) -> None:
    """Two objects of each SDK make one call, with and without streaming, and also with other options."""
    with ExitStack() as stack:

        def shared(sdk: Any) -> Any:
            stack.callback(sdk._client.close)
            return share(sdk, sidecard=client) if by == "share" else client.wrap(sdk)

        def gpt() -> Any:
            return shared(openai.OpenAI(base_url=f"{model.url}/v1", api_key="k"))

        def claude() -> Any:
            return shared(anthropic.Anthropic(base_url=model.url, api_key="k"))

        questions: list[Callable[[], Any]] = [
            lambda: gpt().chat.completions.create(model="m", messages=HELLO).model_dump(),
            lambda: [one.model_dump() for one in gpt().chat.completions.create(model="m", messages=HELLO, stream=True)],
            lambda: gpt().with_options(timeout=9).embeddings.create(model="m", input="hello").model_dump(),
            lambda: claude().messages.create(model="m", max_tokens=9, messages=HELLO).model_dump(),
            lambda: shared(ollama.Client(model.url)).chat("m", HELLO).model_dump(),
        ]
        for number, question in enumerate(questions, 1):
            assert question() == question()
            assert model.count == number


def test_sdks_of_both_kinds_share_one_answer(
    gpt: Callable[..., openai.OpenAI], model: ScriptedModel, client: Client
) -> None:
    """Given a client of one kind, the objects of the other kind use one with its arguments."""

    async def ask_async() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{model.url}/v1", api_key="k") as llm:
            made = await share(llm, sidecard=client).chat.completions.create(model="m", messages=HELLO)
            return made.model_dump()

    llm = gpt()
    assert llm.chat.completions.create(model="m", messages=HELLO).model_dump() == anyio.run(ask_async)
    assert model.count == 1


def test_the_asynchronous_client_wraps_as_well(model: ScriptedModel, running: Daemon) -> None:
    """It shares the calls of asynchronous SDKs."""

    async def ask(sidecard: AsyncClient) -> Any:
        async with openai.AsyncOpenAI(base_url=f"{model.url}/v1", api_key="k") as llm:
            assert sidecard.wrap(llm) is llm
            return (await llm.chat.completions.create(model="m", messages=HELLO)).model_dump()

    async def ask_twice() -> list[Any]:
        async with AsyncClient(running.socket) as sidecard:
            return [await ask(sidecard), await ask(sidecard)]

    first, second = anyio.run(ask_twice)
    assert first == second
    assert model.count == 1


def test_the_proxy_of_the_environment_stays_in_use(
    gpt: Callable[..., openai.OpenAI], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An SDK's client that was made with it sends its requests through it, shared or not."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    proxied = gpt(options={"base_url": "http://llm.invalid/v1"})
    with pytest.raises(openai.APIConnectionError) as raised:
        chat_of(proxied)

    assert isinstance(raised.value.__cause__, httpx2.ConnectError | httpx.ConnectError)
    assert "refused" in str(raised.value.__cause__)  # not a name that cannot be resolved
    direct = gpt()
    assert [chat_of(direct), chat_of(direct)] == ["upstream", "cache"]


# Identity ------------------------------------------------------------------------------------------------------------


def token(signature: str = "c2ln", **claims: Any) -> str:
    """Return a JWT of alice's that lasts an hour."""
    own = {"iss": "https://login", "sub": "alice", "azp": "app", "exp": wall_clock() + 3600} | claims
    parts = [
        base64.urlsafe_b64encode(json.dumps(one).encode()).rstrip(b"=").decode()
        for one in ({"alg": "RS256", "typ": "JWT"}, own)
    ]
    return ".".join([*parts, signature])


@pytest.mark.parametrize("policy", [{}, {"share_credentials": True}])
def test_a_renewed_token_is_the_same_caller(
    policy: Any, gpt: Callable[..., openai.OpenAI], model: ScriptedModel, client: Client
) -> None:
    """A renewed token reads its account's entries once the upstream has accepted it."""
    old, new = gpt(token(jti="1"), **policy), gpt(token(jti="2"), **policy)
    assert [chat_of(old, "a"), chat_of(old, "a"), chat_of(old, "b")] == ["upstream", "cache", "upstream"]
    assert chat_of(new, "c") == "upstream"
    assert [chat_of(new, "b"), chat_of(old, "c" if policy else "b")] == ["cache", "cache"]
    backends = [name for name in client.report().backends if model.url.partition("//")[2] in name]
    assert len(backends) == 3  # that of the accepted tokens, and one for each of them before


def test_a_forged_token_reads_nothing(gpt: Callable[..., openai.OpenAI], model: ScriptedModel) -> None:
    """A caller that writes alice's name into a token of its own asks the upstream, which refuses it."""
    alice = gpt(token())
    assert [chat_of(alice, "warm"), chat_of(alice), chat_of(alice)] == ["upstream", "upstream", "cache"]
    model.next.append(Refusal(401, type="invalid_request_error"))
    forged = gpt(token("Zm9yZ2Vk"))
    with pytest.raises(openai.AuthenticationError):
        chat_of(forged)


def test_a_signed_request_is_the_account_of_its_key_id(gpt: Callable[..., openai.OpenAI]) -> None:
    """Signature and date of AWS change with every request."""
    llm = gpt()

    def signed(key_id: str, signature: str) -> str:
        scope = f"Credential={key_id}/20270115/us-east-1/bedrock/aws4_request"
        value = f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature={signature}"
        return chat_of(llm, Authorization=value, x_amz_date=f"20270115T00000{signature}Z")

    assert [signed("AKIAONE", "1"), signed("AKIAONE", "2"), signed("AKIATWO", "3")] == ["upstream", "cache", "upstream"]
    assert [signed("ASIAONE", "1"), signed("ASIAONE", "2")] == ["upstream", "upstream"]


def test_an_identity_of_the_app_replaces_credentials(model: ScriptedModel, client: Client) -> None:
    """A function of the request says who calls."""

    def who(request: Any) -> str:
        return str(request.headers["x-request-user"])

    sources = []
    for number in range(2):
        llm = openai.OpenAI(
            base_url=f"{model.url}/v1", api_key=f"ya29.{number}", default_headers={"x-request-user": "a"}
        )
        sources.append(chat_of(share(llm, sidecard=client, identity=who)))

    assert sources == ["upstream", "cache"]


def test_cookies_of_a_proxy_leave_keys_as_they_are(gpt: Callable[..., openai.OpenAI], client: Client) -> None:
    """The SDK's cookie jar sends them from the second request on; a session's cookie is another caller."""
    llm = gpt()
    assert chat_of(llm) == "upstream"
    llm._client.cookies.set("__cf_bm", "1")
    assert chat_of(llm) == "cache"
    llm._client.cookies.set("session", "1")
    assert chat_of(llm) == "upstream"


def test_a_limit_of_one_organization_is_not_a_limit_of_another(
    gpt: Callable[..., openai.OpenAI], model: ScriptedModel
) -> None:
    """A backend is host, model and account: Retry-After closes that of one organization or project."""
    model.next.append(Refusal(429, {"retry-after": "30"}))
    llm = gpt()
    with pytest.raises(openai.RateLimitError):
        chat_of(llm, OpenAI_Organization="a")

    with pytest.raises(openai.RateLimitError):
        chat_of(llm, OpenAI_Organization="a")

    assert chat_of(llm, OpenAI_Organization="b") == "upstream"
    assert chat_of(llm, OpenAI_Project="a") == "upstream"


@pytest.mark.parametrize("header", ["elastic_apm_traceparent", "newrelic", "x_datadog_trace_id", "uber_trace_id"])
def test_tracing_headers_leave_keys_as_they_are(header: str, gpt: Callable[..., openai.OpenAI]) -> None:
    """They change with every request."""
    llm = gpt()
    assert [chat_of(llm, **{header: str(number)}) for number in range(2)] == ["upstream", "cache"]
