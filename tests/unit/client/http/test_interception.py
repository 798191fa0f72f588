"""How a request, its headers and the transport's policy become a call."""

import json
from typing import Any

import httpx2
import pytest
from msgspec import structs

from sidecard_client.call.call import UNKEYED
from sidecard_client.call.options import Options
from sidecard_client.http import interception
from sidecard_client.http.clients import Clients
from sidecard_client.http.identity import ACCEPTED
from sidecard_client.http.intercepted_call import InterceptedCall
from sidecard_client.http.interception import Interception, PassedRequest
from sidecard_client.http.recognition import families
from sidecard_client.http.transports import SidecardTransport
from sidecard_client.keys.prefixes.recipe import NO_PREFIXES
from sidecard_client.testing import FakeClient

BODY = json.dumps({"model": "m", "messages": []}).encode()


class Transport(Interception):
    """The policy of a transport, without one."""

    def __init__(self, **policy: Any) -> None:
        super().__init__(**policy)
        self._clients = Clients(FakeClient())


def intercept(headers: dict[str, str] | None = None, temperature: float = 1.0, **policy: Any) -> InterceptedCall:
    """Intercept a chat request."""
    body = json.dumps({"model": "m", "messages": [], "temperature": temperature}).encode()
    request = httpx2.Request("POST", "http://h/v1/chat/completions", headers=headers, content=body)
    transport = Transport(**policy)
    claimed = transport.claim(request)
    assert claimed is not None
    call = transport.intercept(request, claimed, body)
    assert isinstance(call, InterceptedCall)
    return call


def test_other_requests_are_not_claimed() -> None:
    """A request of an unknown path is not a call."""
    assert Transport().claim(httpx2.Request("GET", "http://h/v1/models")) is None


def test_a_request_that_passes_says_why() -> None:
    """A body that is too large or not the API's gives the reason, with the request's task."""
    request = httpx2.Request("POST", "http://h/v1/chat/completions", headers={"x-sidecard-task": "rag"}, content=b"{}")
    transport = Transport()
    claimed = transport.claim(request)
    assert claimed is not None
    assert transport.intercept(request, claimed, None) == PassedRequest("size", "openai_chat", "rag")
    assert transport.intercept(request, claimed, b"{}") == PassedRequest("dialect", "", "rag")


@pytest.mark.parametrize(
    ("control", "passes"), [("", True), ("off", True), ("refresh", True), ("on", False), ("only", False)]
)
def test_side_effects_are_shared_only_if_asked_for(control: str, *, passes: bool) -> None:
    """Callers with ``refresh`` share one call, as they do without it, so it must not reach such a request."""
    body = b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "store": true}'
    url = "http://h/v1/chat/completions"
    request = httpx2.Request("POST", url, headers={"x-sidecard-cache": control}, content=body)
    transport = Transport()
    claimed = transport.claim(request)
    assert claimed is not None
    assert (transport.intercept(request, claimed, body) == PassedRequest("state", "openai_chat")) is passes


@pytest.mark.parametrize(
    ("control", "keep", "temperature", "keyed", "mode"),
    [
        ("", "always", 1, True, "use"),
        ("refresh", "always", 1, True, "refresh"),
        ("only", "always", 1, True, "only_if_cached"),
        ("off", "always", 1, False, "use"),
        ("", "never", 1, True, "refresh"),
        ("only", "never", 1, True, "only_if_cached"),
        ("", "deterministic", 0, True, "use"),
        ("", "deterministic", 1, False, "use"),
        ("only", "deterministic", 1, False, "use"),
    ],
)
def test_control_and_keep_select_key_and_mode(
    control: str, keep: Any, temperature: float, keyed: bool, mode: str
) -> None:
    """A call without a key is made in any case."""
    policy = intercept({"x-sidecard-cache": control}, temperature, keep=keep).policy
    assert (policy["key"] is not None) is keyed
    assert policy.get("mode", "use") == mode


