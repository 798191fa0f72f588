"""botocore's client of Bedrock, shared: one upstream call, and every caller gets what botocore alone would give it."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sidecard_client import Client, share
from tests.api_samples import SAMPLES
from tests.api_servers import ApiServer
from tests.daemons import Daemon, poll

pytestmark = pytest.mark.usefixtures("patient_clients")

botocore_session = pytest.importorskip("botocore.session")

SESSION = botocore_session.Session()
"""It reads the service's description once."""
NOVA = "us.amazon.nova-2-lite-v1:0"
CLAUDE = "anthropic.claude-5-v1:0"
MESSAGES = [{"role": "user", "content": [{"text": "hello"}]}]
PROMPT = SAMPLES["bedrock claude"].body.decode()
OF_ONE_EXCHANGE = {"date", "transfer-encoding"}


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """A server of Bedrock's API."""
    with ApiServer() as api:
        yield api


@pytest.fixture(scope="module")
def shared_daemon(module_daemon: Callable[..., Daemon]) -> Daemon:
    """The daemon of all tests of this module."""
    return module_daemon()


@pytest.fixture
def sidecard(shared_daemon: Daemon) -> Iterator[Client]:
    """A client of the daemon, which has no answers."""
    shared_daemon.purge()
    with Client(shared_daemon.socket) as client:
        yield client


def bedrock(api: ApiServer, key: str = "AKIAAAAAAAAAAAAAAAAA", **config: Any) -> Any:
    """Make a client of Bedrock as an app would."""
    from botocore.config import Config  # noqa: PLC0415 - not installed everywhere

    return SESSION.create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=api.url,
        aws_access_key_id=key,
        aws_secret_access_key="secret",
        config=Config(retries={"max_attempts": 0}, **config),
    )


