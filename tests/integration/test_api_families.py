"""Every API through the transport: one upstream call, and every caller gets the same bytes as without sidecard."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import httpx2
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import SidecardTransport
from tests.api_samples import SAMPLES, Sample
from tests.api_servers import ApiServer
from tests.daemons import Daemon

pytestmark = pytest.mark.usefixtures("patient_clients")

Answered = tuple[int, str, bytes]


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """A server of all APIs."""
    with ApiServer() as api:
        yield api


@pytest.fixture(scope="module")
def shared(module_daemon: Callable[..., Daemon]) -> Daemon:
    """The daemon of all tests of this module."""
    return module_daemon()


@pytest.fixture
def client(shared: Daemon) -> Iterator[httpx2.Client]:
    """An HTTP client with a transport; the daemon has no answers."""
    shared.purge()
    with (
        Client(shared.socket) as sidecard,
        httpx2.Client(transport=SidecardTransport(sidecard=sidecard)) as client,
    ):
        yield client


def url_of(api: ApiServer, sample: Sample) -> str:
    """Return where a sample is served."""
    return f"{api.url}{sample.path}" + (f"?{sample.query}" if sample.query else "")


def send(client: httpx2.Client, api: ApiServer, sample: Sample, **headers: str) -> tuple[Answered, httpx2.Headers]:
    """Send a sample's request, and return its answer without the headers of ours."""
    response = client.post(
        url_of(api, sample), content=sample.body, headers={"content-type": sample.asked_type, **headers}
    )
    return (response.status_code, response.headers["content-type"], response.content), response.headers


def comparable(name: str, answered: Answered) -> Any:
    """Return an answer for comparison: what is put together from the entries of several texts has other white space."""
    return (*answered[:2], json.loads(answered[2])) if name == "gemini embeddings" else answered


def test_every_api_is_called_once(client: httpx2.Client, shared: Daemon, api: ApiServer) -> None:
    """Callers in blocking and asynchronous code get the bytes that the API sent, and only the first of them calls it."""
    with (
        httpx2.Client() as alone,
        Client(shared.socket) as two,
        httpx2.Client(transport=SidecardTransport(sidecard=two)) as second,
    ):
        for name, sample in SAMPLES.items():
            expected, _ = send(alone, api, sample)
            assert expected == (200, sample.answer_type, sample.answer), name
            before = api.count
            got, headers = send(client, api, sample)
            assert (got, headers["x-sidecard-source"]) == (expected, "upstream"), name
            assert "x-sidecard-not-stored" not in headers, name
            again, headers = send(second, api, sample)
            assert (comparable(name, again), headers["x-sidecard-source"]) == (comparable(name, expected), "cache"), (
                name
            )
            assert api.count == before + 1, name

    async def ask_all() -> list[Any]:
        async with (
            AsyncClient(shared.socket) as sidecard,
            httpx2.AsyncClient(transport=SidecardTransport(sidecard=sidecard)) as awaiting,
        ):
            found = []
            for name, sample in SAMPLES.items():
                response = await awaiting.post(
                    url_of(api, sample), content=sample.body, headers={"content-type": sample.asked_type}
                )
                got = response.status_code, response.headers["content-type"], response.content
                found.append((comparable(name, got), response.headers["x-sidecard-source"]))

            return found

    before = api.count
    assert anyio.run(ask_all) == [
        (comparable(name, (200, sample.answer_type, sample.answer)), "cache") for name, sample in SAMPLES.items()
    ]
    assert api.count == before


def test_a_google_key_in_the_query_is_a_credential(client: httpx2.Client, api: ApiServer) -> None:
    """Another key gets an answer of its own, and neither is shown anywhere."""
    sample = SAMPLES["gemini"]

    def source(key: str) -> str:
        response = client.post(f"{url_of(api, sample)}?key={key}", json=sample.asked)
        shown = str(response.headers)
        assert key not in shown
        return response.headers["x-sidecard-source"]

    assert [source(key) for key in ("AIza-one", "AIza-one", "AIza-two", "AIza-two")] == [
        "upstream",
        "cache",
        "upstream",
        "cache",
    ]
    assert api.asked[0][0].endswith("?key=AIza-one")


