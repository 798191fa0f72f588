"""The policy of shared objects, and the clients of the daemon that they use."""

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from sidecard_client.call.base_client import BaseClient
from sidecard_client.call.options import Options
from sidecard_client.http.fork_safe_lock import ForkSafeLock
from sidecard_client.http.interception import Interception
from sidecard_client.http.sharing.libraries import is_async

if TYPE_CHECKING:
    from sidecard_client._async.client import AsyncClient
    from sidecard_client._sync.client import Client

_lock: Final = ForkSafeLock()
_defaults: Final[dict[bool, "Client | AsyncClient"]] = {}
"""Those of this process, by whether they are asynchronous: an app may make an SDK's client for each request."""
_counterparts: Final["WeakKeyDictionary[BaseClient, Client | AsyncClient]"] = WeakKeyDictionary()


def checked_policy(policy: dict[str, Any], sidecard: "Client | AsyncClient | None") -> dict[str, Any]:
    """Return the keywords of the transport: those of ``policy``, else what ``sidecard`` has as defaults of every call.

    Raises `TypeError` for an unknown keyword and for a wrong ``sidecard``, and what the transport raises for a wrong value.
    """
    if sidecard is not None and not isinstance(sidecard, BaseClient):
        raise TypeError(f"sidecard= must be a Client or an AsyncClient, not {type(sidecard).__name__}.")

    known = Interception.__init__.__kwdefaults__ or {}
    unknown = sorted(set(policy) - set(known))
    if unknown:
        raise TypeError(f"{unknown[0]}= is not a keyword of share(); there are: sidecard, {', '.join(sorted(known))}.")

    Interception(**policy)  # an impossible value is an error even if every client is shared already
    return policy if sidecard is None else _defaults_of(sidecard) | policy


def _defaults_of(sidecard: "Client | AsyncClient") -> dict[str, Any]:
    options, plain = sidecard.defaults, Options()
    fields = {
        "task": "task",
        "ttl": "ttl_seconds",
        "stale": "stale_seconds",
        "wait": "wait_seconds",
        "normalize": "normalize",
    }
    own = {keyword: getattr(options, field) for keyword, field in fields.items()}
    return {keyword: value for keyword, value in own.items() if value != getattr(plain, fields[keyword])}


def sidecard_of(client: object, given: "Client | AsyncClient | None") -> "Client | AsyncClient":
    """Return the client of the daemon for an HTTP client: of its kind, blocking or asynchronous."""
    awaits = is_async(client)
    with _lock:
        if given is None:
            if awaits not in _defaults:
                _defaults[awaits] = _class(awaits=awaits)()

            return _defaults[awaits]

        if given.awaits is awaits:
            return given

        if given not in _counterparts:
            _counterparts[given] = given.counterpart(_class(awaits=awaits))

        return _counterparts[given]


def _class(*, awaits: bool) -> "type[Client | AsyncClient]":
    if awaits:
        from sidecard_client import AsyncClient  # noqa: PLC0415 - it needs anyio, an optional dependency

        return AsyncClient

    from sidecard_client import Client  # noqa: PLC0415 - users of the asynchronous client do not need it

    return Client
