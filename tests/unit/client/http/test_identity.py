"""Who makes a request: the account behind its credentials, and what proves it."""

import base64
import hashlib
import json
from typing import Any

import pytest
from msgspec import Struct, structs

from sidecard_client import SidecardWarning
from sidecard_client.http.identity import (
    AcceptedTokens,
    CallerIdentity,
    checked_identity,
    given_identity,
    identity_of,
    visible_query,
)
from sidecard_client.http.request import FirstRequests

NOW = 1_800_000_000.0


class Place(Struct, frozen=True):
    """Where a request goes."""

    scheme: str = "https"
    host: str = "api.example.com"
    path: str = "/v1/chat/completions"
    query: str = ""


HERE = Place()


def jwt(signature: str = "c2ln", alg: str = "RS256", **claims: Any) -> str:
    """Return a token of alice's application, with other claims where given."""
    own = {"iss": "https://login", "sub": "alice", "azp": "app", "scp": "chat", "tid": "t", "exp": NOW + 3600} | claims
    parts = [{"alg": alg, "typ": "JWT", "kid": "k1"}, {name: value for name, value in own.items() if value is not None}]
    return ".".join([*(_part(json.dumps(part).encode()) for part in parts), signature])


def _part(text: bytes) -> str:
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def bearer(token: str) -> list[tuple[str, str]]:
    """Return the headers that carry a token."""
    return [("authorization", f"Bearer {token}")]


def who(
    headers: list[tuple[str, str]], accepted: AcceptedTokens | None = None, place: Place = HERE, now: float = NOW
) -> CallerIdentity:
    """Return the identity of a request."""
    return identity_of(place, headers, now=now, accepted=accepted or AcceptedTokens())


def after(*tokens: str, limit: int = 100) -> AcceptedTokens:
    """Return tokens that were accepted."""
    accepted = AcceptedTokens(limit)
    for token in tokens:
        accepted.accept(HERE, bearer(token), NOW)

    return accepted


# JWTs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "renewed",
    [
        {"exp": NOW + 7200, "iat": NOW, "nbf": NOW, "jti": "2"},
        {"aio": "x", "uti": "y", "rh": "z", "sid": "s2"},
        {"auth_time": 5, "session_state": "q", "at_hash": "h"},
    ],
)
def test_renewed_tokens_of_one_principal_are_one_identity(renewed: dict[str, Any]) -> None:
    """Once the upstream has accepted both, they differ only in what every token has of its own."""
    old, new = jwt(), jwt(signature="bmV3", **renewed)
    accepted = after(old, new)
    one, other = who(bearer(old), accepted), who(bearer(new), accepted)
    assert (one.principal, one.account, one.source) == (other.principal, other.account, "jwt")


@pytest.mark.parametrize(
    "claims",
    [{"sub": "bob"}, {"iss": "https://other"}, {"azp": "app2"}, {"scp": "chat admin"}, {"tid": "t2"}, {"roles": ["r"]},
     {"aud": "api2"}, {"https://example.com/tenant": "b"}, {"org_id": "o"}],
)  # fmt: skip
def test_every_lasting_claim_is_part_of_the_identity(claims: dict[str, Any]) -> None:
    """Issuer, subject, application, tenant, scopes, roles, and unknown claims."""
    one, other = jwt(), jwt(**claims)
    accepted = after(one, other)
    assert who(bearer(one), accepted).principal != who(bearer(other), accepted).principal


def test_a_forged_token_is_identified_by_its_hash() -> None:
    """A token with alice's claims and another signature was not accepted, so it reads nothing of hers."""
    alice, forged = jwt(), jwt(signature="Zm9yZ2Vk")
    accepted = after(alice)
    assert who(bearer(alice), accepted).source == "jwt"
    assert who(bearer(forged), accepted) == who(bearer(forged))
    assert who(bearer(forged), accepted).source == "hash"
    assert who(bearer(forged), accepted).principal != who(bearer(alice), accepted).principal


@pytest.mark.parametrize(
    "elsewhere",
    [{"host": "other.example.com"}, {"host": "api.example.com:8443"}, {"scheme": "http"}, {"path": "/public/chat/completions"}],
)  # fmt: skip
def test_what_one_upstream_accepts_proves_nothing_to_another(elsewhere: dict[str, str]) -> None:
    """Acceptance is per host and path: a route without a login accepts any token."""
    accepted = after(jwt())
    assert who(bearer(jwt()), accepted, structs.replace(HERE, **elsewhere)).source == "hash"


def test_a_token_counts_until_it_expires_or_is_refused() -> None:
    """Afterwards its hash identifies it, whatever was accepted before."""
    accepted = after(jwt())
    assert who(bearer(jwt()), accepted, now=NOW + 3599).source == "jwt"
    assert who(bearer(jwt()), accepted, now=NOW + 3600).source == "hash"

    accepted = after(jwt())
    accepted.refuse(HERE, bearer(jwt()))
    assert who(bearer(jwt()), accepted).source == "hash"


