"""Both clients and the real daemon: policies of tasks, and requests that count as one in normal form."""

from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import AsyncSidecardTransport, SidecardTransport
from tests.callers import KINDS, Caller, connecting
from tests.daemons import Daemon
from tests.llm_servers import ScriptedModel

pytestmark = pytest.mark.usefixtures("patient_clients")


class Upstream:
    """A function that remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[str] = []

    def __call__(self, prompt: str, **_: Any) -> str:
        """Answer."""
        self.given.append(prompt)
        return f"answer {len(self.given)}"

    def pieces(self, prompt: str) -> Iterator[str]:
        """Answer in pieces."""
        yield self(prompt)


@pytest.fixture(scope="module")
def filled(module_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with a task of each kind, and the entries of earlier tests."""
    return module_daemon(
        "--set",
        "tasks.loose.normalize=nfc,space,case",
        "--set",
        "tasks.exact.cache=deterministic",
        "--set",
        "tasks.off.cache=never",
        "--set",
        "cache.sharing_window_seconds=0",
    )


@pytest.fixture
def running(filled: Daemon) -> Daemon:
    """The daemon, without entries."""
    filled.purge()
    return filled


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, running: Daemon) -> Iterator[Caller]:
    """A client of each kind, whose calls go by their tasks' normal forms."""
    with connecting(request.param, running.socket) as connect:
        yield connect(normalize="task")


def read(client: Caller, *args: Any, **kwargs: Any) -> list[Any]:
    """Read a stream to its end."""
    if client.portal is None:
        return list(client.sidecard.stream(*args, **kwargs))

    async def pieces() -> list[Any]:
        return [piece async for piece in client.sidecard.stream(*args, **kwargs)]

    return client.portal.call(pieces)


def test_requests_that_a_task_takes_for_one_share_and_are_passed_on_as_written(client: Caller) -> None:
    """The function receives what its caller wrote, and the other has the answer to that."""
    upstream = Upstream()
    spellings = ["What is  CAF\u00c9?", "what is cafe\u0301?\n", " What IS caf\u00e9?"]
    sources = [client.outcome(upstream, text, task="loose", name="n").source for text in spellings]
    assert sources == ["upstream", "cache", "cache"]
    assert upstream.given == spellings[:1]


def test_another_task_has_no_normal_form(client: Caller) -> None:
    """Off by default."""
    upstream = Upstream()
    sources = [client.outcome(upstream, text, name="n").source for text in ("a b", "a  b", "a b")]
    assert sources == ["upstream", "upstream", "cache"]


def test_streams_go_by_their_tasks_forms_as_well(client: Caller) -> None:
    """Of one that is stored, every spelling is a replay."""
    upstream = Upstream()
    for text in ("a  B", "A b"):
        assert read(client, upstream.pieces, text, task="loose", name="n") == ["answer 1"]


def test_a_call_may_say_its_own_forms(client: Caller) -> None:
    """In place of the task's, whose keys are others."""
    upstream = Upstream()
    policy: dict[str, Any] = {"task": "loose", "name": "n"}
    assert client.outcome(upstream, "a  b", normalize=["space"], **policy).source == "upstream"
    assert client.outcome(upstream, "a b", normalize=["space"], **policy).source == "cache"
    assert client.outcome(upstream, "A b", normalize=["space"], **policy).source == "upstream"
    assert client.outcome(upstream, "a b", **policy).source == "upstream"


@pytest.mark.parametrize(
    ("task", "fields", "expected"),
    [
        ("exact", {"temperature": 0}, "cache"),
        ("exact", {"temperature": 0.7}, "upstream"),
        ("exact", {}, "upstream"),
        ("exact", {"deterministic": True}, "cache"),
        ("exact", {"temperature": 0, "deterministic": False}, "upstream"),
        ("off", {"temperature": 0, "ttl": 300.0}, "upstream"),
        ("general", {"temperature": 0.7}, "cache"),
    ],
)
def test_what_a_task_stores(client: Caller, task: str, fields: dict[str, Any], expected: str) -> None:
    """The daemon decides, by what the client knows of the request."""
    upstream = Upstream()
    sources = [client.outcome(upstream, "q", task=task, name="n", **fields).source for _ in range(2)]
    assert sources == ["upstream", expected]


