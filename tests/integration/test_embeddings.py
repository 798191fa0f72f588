"""Embeddings through the transports: each text is its own entry, and one upstream request asks for what is missing.

The server answers as OpenAI's and Ollama's do, with numbers whose digits must survive, and counts the texts that it is asked for.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import openai
import pytest

from sidecard_client import AsyncClient, Client
from sidecard_client.http import AsyncSidecardTransport, SidecardTransport
from tests.callers import KINDS, connecting
from tests.daemons import Daemon
from tests.embedding_server import DIGITS, EmbeddingServer

pytestmark = pytest.mark.usefixtures("patient_clients")


@pytest.fixture
def server() -> Iterator[EmbeddingServer]:
    """Start a server."""
    with_server = EmbeddingServer()
    yield with_server
    with_server.close()


Post = Callable[..., httpx2.Response]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Start one daemon for all tests: each has a server, and so keys, of its own."""
    running = Daemon(str(tmp_path_factory.mktemp("d") / "s.sock"))
    yield running
    running.close()


@pytest.fixture(params=KINDS)
def post(request: pytest.FixtureRequest, server: EmbeddingServer, running: Daemon) -> Iterator[Post]:
    """Post JSON through a transport of either client."""
    with connecting(request.param, running.socket) as connect:
        caller = connect()
        sidecard = caller.sidecard
        if isinstance(sidecard, Client):
            with httpx2.Client(transport=SidecardTransport(httpx2.HTTPTransport(), sidecard)) as http:
                yield lambda path="/v1/embeddings", headers=None, **body: http.post(
                    server.url + path, content=json.dumps(body), headers=headers
                )

            return

        assert isinstance(sidecard, AsyncClient)
        assert caller.portal is not None
        inner = httpx2.AsyncHTTPTransport()
        http_async = httpx2.AsyncClient(transport=AsyncSidecardTransport(inner, sidecard=sidecard))

        def post_async(path: str = "/v1/embeddings", headers: Any = None, **body: Any) -> httpx2.Response:
            async def ask() -> httpx2.Response:
                return await http_async.post(server.url + path, content=json.dumps(body), headers=headers)

            assert caller.portal is not None
            return caller.portal.call(ask)

        yield post_async
        caller.portal.call(http_async.aclose)


def test_only_missing_texts_are_asked_for(server: EmbeddingServer, post: Post) -> None:
    """The answer is the server's own for a list in which nothing was known."""
    first = post(input=["a", "bb"], model="m")
    second = post(input=["ccc", "bb", "a", "ccc"], model="m")
    third = post(input="bb", model="m")

    assert server.asked == [["a", "bb"], ["ccc"]]
    assert first.content == EmbeddingServer().answer("/v1/embeddings", b'{"input":["a","bb"]}')[1]
    answer = second.json()
    assert [item["index"] for item in answer["data"]] == [0, 1, 2, 3]
    assert [item["embedding"][1] for item in answer["data"]] == [3.0, 2.0, 1.0, 3.0]
    assert second.text.count(DIGITS) == 4
    assert (answer["object"], answer["model"]) == ("list", "m-1")
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert list(answer) == ["object", "data", "model", "usage"]
    assert int(second.headers["content-length"]) == len(second.content)
    sources = [response.headers["x-sidecard-source"] for response in (first, second, third)]
    assert sources == ["upstream", "upstream", "cache"]
    assert third.json()["usage"]["prompt_tokens"] == 2
    assert third.headers["x-request-id"] == "r1"


def test_an_answer_of_stored_texts_equals_the_server_s(server: EmbeddingServer, post: Post) -> None:
    """In every field, for each format of vectors and each form of input."""
    for fields in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 2}):
        for given in (["x", "yy"], [[1, 2, 3], [4]], [5, 6], ["\u00e9\u4e2d\U0001f600"]):
            asked = len(server.asked)
            first = post(input=given, model="m", **fields)
            again = post(input=given, model="m", **fields)
            assert len(server.asked) == asked + 1
            assert again.headers["x-sidecard-source"] == "cache"
            assert again.json() == first.json()


def test_formats_models_and_accounts_are_apart(server: EmbeddingServer, post: Post) -> None:
    """Everything else of a request is part of each text's key."""
    for fields in (
        {"model": "m"},
        {"model": "n"},
        {"model": "m", "encoding_format": "base64"},
        {"model": "m", "dimensions": 1},
    ):
        post(input=["a"], **fields)

    post(input=["a"], model="m", headers={"authorization": "Bearer other"})
    assert len(server.asked) == 5


def test_a_list_of_one_shares_with_a_longer_list(server: EmbeddingServer, post: Post) -> None:
    """One text, a list of it, and a list with it are one entry."""
    post(input="a", model="m")
    post(input=["a"], model="m")
    post(input=["b", "a"], model="m")
    assert server.asked == [["a"], ["b"]]
    assert json.loads(server.bodies[1])["input"] == ["b"]