def test_headers_override_the_transports_policy() -> None:
    """Task and lifetime may differ from call to call."""
    policy = intercept({"x-sidecard-task": "rag", "x-sidecard-ttl": "9"}, task="other", ttl=1.0).policy
    assert (policy["task"], policy["ttl"]) == ("rag", 9.0)
    assert (policy["model"], policy["backend"]) == ("m", "h/m")


@pytest.mark.parametrize(("name", "value"), [("x-sidecard-cache", "maybe"), ("x-sidecard-ttl", "soon")])
def test_an_invalid_header_raises(name: str, value: str) -> None:
    """The error names the header and its value."""
    with pytest.raises(ValueError, match=f"{name} must be .* not '{value}'"):
        intercept({name: value})


def test_keep_must_be_a_known_rule() -> None:
    """A wrong rule raises when the transport is made."""
    with pytest.raises(ValueError, match="keep= must be 'always' or 'deterministic' or 'never', not 'sometimes'"):
        Transport(keep={"rag": "sometimes"})


def test_normal_forms_of_the_task_complete_the_key() -> None:
    """With ``normalize="task"`` the key waits for the daemon's settings."""
    call = intercept(normalize="task")
    assert call.needs_normal_forms
    assert call.policy["key"] == UNKEYED
    call.set_key(())
    assert not call.needs_normal_forms
    assert call.policy["key"] == intercept().policy["key"]


@pytest.mark.parametrize("keyword", ["ttl", "stale", "wait", "pace"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, 1e10, True, "5"])
def test_impossible_times_are_rejected_at_construction(keyword: str, value: Any) -> None:
    """And not by each request of the app; the error names the keyword."""
    with pytest.raises((TypeError, ValueError), match=f"{keyword}="):
        Interception(**{keyword: value})


@pytest.mark.parametrize("inner", [FakeClient(), "/s"])
def test_a_transport_refuses_what_is_no_transport(inner: Any) -> None:
    """At once: an SDK reports what its transport raises as a lost connection."""
    with pytest.raises(TypeError, match=r"inner= must be a transport.*sidecard="):
        SidecardTransport(inner)


def test_a_transport_refuses_what_is_no_client() -> None:
    """A path, for example, is given to a client."""
    with pytest.raises(TypeError, match="sidecard= must be a Client or an AsyncClient, not str"):
        SidecardTransport(sidecard="/run/s")  # type: ignore[arg-type]


def test_settings_of_connections_belong_to_the_transport_that_makes_them() -> None:
    """With ``inner=`` they would have no effect."""
    with pytest.raises(TypeError, match="http2= is a setting of the transport's own connections"):
        SidecardTransport(httpx2.HTTPTransport(), http2=True)


def test_a_transport_of_one_kind_says_so_to_the_other() -> None:
    """The error names the method that ``inner`` lacks."""
    transport = SidecardTransport(httpx2.AsyncHTTPTransport(), FakeClient())
    with pytest.raises(TypeError, match=r"AsyncHTTPTransport, which has no handle_request\(\): it serves asynchronous"):
        transport.handle_request(httpx2.Request("GET", "http://h/"))


def test_what_a_head_contributes_is_remembered_by_all_that_counts() -> None:
    """The memory distinguishes callers, accounts and endpoints, and ignores ids of requests."""
    transport = Transport()

    def key(**headers: str) -> str:
        request = httpx2.Request("POST", "http://h/v1/chat/completions", headers=headers, content=BODY)
        claimed = transport.claim(request)
        assert claimed is not None
        call = transport.intercept(request, claimed, BODY)
        assert isinstance(call, InterceptedCall)
        return str(call.policy["key"])

    first = key(authorization="Bearer a")
    assert key(authorization="Bearer a", **{"x-request-id": "7"}) == first
    assert len(transport._known) == 1
    assert (
        len({first, key(authorization="Bearer b"), key(authorization="Bearer a", **{"openai-project": "p"}), key()})
        == 4
    )
    assert key(authorization="Bearer a", host="other") != first


