"""Identify a caller: the account behind a request's credentials. Pure, except for the app's own hook.

A caller reads only entries that were stored for its own identity, so a credential must prove what identifies it:

================================= ======================================================================================
credential                        what identifies the caller
================================= ======================================================================================
``identity=`` of the transport    that text, in place of all credentials
an API key, an opaque token       its SHA-256
a JWT                             its SHA-256, until the upstream has accepted this very token in this process; from then
                                  until the token's ``exp`` its claims, without those that differ from token to token
AWS signatures of an ``AKIA`` id  that id: it lives as long as its secret. It is no secret itself
AWS signatures of an ``ASIA`` id  the id and the hash of the session token, which both rotate
other AWS signatures              the hash of the signature, so nothing is shared
cookies                           their SHA-256, without those that proxies and load balancers set (`own_cookies`)
``key=`` and others in the query  its SHA-256 (`CREDENTIAL_PARAMETERS`)
================================= ======================================================================================

A request with several credentials is identified by all of them. A JWT's claims alone prove nothing: anyone can write a token
with another's ``sub``, and only the upstream verifies its signature.
"""

import hashlib
import re
from base64 import urlsafe_b64decode
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import unquote_plus

import msgspec
from msgspec import Struct

from sidecard_client.call.warn import warn
from sidecard_client.http.fork_safe_lock import ForkSafeLock
from sidecard_client.http.headers import CREDENTIAL_HEADERS, Headers, account_headers, own_cookies

ACCOUNT_DIGITS: Final = 12
"""Digits of an account in a backend's name: enough to distinguish the accounts of one host, too few to find a key by trying."""

MAX_ACCEPTED_TOKENS: Final = 4096
"""Limit of the accepted tokens that a process remembers. The least recently used one is forgotten."""

MAX_TOKEN_CHARACTERS: Final = 32 * 1024
"""A longer token is opaque."""

CREDENTIAL_PARAMETERS: Final = frozenset(
    {
        "key", "api_key", "api-key", "apikey", "access_token", "token", "auth", "code", "sig", "subscription-key",
        "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-security-token", "x-amz-signature",
        "x-amz-signedheaders",
    }
)  # fmt: skip
"""Parameters of a query that are credentials, in lower case."""

_OF_SIGNATURE: Final = frozenset(
    {"x-amz-algorithm", "x-amz-date", "x-amz-expires", "x-amz-signature", "x-amz-signedheaders"}
)
"""Parameters that belong to the signature of one request."""

_OF_ONE_TOKEN: Final = frozenset(
    {
        "exp", "iat", "nbf", "jti", "auth_time", "nonce", "at_hash", "c_hash", "s_hash", "updated_at",
        # Sessions: OpenID Connect, Keycloak, Supabase, Cognito
        "sid", "session_state", "session_id", "origin_jti", "event_id",
        # Entra
        "aio", "rh", "uti", "xms_ftd", "xms_pftexp", "pwd_exp",
    }
)  # fmt: skip
"""Claims that differ between two tokens of one principal. Every other claim may decide what the upstream answers."""

_SUBJECTS: Final = ("sub", "oid", "azp", "appid", "client_id", "cid")
"""A token without any of these claims names nobody."""

