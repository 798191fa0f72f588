"""Sharing an object: the HTTP clients that are found inside it, once each, and the errors if there are none."""

import functools
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import httpx2
import openai
import pytest

from sidecard_client import Client, SidecardTransport, SidecardWarning, share
from sidecard_client.http.sharing.references import referred_by


class Holder:
    """Holds one object in its ``__dict__``."""

    def __init__(self, held: object) -> None:
        self._held = held


class Slots:
    """Holds one object in a private slot."""

    __slots__ = ("__held", "empty")

    def __init__(self, held: object) -> None:
        self.__held = held

    def held(self) -> object:
        """Return it."""
        return self.__held


class Trap:
    """Has a property and a ``__getattr__`` that must not run."""

    @property
    def client(self) -> object:
        """Fail."""
        raise AssertionError

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def closure(held: object) -> Any:
    """Return a function that captures an object."""

    def inside() -> object:
        return held

    return inside


def transport_of(client: Any) -> Any:
    """Return the transport of an HTTP client."""
    return client._transport


@pytest.fixture
def http() -> Iterator[httpx2.Client]:
    """A client of httpx2."""
    with httpx2.Client() as client:
        yield client


@pytest.mark.parametrize(
    "hold",
    [
        lambda held: held,
        Holder,
        Slots,
        closure,
        lambda held: {"a": [(held,)]},
        lambda held: SimpleNamespace(a=Holder(held)),
        lambda held: Slots(Holder(held)).held,
        lambda held: functools.partial(print, end=held),
    ],
    ids=["itself", "attribute", "slot", "closure", "containers", "namespace", "method", "partial"],
)
def test_clients_are_found_wherever_an_object_holds_them(hold: Any, http: httpx2.Client) -> None:
    """Attributes, private slots, closures, containers and bound methods are searched."""
    inner = transport_of(http)
    held = hold(http)
    assert share(held) is held
    assert isinstance(transport_of(http), SidecardTransport)
    assert transport_of(http)._inner is inner


@pytest.mark.parametrize("kind", [httpx.Client, httpx.AsyncClient, httpx2.Client, httpx2.AsyncClient])
def test_both_libraries_and_both_kinds_are_shared(kind: Any) -> None:
    """The transport is one class for all of them."""
    assert isinstance(transport_of(share(kind())), SidecardTransport)


def test_proxies_and_mounts_stay_in_use() -> None:
    """Each transport of a client is wrapped, so a request still leaves through the proxy that it would have used."""
    plain = httpx2.HTTPTransport()
    with httpx2.Client(mounts={"https://": plain, "http://10.0.0.1": None}, proxy="http://proxy:1") as http:
        before = dict(http._mounts)
        share(http)
        for pattern, transport in before.items():
            after: Any = http._mounts[pattern]
            assert after is None if transport is None else after._inner is transport

        assert {type(one) for one in http._mounts.values()} == {SidecardTransport, type(None)}


def test_sharing_twice_changes_nothing(http: httpx2.Client) -> None:
    """Neither directly nor through another object."""
    once = transport_of(share(http))
    assert share(Holder(http))._held is http
    assert transport_of(http) is once


def test_a_transport_that_shares_inside_is_left_alone() -> None:
    """A call through two sharing transports would wait for itself."""

    class Retrying(httpx2.BaseTransport):
        def __init__(self, inner: httpx2.BaseTransport) -> None:
            self.inner = inner

    with httpx2.Client(transport=Retrying(SidecardTransport(httpx2.HTTPTransport()))) as http:
        outer = transport_of(http)
        assert transport_of(share(http)) is outer


def test_another_client_of_sidecard_replaces_the_first(http: httpx2.Client) -> None:
    """A module such as ``litellm`` lives longer than the client that it was shared with. Without one, it stays."""
    first, second = Client(), Client()
    transport = transport_of(share(http, sidecard=first))
    share(http)
    assert transport._clients.blocking is first
    share(http, sidecard=second)
    assert transport_of(http) is transport
    assert transport._clients.blocking is second


def test_another_policy_for_a_shared_client_is_reported(http: httpx2.Client) -> None:
    """The first policy stays."""
    share(http, task="rag")
    share(http, task="rag")
    with pytest.warns(SidecardWarning, match=r"task= changed nothing: this httpx2.Client is shared already"):
        share(http, task="chat")


def test_cycles_end_and_properties_are_not_read(http: httpx2.Client) -> None:
    """Objects may refer to each other, and reading an unknown property may have effects."""
    one, two = Holder(None), Holder(None)
    one._held, two._held = [two, Trap(), http], one
    share(one)
    assert isinstance(transport_of(http), SidecardTransport)