def parsed(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer without what differs between two exchanges, and without our own headers."""
    metadata = dict(answer["ResponseMetadata"])
    metadata["HTTPHeaders"] = {
        name: value
        for name, value in metadata["HTTPHeaders"].items()
        if name not in OF_ONE_EXCHANGE and not name.startswith("x-sidecard-")
    }
    return {**answer, "ResponseMetadata": metadata}


CALLS: dict[str, Callable[[Any], Any]] = {
    "converse": lambda one: parsed(one.converse(modelId=NOVA, messages=MESSAGES)),
    "converse stream": lambda one: list(one.converse_stream(modelId=NOVA, messages=MESSAGES)["stream"]),
    "invoke": lambda one: one.invoke_model(modelId=CLAUDE, body=PROMPT)["body"].read(),
    "invoke in parts": lambda one: list(one.invoke_model(modelId=CLAUDE, body=f"{PROMPT} ")["body"].iter_chunks(7)),
    "invoke stream": lambda one: list(one.invoke_model_with_response_stream(modelId=CLAUDE, body=PROMPT)["body"]),
    "count": lambda one: parsed(one.count_tokens(modelId=CLAUDE, input={"converse": {"messages": MESSAGES}})),
}


def test_every_operation_is_called_once(api: ApiServer, sidecard: Client) -> None:
    """The caller that makes the call, and one that gets its answer, see what botocore alone returns."""
    alone, first, second = bedrock(api), share(bedrock(api), sidecard=sidecard), share(bedrock(api), sidecard=sidecard)
    for name, call in CALLS.items():
        expected = call(alone)
        before = api.count
        assert call(first) == expected, name
        assert call(second) == expected, name
        assert api.count == before + (name != "invoke in parts"), name  # white space is no part of a body's key

    assert share(first, sidecard=sidecard) is first
    headers = first.converse(modelId=NOVA, messages=MESSAGES)["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-sidecard-source"] == "cache"


def test_a_stream_is_followed_as_it_comes(api: ApiServer, sidecard: Client) -> None:
    """A second caller gets the first events while the model still writes."""
    clients = [share(bedrock(api), sidecard=sidecard) for _ in range(2)]
    api.permits = threading.Semaphore(0)
    events: list[list[Any]] = [[], []]

    def follow(number: int) -> None:
        for event in clients[number].converse_stream(modelId=NOVA, messages=MESSAGES)["stream"]:
            events[number].append(event)

    threads = [threading.Thread(target=follow, args=(number,)) for number in range(2)]
    threads[0].start()
    poll(lambda: api.count == 1, "the call has not begun")
    threads[1].start()
    api.permits.release(2)
    poll(lambda: len(events[0]) >= 2 and len(events[1]) >= 2, "the first events have not arrived")
    api.permits.release(9)
    for thread in threads:
        thread.join(20)

    assert api.count == 1
    assert events[0] == events[1]
    assert "metadata" in events[0][-1]


def test_refusals_are_botocores_own(api: ApiServer, sidecard: Client) -> None:
    """A refused call raises the exception of its operation, and the next one is made."""
    shared = share(bedrock(api), sidecard=sidecard)
    api.refusals = [(400, json.dumps({"message": "too long", "__type": "ValidationException"}).encode())]
    with pytest.raises(shared.exceptions.ValidationException, match="too long"):
        shared.converse(modelId=NOVA, messages=MESSAGES)

    assert shared.converse(modelId=NOVA, messages=MESSAGES)["stopReason"] == "end_turn"


@pytest.mark.parametrize("name", ["converse", "converse stream", "invoke", "invoke in parts", "invoke stream"])
def test_a_broken_answer_is_what_it_is_for_botocore(api: ApiServer, sidecard: Client, name: str) -> None:
    """The same exception, or the same empty result, as without sidecard. Nothing is stored, and the next call is made."""
    alone, shared = bedrock(api), share(bedrock(api), sidecard=sidecard)
    found: list[Any] = []
    for client in (alone, shared):
        api.cuts = 1
        try:
            found.append(CALLS[name](client))
        except Exception as error:  # noqa: BLE001 - of botocore or urllib3
            found.append(type(error))

    assert found[0] == found[1]
    assert api.count == 2
    assert CALLS[name](shared) == CALLS[name](alone)


def test_a_followed_stream_that_breaks_is_a_fault_of_the_connection(api: ApiServer, sidecard: Client) -> None:
    """The follower's exception is urllib3's, which botocore's own streams raise."""
    exceptions = pytest.importorskip("urllib3.exceptions")
    clients = [share(bedrock(api), sidecard=sidecard) for _ in range(2)]
    api.permits = threading.Semaphore(0)
    api.cuts = 1
    raised: list[type[BaseException]] = []
    begun: list[Any] = []

    def follow(client: Any) -> None:
        stream = iter(client.converse_stream(modelId=NOVA, messages=MESSAGES)["stream"])
        begun.append(stream)
        try:
            list(stream)
        except exceptions.ProtocolError as error:
            raised.append(type(error))

    threads = [threading.Thread(target=follow, args=(client,)) for client in clients]
    threads[0].start()
    poll(lambda: api.count == 1, "the call has not begun")
    threads[1].start()
    api.permits.release()
    poll(lambda: len(begun) == 2, "the second caller does not follow")
    api.permits.release(9)
    for thread in threads:
        thread.join(20)

    assert raised == [exceptions.ProtocolError] * 2
    assert api.count == 1


def test_why_an_answer_is_not_stored_is_in_its_headers(api: ApiServer, sidecard: Client) -> None:
    """A whole answer is judged before botocore gets it; a request that passes says so, too."""
    shared = share(bedrock(api), sidecard=sidecard)
    api.refusals = [(200, json.dumps({"output": {"message": {"role": "assistant", "content": []}}}).encode())]
    answer = shared.converse(modelId=NOVA, messages=MESSAGES)
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-sidecard-not-stored"] == "incomplete"
    tools = {"tools": [{"systemTool": {"name": "send"}}]}
    headers = shared.converse(modelId=NOVA, messages=MESSAGES, toolConfig=tools)["ResponseMetadata"]["HTTPHeaders"]
    assert (headers["x-sidecard-source"], headers["x-sidecard-not-stored"]) == ("passed", "tool")


def test_accounts_do_not_share(api: ApiServer, sidecard: Client) -> None:
    """The long-lived id of the key is the account; the signature of each request is not."""
    for key, calls in (("AKIAAAAAAAAAAAAAAAAA", 1), ("AKIAAAAAAAAAAAAAAAAA", 1), ("AKIABBBBBBBBBBBBBBBB", 2)):
        share(bedrock(api, key), sidecard=sidecard).converse(modelId=NOVA, messages=MESSAGES)
        assert api.count == calls


def test_another_client_of_sidecard_replaces_a_closed_one(api: ApiServer, sidecard: Client) -> None:
    """A client of botocore may live longer than the client that it was shared with."""
    with Client("/nowhere") as first:
        shared = share(bedrock(api), sidecard=first)

    share(shared, sidecard=sidecard)
    share(shared)
    shared.converse(modelId=NOVA, messages=MESSAGES)
    headers = shared.converse(modelId=NOVA, messages=MESSAGES)["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-sidecard-source"] == "cache"


def test_headers_for_sidecard_are_not_sent(api: ApiServer, sidecard: Client) -> None:
    """An app sets them on the signed request, before it is shared."""
    shared = bedrock(api)

    def switch_off(request: Any, **_: Any) -> None:
        request.headers["x-sidecard-cache"] = "off"

    shared.meta.events.register_first("before-send.bedrock-runtime.*", switch_off)
    share(shared, sidecard=sidecard)
    for calls in (1, 2):
        shared.converse(modelId=NOVA, messages=MESSAGES)
        assert api.count == calls
        assert "x-sidecard-cache" not in api.headers[-1]
        assert "authorization" in api.headers[-1]


def test_other_services_cannot_be_shared() -> None:
    """The error says which service can."""
    client = SESSION.create_client("sts", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s")
    with pytest.raises(TypeError, match="Of botocore, clients of bedrock-runtime can be shared"):
        share(client)
