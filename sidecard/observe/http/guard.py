"""Restrict reading over HTTP through a browser to the dashboard's own page.

There is no password. Other pages are excluded by what browsers enforce, requested by headers, and by a check of the host
name against DNS rebinding, which browsers cannot prevent.
Interleaving: 1. a page of ``evil.example`` is loaded; 2. its name is changed to resolve to 127.0.0.1; 3. the page's requests
to "its own" site arrive here, as same-origin. They still have ``Host: evil.example``, so only known names are admitted.
An address cannot be rebound: every IP address is admitted, as is needed behind a container's published port.
"""

import ipaddress
from collections.abc import Iterable

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_POLICY = (
    "default-src 'self'; img-src 'self'; script-src 'self'; style-src 'self'; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Headers of every response."""


class HostNames:
    """The host names that requests may use, with any port: ``names``, ``localhost`` and every IP address."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}

    def admit(self, host: str) -> bool:
        """Return whether a ``Host`` header has one of these names."""
        name = _without_port(host).lower().rstrip(".")
        return name in self._names or _is_address(name)


class Guard:
    """Wraps an application: rejects requests to unknown hosts, and adds `HEADERS` to every response.

    ``hosts`` is None for a Unix socket, which browsers cannot reach.
    """

    def __init__(self, app: ASGIApp, hosts: HostNames | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request of ASGI."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]

            await send(message)

        host = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
        # Only HTTP/1.0, which no browser uses, may omit the host.
        if self._hosts is not None and host and not self._hosts.admit(host):
            await _reject(host, send_guarded)
        else:
            await self._app(scope, receive, send_guarded)


async def _reject(host: str, send: Send) -> None:
    name = _without_port(host)[:255]
    sentence = f"The host name {name!r} is unknown: use the listener's IP address, or add the name to http.allow_hosts."
    body = msgspec.json.encode({"error": sentence})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 421, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]

    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False

    return True