def test_items_in_another_order_find_their_texts(server: EmbeddingServer, post: Post) -> None:
    """By their index."""
    server.reverse = True
    post(input=["a", "bb", "ccc"], model="m")
    answer = post(input=["ccc", "a"], model="m").json()
    assert [item["embedding"][1] for item in answer["data"]] == [3.0, 1.0]


def test_ollama_s_answers_are_put_together(server: EmbeddingServer, post: Post) -> None:
    """Vectors without an index, and numbers beside them."""
    post("/api/embed", input=["a", "bb"], model="m")
    answer = post("/api/embed", input=["bb", "ccc", "a"], model="m")
    assert server.asked == [["a", "bb"], ["ccc"]]
    assert [vector[1] for vector in answer.json()["embeddings"]] == [2.0, 3.0, 1.0]
    assert answer.json()["prompt_eval_count"] == 6
    assert answer.json()["total_duration"] == 2002
    assert answer.text.count(DIGITS) == 3


def test_a_refusal_reaches_its_caller_as_it_is(server: EmbeddingServer, post: Post) -> None:
    """Nothing of it is stored, and what was known stays."""
    post(input=["a"], model="m")
    server.refusal = (400, b'{"error": {"message": "input[1] is too long"}}')
    refused = post(input=["a", "bad", "b"], model="m")
    assert (refused.status_code, refused.content) == server.refusal
    assert refused.headers["x-sidecard-source"] == "upstream"

    server.refusal = None
    assert post(input=["a", "b"], model="m").json()["data"][0]["embedding"][1] == 1.0
    assert server.asked == [["a"], ["bad", "b"], ["b"]]


def test_an_answer_without_a_vector_for_each_text_is_not_shared(server: EmbeddingServer, post: Post) -> None:
    """Its own caller gets it; if it was for some of the texts only, all of them are asked for."""
    post(input=["a"], model="m")
    server.leaves_out = 1
    whole = post(input=["b", "c"], model="m")
    assert len(whole.json()["data"]) == 1
    part = post(input=["a", "b", "c"], model="m")
    assert len(part.json()["data"]) == 2
    assert server.asked == [["a"], ["b", "c"], ["b", "c"], ["a", "b", "c"]]


def test_what_is_no_list_of_texts_passes_as_a_whole(server: EmbeddingServer, post: Post) -> None:
    """Unknown forms of input are shared as whole requests."""
    for given in ([], ["a", 1], [["a"]], [{"text": "a"}]):
        asked = len(server.asked)
        server.refusal = (200, b'{"object":"list","data":[{"index":0,"embedding":[1]}]}')
        first = post(input=given, model="m")
        assert post(input=given, model="m").content == first.content
        assert len(server.asked) == asked + 1


def test_controls_of_a_request_apply(server: EmbeddingServer, post: Post) -> None:
    """``only`` never calls, ``refresh`` always does, ``off`` shares nothing."""
    assert post(input=["a"], model="m", headers={"x-sidecard-cache": "only"}).status_code == 504
    post(input=["a"], model="m")
    assert post(input=["a"], model="m", headers={"x-sidecard-cache": "only"}).status_code == 200
    post(input=["a"], model="m", headers={"x-sidecard-cache": "refresh"})
    post(input=["a"], model="m", headers={"x-sidecard-cache": "off"})
    assert server.texts == ["a", "a", "a"]


def test_openai_s_sdk_reads_assembled_answers(server: EmbeddingServer, running: Daemon) -> None:
    """It asks for base64 and decodes it; the ledger has the tokens of each text once."""
    with (
        Client(running.socket) as sidecard,
        httpx2.Client(transport=SidecardTransport(httpx2.HTTPTransport(), sidecard)) as http,
    ):
        llm = openai.OpenAI(base_url=f"{server.url}/v1", api_key="k", http_client=http, max_retries=0)
        llm.embeddings.create(model="m", input=["a", "bb"])
        answer = llm.embeddings.create(model="m", input=["bb", "ccc", "a"])
        assert [item.embedding[1] for item in answer.data] == [2.0, 3.0, 1.0]
        assert answer.usage.prompt_tokens == 6
        (spending,) = (
            spending for backend, spending in sidecard.report().backends.items() if server.url[-5:] in backend
        )
        assert (spending.calls, spending.prompt_tokens) == (2, 6)


def test_without_a_daemon_answers_are_the_server_s(server: EmbeddingServer, socket_path: str) -> None:
    """Calls are made, and answers with duplicates put together."""
    with (
        Client(socket_path) as sidecard,
        httpx2.Client(transport=SidecardTransport(httpx2.HTTPTransport(), sidecard)) as http,
    ):
        response = http.post(f"{server.url}/v1/embeddings", content=b'{"model":"m","input":["a","a","bb"]}')

    assert server.asked == [["a", "bb"]]
    assert response.headers["x-sidecard-source"] == "fallback"
    assert [item["index"] for item in response.json()["data"]] == [0, 1, 2]
    assert response.json()["usage"]["prompt_tokens"] == 4