@pytest.mark.parametrize(
    "token",
    [
        jwt(exp=None), jwt(exp="soon"), jwt(exp=True), jwt(exp=NOW), jwt(sub=None, azp=None), jwt(alg="none"), jwt(alg="NONE"),
        jwt(signature=""), "a.b.c", "eyJ.eyJ.x", "ya29.a0AfH6SMB", f"{_part(b'[]')}.{_part(b'[]')}.x", "e" * 50_000,
        f"ey.{_part(b'{' * 9000)}.x",
    ],
)  # fmt: skip
def test_tokens_that_name_nobody_for_a_time_stay_opaque(token: str) -> None:
    """Without an end, a name or a signature, a token is a key like any other."""
    assert who(bearer(token), after(token)) == who(bearer(token))
    assert who(bearer(token)).source == "hash"
    assert len(after(token)) == 0


def test_a_second_credential_is_never_left_out() -> None:
    """An upstream that looks at the API key alone accepts any token beside it."""
    alice = jwt()
    attacker = [*bearer(alice), ("x-api-key", "attackers")]
    accepted = after(alice)
    accepted.accept(HERE, attacker, NOW)
    assert who(attacker, accepted).principal != who(bearer(alice), accepted).principal
    assert who(attacker, accepted).source == "hash+jwt"


def test_tokens_of_other_headers_are_read_too() -> None:
    """A gateway's assertion is a JWT as well, and names another principal than the same claims elsewhere."""
    headers = [("cf-access-jwt-assertion", jwt())]
    accepted = AcceptedTokens()
    accepted.accept(HERE, headers, NOW)
    assert who(headers, accepted).source == "jwt"
    accepted.accept(HERE, bearer(jwt()), NOW)
    assert who(headers, accepted).principal != who(bearer(jwt()), accepted).principal


def test_the_memory_of_accepted_tokens_is_bounded() -> None:
    """The least recently used one is forgotten."""
    tokens = [jwt(jti=str(number)) for number in range(3)]
    accepted = after(*tokens[:2], limit=2)
    assert who(bearer(tokens[0]), accepted).source == "jwt"
    accepted.accept(HERE, bearer(tokens[2]), NOW)
    assert len(accepted) == 2
    assert [who(bearer(token), accepted).source for token in tokens] == ["jwt", "hash", "jwt"]


def test_a_request_keeps_its_key_when_its_token_is_accepted() -> None:
    """Repeated with the same token, it finds the answer that was stored before; other requests use the claims."""
    first, accepted = FirstRequests(limit=2), AcceptedTokens()
    before = who(bearer(jwt()), accepted)
    assert first.principal_of(before, {"body": 1}) == before.principal == before.unproven

    accepted.accept(HERE, bearer(jwt()), NOW)
    after_it = who(bearer(jwt()), accepted)
    assert first.principal_of(after_it, {"body": 1}) == before.principal
    assert first.principal_of(after_it, {"body": 2}) == after_it.principal != before.principal

    renewed = jwt(jti="2")
    accepted.accept(HERE, bearer(renewed), NOW)
    assert first.principal_of(who(bearer(renewed), accepted), {"body": 1}) == after_it.principal

    for number in (3, 4):
        first.principal_of(before, {"body": number})

    assert first.principal_of(after_it, {"body": 1}) == after_it.principal


# AWS -----------------------------------------------------------------------------------------------------------------


def signed(key_id: str, signature: str, scheme: str = "AWS4-HMAC-SHA256", **headers: str) -> list[tuple[str, str]]:
    """Return the headers of a signed request."""
    scope = f"Credential={key_id}/20270115/us-east-1/bedrock/aws4_request"
    value = f"{scheme} {scope}, SignedHeaders=host;x-amz-date, Signature={signature}"
    return [("authorization", value), *((name.replace("_", "-"), text) for name, text in headers.items())]


@pytest.mark.parametrize("scheme", ["AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"])
def test_a_long_lived_id_identifies_signed_requests(scheme: str) -> None:
    """Signature and date differ from request to request."""
    one, two = who(signed("AKIAONE", "1", scheme)), who(signed("AKIAONE", "2", scheme, x_amz_date="20270115T000001Z"))
    assert one == two
    assert one.source == "aws"
    assert one.principal != who(signed("AKIATWO", "1", scheme)).principal


def test_a_temporary_id_is_its_session() -> None:
    """The session token is part of it; without one, there is only the signature."""
    one, two = (who(signed("ASIAONE", number, x_amz_security_token="token")) for number in "12")
    assert one == two
    assert one.source == "hash"
    assert one != who(signed("ASIAONE", "1", x_amz_security_token="other"))
    assert who(signed("ASIAONE", "1")) != who(signed("ASIAONE", "2"))


