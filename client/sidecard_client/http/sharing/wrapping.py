"""Put the sharing transport around the transports of an HTTP client, once."""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary

from sidecard_client.call.warn import warn
from sidecard_client.http.fork_safe_lock import ForkSafeLock
from sidecard_client.http.sharing.libraries import is_bedrock_client
from sidecard_client.http.sharing.references import referred_by
from sidecard_client.http.transports import SidecardTransport

if TYPE_CHECKING:
    from sidecard_client._async.client import AsyncClient
    from sidecard_client._sync.client import Client

MAX_LAYERS: Final = 100
"""Limit of the objects that are searched for a sharing transport inside another transport."""

_lock: Final = ForkSafeLock()
_settings: Final[WeakKeyDictionary[SidecardTransport, tuple[object, dict[str, Any]]]] = WeakKeyDictionary()
"""How each transport was made."""


def share_client(client: Any, sidecard: "Client | AsyncClient", policy: dict[str, Any], *, given: bool) -> None:
    """Wrap the transports of an HTTP client, and those it has for some hosts or proxies. A shared one stays as it is.

    If the app has ``given`` this ``sidecard``, a transport that is shared already uses it from now on: modules such as
    ``litellm`` live longer than the client that they were shared with.
    A transport that several clients or hosts use gets one wrapper for each of them. A client of botocore gets a handler.
    """
    if is_bedrock_client(client):
        import_module("sidecard_client.integrations.botocore").share_client(client, sidecard, policy, given=given)
        return

    with _lock:
        client._transport = _shared(client, client._transport, sidecard, policy, given=given)  # noqa: SLF001 - the libraries' only place for it
        mounts = client._mounts  # noqa: SLF001 - as above
        for pattern, transport in list(mounts.items()):
            if transport is not None:
                mounts[pattern] = _shared(client, transport, sidecard, policy, given=given)


def _shared(
    client: Any, transport: Any, sidecard: "Client | AsyncClient", policy: dict[str, Any], *, given: bool
) -> SidecardTransport:
    known = _sharing_transport_in(transport)
    if known is None:
        shared = SidecardTransport(transport, sidecard, **policy)
        _settings[shared] = sidecard, policy
        return shared

    used, first_policy = _settings.get(known, (sidecard, policy))
    if given and used is not sidecard:
        known.use(sidecard)
        _settings[known] = sidecard, first_policy

    if policy and first_policy != policy:
        name = f"{type(client).__module__.partition('.')[0]}.{type(client).__name__}"
        warn(
            f"share() with {', '.join(f'{keyword}=' for keyword in policy)} changed nothing: this {name} is shared already, "
            "with another policy. Make one client for each policy."
        )

    return transport  # type: ignore[no-any-return]  # a transport that shares, perhaps within another one


def _sharing_transport_in(transport: Any) -> SidecardTransport | None:
    """Return the sharing transport that another one is, or has inside: a call must not wait for itself."""
    layers, known = [transport], {id(transport)}
    while layers and len(known) < MAX_LAYERS:
        layer = layers.pop(0)
        if isinstance(layer, SidecardTransport):
            return layer

        for _, inner in referred_by(layer):
            if id(inner) not in known and _is_transport(inner):
                known.add(id(inner))
                layers.append(inner)

    return None


def _is_transport(value: Any) -> bool:
    return hasattr(type(value), "handle_request") or hasattr(type(value), "handle_async_request")
