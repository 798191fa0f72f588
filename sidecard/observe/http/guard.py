"""Who may read over HTTP through a browser: nobody but the dashboard's own page.

There is no password, so what keeps pages from elsewhere out is what browsers enforce, told them by headers, and one thing
that they cannot enforce: DNS rebinding.
Interleaving: 1. a page of ``evil.example`` is loaded; 2. its name is made to resolve to 127.0.0.1; 3. the page's requests to
"its own" site arrive here, as same-origin. They still say ``Host: evil.example``, so names are admitted only if known.
An address cannot be rebound: any IP address is fine, as it is behind a container's published port.
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
"""On every answer, whatever it is."""


class Hosts:
    """The names that a request may ask for, whatever their port: ``names``, ``localhost`` and every IP address."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"localhost", *(name.lower().rstrip(".") for name in names)}

    def admit(self, host: str) -> bool:
        """Tell whether a ``Host`` header is one of these."""
        name = _without_port(host).lower().rstrip(".")
        return name in self._names or _is_address(name)


class Guard:
    """Wraps an application: refuses requests to unknown hosts, and puts `HEADERS` on what it answers.

    ``hosts`` is None over a Unix socket, which no browser reaches.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts | None) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, as ASGI has it."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]

            await send(message)

        host = next((value for name, value in scope["headers"] if name == b"host"), b"")
        # Only HTTP/1.0 may leave the host out, which no browser speaks.
        if self._hosts is not None and host and not self._hosts.admit(host.decode("latin-1")):
            await _misdirected(host.decode("latin-1"), send_guarded)
        else:
            await self._app(scope, receive, send_guarded)


async def _misdirected(host: str, send: Send) -> None:
    name = _without_port(host)[:255]
    sentence = f"This listener does not answer as {name!r}: use its address, or add the name to http.allow_hosts."
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