def test_without_a_daemon_calls_go_on_without_a_normal_form(socket_path: str) -> None:
    """No daemon can be asked, and no caller shares the answer."""
    upstream = Upstream()
    with Client(socket_path, normalize="task") as client:
        assert client.outcome(upstream, "a  b", task="loose", name="n").source == "fallback"
        assert client.normal_forms("loose") == ()


def ask(http: httpx2.Client, model: ScriptedModel, text: str, image: str = "Aa") -> str:
    """Ask a model and return where its answer is from."""
    content = [
        {"type": "text", "text": text},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}},
    ]
    body = {"model": "m", "messages": [{"role": "user", "content": content}]}
    response = http.post(f"{model.url}/v1/chat/completions", json=body)
    assert response.status_code == 200
    return str(response.headers["x-sidecard-source"])


@pytest.mark.parametrize("normalize", [("space", "case"), "task"])
def test_bodies_of_http_requests_have_normal_forms_as_well(running: Daemon, normalize: Any) -> None:
    """Their texts have; what they encode, and whose they are, has not."""
    with ScriptedModel() as model, Client(running.socket) as client:
        transport = SidecardTransport(httpx2.HTTPTransport(), client, task="loose", normalize=normalize)
        with httpx2.Client(transport=transport) as http:
            assert ask(http, model, "What  is it?") == "upstream"
            assert ask(http, model, "what is it?") == "cache"
            assert ask(http, model, "what is it?", image="aA") == "upstream"
            http.headers["authorization"] = "Bearer x"
            assert ask(http, model, "what is it?") == "upstream"


@pytest.mark.anyio
async def test_asynchronous_transports_go_by_their_tasks_forms(running: Daemon) -> None:
    """They ask before their first request."""
    with ScriptedModel() as model:
        async with AsyncClient(running.socket) as client:
            transport = AsyncSidecardTransport(
                httpx2.AsyncHTTPTransport(), sidecard=client, task="loose", normalize="task"
            )
            async with httpx2.AsyncClient(transport=transport) as http:
                sources = []
                for text in ("A  b", "a B"):
                    body = {"model": "m", "messages": [{"role": "user", "content": text}]}
                    response = await http.post(f"{model.url}/v1/chat/completions", json=body)
                    sources.append(response.headers["x-sidecard-source"])

                assert sources == ["upstream", "cache"]


@pytest.mark.parametrize("keep", ["always", "never"])
def test_a_task_that_stores_nothing_wins_over_what_a_transport_keeps(running: Daemon, keep: Any) -> None:
    """Whatever the client says."""
    with ScriptedModel() as model, Client(running.socket) as client:
        transport = SidecardTransport(httpx2.HTTPTransport(), client, task="off", keep=keep)
        with httpx2.Client(transport=transport) as http:
            assert [ask(http, model, "q"), ask(http, model, "q")] == ["upstream", "upstream"]


def test_what_does_not_share_is_explained(client: Caller) -> None:
    """As it would be keyed, in the forms of its task."""
    upstream = Upstream()
    policy: dict[str, Any] = {"task": "loose", "name": "n"}
    one, other = (client.ask("explain", upstream, text, **policy) for text in ("Why  not?", "why not"))
    assert one.normalize == ("case", "nfc", "space")
    assert [str(difference) for difference in one.differences(other)] == ["args[0]: 'why not?' / 'why not'"]
    assert client.outcome(upstream, "WHY not", **policy).source == "upstream"
    assert client.ask("get", other.key) == "answer 1"