def test_what_a_token_proves_is_asked_anew() -> None:
    """Acceptance and expiry of a token are evaluated for each request."""
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIiwiZXhwIjo5OTk5OTk5OTk5fQ.c2ln"
    transport = Transport()
    request = httpx2.Request(
        "POST", "http://h/v1/chat/completions", headers={"authorization": f"Bearer {token}"}, content=BODY
    )
    claimed = transport.claim(request)
    assert claimed is not None
    before = transport.intercept(request, claimed, BODY)
    assert isinstance(before, InterceptedCall)
    before.accept_credentials()
    try:
        after = transport.intercept(request, claimed, BODY)
        assert isinstance(after, InterceptedCall)
        assert (before.asked.caller.source, after.asked.caller.source) == ("hash", "jwt")
    finally:
        ACCEPTED.refuse(claimed.target, list(claimed.headers.items()))


@pytest.mark.parametrize(
    ("control", "passes"), [("", True), ("refresh", True), ("off", True), ("on", False), ("only", False)]
)
def test_a_request_with_side_effects_is_shared_only_if_the_app_insists(control: str, passes: bool) -> None:
    """Another control is no wish to have it made once; a stored answer alone has no effect."""
    body = json.dumps({"model": "m", "input": "x", "conversation": "c"}).encode()
    request = httpx2.Request("POST", "http://h/v1/responses", headers={"x-sidecard-cache": control}, content=body)
    transport = Transport()
    claimed = transport.claim(request)
    assert claimed is not None
    found = transport.intercept(request, claimed, body)
    assert (found == PassedRequest("state", "openai_responses")) is passes


def test_a_fault_in_here_lets_the_request_pass(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The app's request does not fail because of sidecard; a wrong header is the app's own."""

    def fail(*_: object, **__: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(interception, "described_request", fail)
    request = httpx2.Request("POST", "http://h/v1/chat/completions", headers={"x-sidecard-task": "rag"}, content=BODY)
    transport = Transport()
    claimed = transport.claim(request)
    assert claimed is not None
    assert transport.intercept(request, claimed, BODY) == PassedRequest("dialect", "", "rag")
    assert "intercepting a request failed" in caplog.text


def test_a_call_offers_the_prefixes_of_its_prompt() -> None:
    """They are found when they are asked for, and scoped to the account."""
    one, other = (intercept({"authorization": f"Bearer {key}"}) for key in ("a", "b"))
    (found, different) = (call.options(Options()).prefix for call in (one, other))
    assert callable(found)
    assert callable(different)
    assert found() == different() == NO_PREFIXES  # without messages

    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).encode()
    prefixes = set()
    for key in ("a", "b", "b"):
        request = httpx2.Request(
            "POST", "http://h/v1/chat/completions", headers={"authorization": f"Bearer {key}"}, content=body
        )
        transport = Transport()
        claimed = transport.claim(request)
        assert claimed is not None
        call = transport.intercept(request, claimed, body)
        assert isinstance(call, InterceptedCall)
        prefixes |= {*call.prefixes().digests}

    assert len(prefixes) == 2


def test_a_request_without_a_prompt_offers_no_prefixes() -> None:
    """Such as one for embeddings, even if the app wants no cache."""
    body = b'{"model": "m", "input": "hi"}'
    request = httpx2.Request("POST", "http://h/v1/embeddings", content=body)
    transport = Transport()
    claimed = transport.claim(request)
    assert claimed is not None
    call = transport.intercept(request, claimed, body)
    assert isinstance(call, InterceptedCall)
    assert call.options(Options()).prefix is None


def test_a_fault_in_finding_prefixes_costs_only_these(caplog: pytest.LogCaptureFixture) -> None:
    """The call is made without them."""

    class Faulty(type(families()["openai_chat"])):  # type: ignore[misc]  # a class that is known at run time only
        def prompt(self, *_: Any) -> Any:
            raise KeyError("messages")

    call = intercept()
    call.asked = structs.replace(call.asked, family=Faulty())
    assert call.prefixes() == NO_PREFIXES
    assert "without them" in caplog.text