def test_a_client_of_sidecard_may_be_given(http: httpx2.Client) -> None:
    """Objects of the other kind get a client with the same arguments, one for all of them."""
    given = Client()
    pair = [httpx2.AsyncClient(), httpx2.AsyncClient()]
    share([http, pair], sidecard=given)
    assert transport_of(http)._clients.blocking is given
    assert transport_of(pair[0])._clients.awaiting is transport_of(pair[1])._clients.awaiting


def test_all_objects_of_a_process_use_one_client() -> None:
    """An app may make an SDK's client for each request."""
    with httpx2.Client() as one, httpx.Client() as two:
        share([one, two])
        assert transport_of(one)._clients.blocking is transport_of(two)._clients.blocking


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (
            Holder({"key": Slots("text")}),
            r"in .*Holder: no Client or AsyncClient of httpx2 or httpx in .* 3 objects \(._held, ._held\['key'\]\)",
        ),
        (httpx2.Client, r"takes an object, not the class Client: share\(Client\(...\)\)"),
        ("text", "nothing to share in builtins.str"),
        (None, "nothing to share in builtins.NoneType"),
    ],
    ids=["object", "class", "text", "nothing"],
)
def test_nothing_to_share_is_an_error_that_says_what_was_looked_for(target: object, message: str) -> None:
    """It names the object, the classes and the attributes."""
    with pytest.raises(TypeError, match=message):
        share(target)


def test_an_unknown_keyword_is_an_error(http: httpx2.Client) -> None:
    """The known ones are listed, and nothing is wrapped."""
    inner = transport_of(http)
    with pytest.raises(TypeError, match=r"tll= is not a keyword of share\(\); there are: sidecard, backend, .*ttl"):
        share(http, tll=5)

    with pytest.raises(ValueError, match="ttl"):
        share(http, ttl=-1)

    with pytest.raises(TypeError, match="sidecard= must be a Client or an AsyncClient, not str"):
        share(http, sidecard="/run/sidecard.sock")  # type: ignore[arg-type]  # wrong on purpose

    assert transport_of(http) is inner


def test_what_cannot_hold_a_client_is_not_entered() -> None:
    """Objects of the standard library have locks, threads and loops inside."""
    assert list(referred_by(Trap())) == []
    assert list(referred_by(object())) == []


def test_clients_that_an_sdk_makes_for_each_event_loop_are_shared() -> None:
    """Google's SDK sends with inner clients, which its own client makes late."""

    class PerLoop(httpx2.AsyncClient):
        """Makes a client for each loop."""

        _inner_client_cls = httpx2.AsyncClient

        def __init__(self) -> None:
            super().__init__()
            self._loop_clients = {"earlier": httpx2.AsyncClient()}

        def made(self) -> Any:
            """Return the client of another loop."""
            return self._inner_client_cls()

    class BaseApiClient:
        """Has such a client, which it would use only without aiohttp."""

        def __init__(self) -> None:
            self._async_httpx_client = PerLoop()
            self._http_options = SimpleNamespace(httpx_async_client=None)

        def _use_aiohttp(self) -> bool:
            return self._http_options.httpx_async_client is None

    BaseApiClient.__module__ = "google.genai._api_client"
    sdk = BaseApiClient()
    share(share(Holder(sdk)))
    inner = sdk._async_httpx_client
    assert not sdk._use_aiohttp()
    for client in (inner, inner.made(), inner._loop_clients["earlier"]):
        assert isinstance(transport_of(client), SidecardTransport)
        assert not isinstance(transport_of(client)._inner, SidecardTransport)


# Client.wrap ---------------------------------------------------------------------------------------------------------


def test_wrap_shares_an_sdks_object_by_its_http_clients() -> None:
    """It returns the object itself, whose requests use this client and its defaults."""
    sidecard = Client(task="rag", ttl=60)
    llm = openai.OpenAI(api_key="k")
    assert sidecard.wrap(llm, keep_length=True) is llm
    transport = transport_of(llm._client)
    assert transport._clients.blocking is sidecard
    assert (transport._task, transport._ttl, transport._keep_length) == ("rag", 60, True)


def test_wrap_makes_a_proxy_of_any_other_object() -> None:
    """An app's own class is called by its methods, also if it has an SDK's client inside or derives from one."""
    sidecard = Client()
    llm = openai.OpenAI(api_key="k")
    for target, methods in ((Holder(llm), None), (llm, ["get"])):
        assert repr(sidecard.wrap(target, methods=methods)).startswith("<shared ")

    assert not isinstance(transport_of(llm._client), SidecardTransport)


def test_an_sdks_object_without_http_clients_becomes_a_proxy() -> None:
    """There is nothing else to share of it."""
    assert repr(Client().wrap(openai.NotGiven())).startswith("<shared ")


def test_copies_of_an_sdks_client_use_the_same_http_client() -> None:
    """With other options, its calls are shared as before."""
    llm = share(openai.OpenAI(api_key="k"))
    assert llm.with_options(timeout=5).copy(max_retries=0)._client is llm._client