_JWT: Final = re.compile(r"ey[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""A signed token: an unsigned one ends with a dot, and an encrypted one has five parts."""
_AWS_ID: Final = re.compile(r"Credential=([^/,\s]+)/")
_ACCOUNT_IN_PATH: Final = re.compile(r"(?<=/)(projects|accounts|organizations)/[^/]+(?=/)")
_from_json = msgspec.json.Decoder(dict[str, Any]).decode
_to_json = msgspec.json.Encoder(order="deterministic").encode


IdentityHook = Callable[[Any], str | None]
"""Gets the request of httpx or httpx2, and returns who makes it, or None if its credentials are to identify the caller."""


class Destination(Protocol):
    """Where a request goes."""

    @property
    def scheme(self) -> str:
        """``http`` or ``https``."""

    @property
    def host(self) -> str:
        """The host's name, with the port unless it is the scheme's own."""

    @property
    def path(self) -> str:
        """The path of the URL."""

    @property
    def query(self) -> str:
        """The query as it is sent, without its question mark."""


class CallerIdentity(Struct, frozen=True):
    """Who makes a request. No field contains a credential."""

    principal: str
    """SHA-256 of what identifies the caller, for the key; empty without credentials.

    Weak credentials can be found from it, so only ``sidecard explain --json`` shows it.
    """
    account: str
    """Digits for the backend's name, of the principal and of the account that the request selects; empty without either."""
    source: str
    """What the principal was made from: ``given``, ``hash``, ``jwt``, ``aws``, several of them joined by ``+``, or empty."""
    unproven: str = ""
    """The principal while no JWT of the request is accepted; empty if it has none."""


class _Proof(NamedTuple):
    """A credential: its kind, what identifies the caller, and for a JWT also what did so before it was accepted."""

    kind: str
    text: bytes
    token: bytes = b""


class AcceptedTokens:
    """The JWTs that upstreams accepted in this process: hashes and times only. Safe to use from several threads."""

    def __init__(self, limit: int = MAX_ACCEPTED_TOKENS) -> None:
        self._limit = limit
        self._until: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        self._lock = ForkSafeLock()

    def __len__(self) -> int:
        return len(self._until)

    def claims(self, destination: Destination, token: str, now: float) -> bytes | None:
        """Return the hash of the lasting claims of a token that the upstream accepted; None without, or once it has expired."""
        known = _digest(f"{_place_of(destination)} {token}")
        with self._lock:
            found = self._until.get(known)
            if found is None:
                return None

            until, claims = found
            if now >= until:
                del self._until[known]
                return None

            self._until.move_to_end(known)
            return claims

    def accept(self, destination: Destination, headers: Headers, now: float) -> None:
        """Note that the upstream gave a complete answer of status 2xx to a call that was sent with these headers.

        Hits and answers to other callers do not count, nor do requests of other kinds: an upstream may list its models to anyone.
        """
        for token in _jwts_of(headers):
            read = _read_jwt(token)
            if read is None or now >= read[0]:
                continue

            with self._lock:
                known = _digest(f"{_place_of(destination)} {token}")
                self._until[known] = read
                self._until.move_to_end(known)
                while len(self._until) > self._limit:
                    self._until.popitem(last=False)

    def refuse(self, destination: Destination, headers: Headers) -> None:
        """Note that the upstream refused these credentials, with status 401 or 403: a token may be revoked."""
        for token in _jwts_of(headers):
            with self._lock:
                self._until.pop(_digest(f"{_place_of(destination)} {token}"), None)


ACCEPTED: Final = AcceptedTokens()
"""Those of this process."""


def identity_of(
    destination: Destination,
    headers: Headers,
    given: str | None = None,
    *,
    now: float,
    accepted: AcceptedTokens = ACCEPTED,
) -> CallerIdentity:
    """Return who makes a request. ``given`` is the value of ``identity=``; ``now`` is the time of day in seconds."""
    if given is not None:
        proofs = [_Proof("given", b"given " + given.encode("utf-8", "surrogateescape"))]
    else:
        proofs = list(_proofs_of(destination, headers, now, accepted))

    selected = [*account_headers(headers), *_account_in(destination.path)]
    principal = _joined_digest(sorted(proof.text for proof in proofs))
    account = _joined_digest([principal.encode(), *(line.encode("utf-8", "surrogateescape") for line in selected)])
    return CallerIdentity(
        principal if proofs else "",
        account[:ACCOUNT_DIGITS] if proofs or selected else "",
        "+".join(sorted({proof.kind for proof in proofs})),
        _joined_digest(sorted(proof.token or proof.text for proof in proofs))
        if any(proof.token for proof in proofs)
        else "",
    )


def checked_identity(identity: IdentityHook | str | None) -> IdentityHook | str | None:
    """Return a transport's ``identity=``. Raises `TypeError` if it is neither a text nor a function."""
    if identity is None or isinstance(identity, str) or callable(identity):
        return identity

    raise TypeError(f"identity= must be a text or a function of the request, not {type(identity).__name__}.")


def given_identity(identity: IdentityHook | str | None, request: Any) -> str | None:
    """Return the value of ``identity=`` for a request. If the hook fails, warn, and let the credentials identify the caller."""
    if identity is None or isinstance(identity, str):
        return identity

    try:
        said = identity(request)
    except Exception as error:  # noqa: BLE001 - the boundary to the app's hook
        problem = f"failed ({type(error).__name__})"
    else:
        if said is None or isinstance(said, str):
            return said

        problem = f"returned {type(said).__name__}"

    warn(f"identity= {problem}, so the credentials identify the caller: return a text, or None for that.", identity)
    return None


def visible_query(query: str) -> str:
    """Return a query without the credentials in it, for keys and for people to read."""
    return "&".join(pair for pair in query.split("&") if _parameter_of(pair)[0] not in CREDENTIAL_PARAMETERS)


def _account_in(path: str) -> list[str]:
    """Return the account that a path selects, as Google's and Cloudflare's do: ``/projects/NAME/``, ``/accounts/NAME/``."""
    return [found[0] for found in _ACCOUNT_IN_PATH.finditer(path)]


def _proofs_of(destination: Destination, headers: Headers, now: float, accepted: AcceptedTokens) -> Iterator[_Proof]:
    """Yield the proofs of the caller's identity."""
    has_session = any(name == "x-amz-security-token" for name, _ in headers)
    for name, value in headers:
        if name not in CREDENTIAL_HEADERS:
            continue

        if name == "cookie":
            value = own_cookies(value)  # noqa: PLW2901 - the rest of the header
            if not value:
                continue

        aws_id = _aws_id_of(value, with_session=has_session)
        token = _jwt_in(value)
        if aws_id is not None:
            yield _proof_of_aws(aws_id)
        elif token:
            claims, hashed = accepted.claims(destination, token, now), _hashed(name, value)
            kind, text = ("hash", hashed) if claims is None else ("jwt", name.encode() + b" jwt " + claims)
            yield _Proof(kind, text, hashed)
        else:
            yield _Proof("hash", _hashed(name, value))

    yield from _proofs_in_query(destination.query)


def _proofs_in_query(query: str) -> Iterator[_Proof]:
    if not query:
        return

    found = [_parameter_of(pair) for pair in query.split("&")]
    credentials = {name: value for name, value in found if name in CREDENTIAL_PARAMETERS}
    aws_id = _aws_id_of(
        f"AWS4 Credential={credentials.get('x-amz-credential', '')}", with_session="x-amz-security-token" in credentials
    )
    for name, value in found:
        if name not in CREDENTIAL_PARAMETERS or (aws_id is not None and name in _OF_SIGNATURE):
            continue

        if aws_id is not None and name == "x-amz-credential":
            yield _proof_of_aws(aws_id)
        else:
            yield _Proof("hash", _hashed(name, value))


def _proof_of_aws(key_id: str) -> _Proof:
    return _Proof("aws" if key_id.startswith("AKIA") else "hash", f"aws {key_id}".encode())


def _aws_id_of(value: str, *, with_session: bool) -> str | None:
    """Return the access key id of an AWS signature that lasts: a long-lived one, or one whose session token is there too."""
    found = _AWS_ID.search(value) if value.startswith("AWS4") else None
    if found is None:
        return None

    return found[1] if found[1].startswith("AKIA") or with_session else None


def _jwts_of(headers: Headers) -> Iterator[str]:
    for name, value in headers:
        if name in CREDENTIAL_HEADERS and name != "cookie" and (token := _jwt_in(value)):
            yield token


def _jwt_in(value: str) -> str:
    """Return what looks like a JWT in the value of a header, after ``Bearer`` or alone; empty if nothing does."""
    token = value.rpartition(" ")[2]
    return token if len(token) <= MAX_TOKEN_CHARACTERS and _JWT.fullmatch(token) else ""


def _read_jwt(token: str) -> tuple[float, bytes] | None:
    """Return when a token expires, and the hash of its lasting claims; None if it has no signature, end or name."""
    head_part, claims_part, _ = token.split(".")
    head, claims = _json_of(head_part), _json_of(claims_part)
    until = claims.get("exp")
    signed = str(head.get("alg", "none")).lower() != "none"
    named = any(isinstance(claims.get(name), str) and claims[name] for name in _SUBJECTS)
    if not signed or not named or isinstance(until, bool) or not isinstance(until, int | float):
        return None

    lasting = {name: value for name, value in claims.items() if name not in _OF_ONE_TOKEN}
    if "iss" not in claims:
        lasting["kid"] = head.get("kid")

    return float(until), hashlib.sha256(_to_json(lasting)).digest()


def _json_of(part: str) -> dict[str, Any]:
    try:
        return _from_json(urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (msgspec.MsgspecError, RecursionError, UnicodeError, ValueError):
        return {}


def _parameter_of(pair: str) -> tuple[str, str]:
    name, _, value = pair.partition("=")
    return unquote_plus(name).lower(), unquote_plus(value)


def _place_of(destination: Destination) -> str:
    """Return the part of an upstream that accepts a token: one host may have services with and without a login."""
    return f"{destination.scheme}://{destination.host}{destination.path}"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _hashed(name: str, value: str) -> bytes:
    return f"{name} sha256 {_digest(value).hex()}".encode()


def _joined_digest(parts: list[bytes]) -> str:
    """Return one hash of several parts that cannot be mistaken for each other."""
    return hashlib.sha256(b"".join(len(part).to_bytes(8, "big") + part for part in parts)).hexdigest()