def test_signatures_in_the_query_identify_as_those_of_headers_do() -> None:
    """A presigned URL has the id, and for a session its token."""

    def presigned(key_id: str, signature: str) -> CallerIdentity:
        scope = f"{key_id}%2F20270115%2Fus-east-1%2Fbedrock%2Faws4_request"
        query = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={scope}&X-Amz-Date=1&X-Amz-Signature={signature}"
        return who([], place=structs.replace(HERE, query=query))

    assert presigned("AKIAONE", "1") == presigned("AKIAONE", "2") != presigned("AKIATWO", "1")
    assert presigned("AKIAONE", "1").source == "aws"
    assert presigned("ASIAONE", "1") != presigned("ASIAONE", "2")


# Everything else -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    ["authorization", "x-api-key", "api-key", "x-goog-api-key", "helicone-auth", "cf-aig-authorization", "x-litellm-api-key",
     "x-portkey-api-key", "ocp-apim-subscription-key", "cookie"],
)  # fmt: skip
def test_other_credentials_are_identified_by_their_hash(header: str) -> None:
    """The identity differs with the value, and shows none of it."""
    one, other = who([(header, "sk-canary-1")]), who([(header, "sk-canary-2")])
    assert one.source == "hash"
    assert one != other != who([])
    assert "canary" not in repr(one)


def test_cookies_of_a_proxy_change_nothing() -> None:
    """A session stays one identity when a proxy sets a cookie; alone, that cookie is no identity at all."""
    assert who([("cookie", "session=s; __cf_bm=1")]) == who([("cookie", "__cf_bm=2; session=s")])
    assert who([("cookie", "__cf_bm=1")]) == who([]) == CallerIdentity("", "", "")
    assert who([("cookie", "session=s")]) != who([("cookie", "session=t")])


@pytest.mark.parametrize("query", ["key=1", "api-key=1", "API_KEY=1", "access%5Ftoken=1", "alt=sse&key=1"])
def test_a_credential_in_the_query_identifies_and_is_not_shown(query: str) -> None:
    """Gemini's ``key=`` is one."""
    one, two = (who([], place=structs.replace(HERE, query=text)) for text in (query, query.replace("1", "2")))
    assert one.source == "hash"
    assert one != two
    assert visible_query(query) == ("alt=sse" if "alt" in query else "")


def test_the_account_is_principal_organization_and_project() -> None:
    """Each has a backend of its own, for a limit of one is not a limit of another."""
    key = ("authorization", "Bearer sk-1")
    accounts = {
        who([key, *selected]).account
        for selected in ([], [("openai-organization", "a")], [("openai-organization", "b")], [("openai-project", "a")])
    }
    assert len(accounts) == 4
    assert who([("openai-project", "a")]).account
    assert who([("openai-project", "a")]).principal == ""


@pytest.mark.parametrize(
    "path",
    ["/v1/projects/{}/locations/global/publishers/google/models/gemini:generateContent",
     "/client/v4/accounts/{}/ai/v1/chat/completions"],
)  # fmt: skip
def test_a_path_may_select_the_account(path: str) -> None:
    """Google's and Cloudflare's paths name what OpenAI's headers do."""
    key = [("authorization", "Bearer ya29.x")]
    one, other = (who(key, place=structs.replace(HERE, path=path.format(name))) for name in "ab")
    assert one.account != other.account
    assert one.principal == other.principal


def test_what_the_app_says_replaces_all_credentials() -> None:
    """``identity=`` is for credentials that rotate; organization and project still select the account."""
    rotated = [identity_of(HERE, [("authorization", f"Bearer {number}")], "team-a", now=NOW) for number in range(2)]
    assert rotated[0] == rotated[1]
    assert rotated[0].source == "given"
    assert rotated[0] != identity_of(HERE, [], "team-b", now=NOW)
    assert rotated[0].account != identity_of(HERE, [("openai-project", "p")], "team-a", now=NOW).account


@pytest.mark.parametrize("hook", [lambda request: request["user"], "alice"])
def test_the_app_says_it_by_a_text_or_a_function(hook: Any) -> None:
    """The function gets the request."""
    assert given_identity(checked_identity(hook), {"user": "alice"}) == "alice"


@pytest.mark.parametrize(
    ("hook", "problem"), [(lambda _: 5, "returned int"), (lambda request: request["user"], r"failed \(KeyError")]
)
def test_a_faulty_hook_leaves_the_credentials(hook: Any, problem: str) -> None:
    """A warning says so; the request is made."""
    with pytest.warns(SidecardWarning, match=f"identity= {problem}.*: return a text, or None"):
        assert given_identity(hook, {}) is None


def test_an_identity_of_a_wrong_type_is_an_error() -> None:
    """When the transport is made."""
    with pytest.raises(TypeError, match="identity= must be a text or a function of the request, not int"):
        checked_identity(5)  # type: ignore[arg-type]  # wrong on purpose


def test_an_identity_cannot_be_guessed_from_its_account() -> None:
    """The backend's name has 12 digits, and they are not those of the credential's own hash."""
    shown = who(bearer("sk-1")).account
    assert len(shown) == 12
    assert not hashlib.sha256(b"Bearer sk-1").hexdigest().startswith(shown)