def test_forms_are_keyed_by_their_content(client: httpx2.Client, api: ApiServer) -> None:
    """The library makes another boundary for each request; another song is another request."""

    def source(name: str, song: bytes) -> str:
        files = {"file": (name, song)}
        response = client.post(f"{api.url}/v1/audio/transcriptions", data={"model": "m"}, files=files)
        assert response.json()["text"] == "hello"
        return str(response.headers["x-sidecard-source"])

    assert source("a.mp3", b"one") == "upstream"
    assert source("b.mp3", b"one") == "cache"
    assert source("a.mp3", b"two") == "upstream"
    assert source("a.wav", b"one") == "upstream"


def test_what_changes_the_server_passes_through(client: httpx2.Client, api: ApiServer) -> None:
    """Each request is sent; the header of the response says why, and another header shares it all the same."""
    gemini, converse = SAMPLES["gemini"], SAMPLES["bedrock converse"]
    assert isinstance(gemini.asked, dict)
    assert isinstance(converse.asked, dict)
    acting: list[tuple[str, dict[str, Any], str]] = [
        (gemini.path, {**gemini.asked, "tools": [{"mcpServers": [{"name": "mail"}]}]}, "tool"),
        (gemini.path, {**gemini.asked, "store": True}, "state"),
        (converse.path, {**converse.asked, "toolConfig": {"tools": [{"systemTool": {"name": "send"}}]}}, "tool"),
        ("/v1/conversations", {"agent_id": "a", "inputs": "hello"}, "state"),
        ("/v1beta/cachedContents", {"contents": gemini.asked["contents"]}, "dialect"),
        ("/async-invoke", {"modelInput": {}}, "dialect"),
    ]
    for path, body, reason in acting:
        for _ in range(2):
            before = api.count
            headers = client.post(f"{api.url}{path}", json=body).headers
            assert (headers["x-sidecard-source"], headers["x-sidecard-not-stored"]) == ("passed", reason), path
            assert api.count == before + 1

    path, body, _ = acting[0]
    shared = [client.post(f"{api.url}{path}", json=body, headers={"x-sidecard-cache": "on"}) for _ in range(2)]
    assert [response.headers["x-sidecard-source"] for response in shared] == ["upstream", "cache"]
    assert "x-sidecard-cache" not in api.headers[-1]


def test_an_image_behind_a_link_is_shared_and_not_stored(client: httpx2.Client, api: ApiServer) -> None:
    """The link ends before an entry may."""
    sample = SAMPLES["image"]
    api.refusals = [(200, b'{"data": [{"url": "https://x/1"}, {"url": "https://x/2"}]}')] * 2
    for _ in range(2):
        _, headers = send(client, api, sample)
        assert (headers["x-sidecard-source"], headers["x-sidecard-not-stored"]) == ("upstream", "state")


def test_each_text_of_geminis_embeddings_is_asked_for_once(client: httpx2.Client, api: ApiServer) -> None:
    """Texts are stored one by one, with the settings that each has in its own object."""

    def embed(*texts: str, **settings: Any) -> tuple[Any, Any]:
        requests = [{"model": "models/e", "content": {"parts": [{"text": text}]}, **settings} for text in texts]
        answer = {
            "embeddings": [{"values": [ord(text) / 10]} for text in texts if text not in known],
            "usageMetadata": {"promptTokenCount": 3 * len(set(texts) - known)},
        }
        api.refusals = [(200, json.dumps(answer).encode())]
        response = client.post(f"{api.url}/v1beta/models/e:batchEmbedContents", json={"requests": requests})
        asked = [one["content"]["parts"][0]["text"] for one in json.loads(api.asked[-1][1])["requests"]]
        return response.json(), asked

    known: set[str] = set()
    assert embed("a", "b")[1] == ["a", "b"]
    known = {"a", "b"}
    answer, asked = embed("b", "c", "a")
    assert asked == ["c"]
    assert answer == {
        "embeddings": [{"values": [9.8]}, {"values": [9.9]}, {"values": [9.7]}],
        "usageMetadata": {"promptTokenCount": 9},
    }
    known = set()
    assert embed("a", taskType="RETRIEVAL_QUERY")[1] == ["a"]
