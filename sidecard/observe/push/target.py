"""The target of a push: one HTTP request for each block, and the meaning of its answer.

=======================================================  =============================================================
answer                                                   consequence for the block
=======================================================  =============================================================
2xx                                                      it has arrived
429, 5xx, none                                           sent again, after a pause that the target may request
3xx                                                      the same: only the settings may redirect metrics
401, 402, 403, 404, 405, 407, 408, 421, 425, 426, 451    the same: the settings or the target need a repair, and the
                                                         backlog until then is bounded
any other, above all 400, 409, 413, 415, 422             dropped: it would always be rejected
=======================================================  =============================================================

Proxies of the environment are ignored, for the reason that redirects are not followed.
"""

import math
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from pathlib import Path

import anyio
import httpx
from anyio import to_thread
from msgspec import Struct

from sidecard.config.redaction import redacted
from sidecard.config.schema import PushSettings
from sidecard.errors import SidecardError

MAX_RETRY_AFTER_SECONDS = 3600.0
"""A target that requests a longer pause is tried again after an hour."""

MAX_SECRET_BYTES = 65536
"""Limit of a file with a password or a bearer token."""

MAX_ANSWER_BYTES = 4096
"""Read of an answer: an error's first words suffice. Leaving the rest unread costs a connection."""

_SHOWN_CHARACTERS = 200

_POSTPONING = frozenset({401, 402, 403, 404, 405, 407, 408, 421, 425, 426, 429, 451})
_CLIENT_ERRORS = range(400, 500)
_SUCCESSES = range(200, 300)
_REDIRECTS = range(300, 400)
_SERVER_ERRORS = range(500, 1000)


class Sent(Struct, frozen=True):
    """The block has arrived."""


class Refused(Struct, frozen=True):
    """The target rejects this block for good."""

    reason: str


class Postponed(Struct, frozen=True):
    """The block must wait."""

    reason: str
    retry_after_seconds: float | None = None
    """The pause that the target requests."""
    answered: bool = False
    """Whether the target was reached and failed: this block may be the cause."""


SendResult = Sent | Refused | Postponed


class SecretError(SidecardError):
    """The file of a password or a token cannot be used."""


class Target:
    """One target. ``wall`` is the wall clock, for dates in answers. Raises `OSError` where ``ca_file`` cannot be used."""

    def __init__(self, settings: PushSettings, headers: Mapping[str, str], *, wall: Callable[[], float]) -> None:
        self._settings = settings
        self._wall = wall
        self.shown_url = redacted(settings.url)
        """For logs."""
        self._client = httpx.AsyncClient(
            verify=_trusted(settings),
            # Not compressed: a small answer could expand to a large one.
            headers={"User-Agent": "sidecard", "Accept-Encoding": "identity", **headers},
            timeout=None,  # noqa: S113 - one deadline for all of a request, in `send`
            follow_redirects=False,
            trust_env=False,
        )

    async def send(self, body: bytes) -> SendResult:
        """Send one block. Does not raise: every fault is an result."""
        try:
            with anyio.fail_after(self._settings.timeout_seconds):
                try:
                    headers, auth = await self._identity()
                except SecretError as error:
                    return Postponed(str(error))

                async with self._client.stream(
                    "POST", self._settings.url, content=body, headers=headers, auth=auth
                ) as answer:
                    text = await _beginning(answer)
                    return result_of(answer.status_code, answer.headers, text, self._wall())
        except TimeoutError:
            return Postponed(f"no answer within {self._settings.timeout_seconds:g} s")
        except (httpx.LocalProtocolError, httpx.InvalidURL):
            # These messages quote the header or the address, and so secrets.
            return Postponed(
                "the request cannot be written: check push.url, push.username, and the content of push.password_file and push.bearer_token_file"
            )
        except (httpx.HTTPError, OSError) as error:
            return Postponed(str(error) or type(error).__name__)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _identity(self) -> tuple[dict[bytes, bytes], httpx.BasicAuth | None]:
        settings = self._settings
        if settings.bearer_token_file:
            token = await to_thread.run_sync(_secret, settings.bearer_token_file, abandon_on_cancel=True)
            return {b"Authorization": b"Bearer " + token}, None

        if settings.username:
            password = settings.password.encode()
            if settings.password_file:
                password = await to_thread.run_sync(_secret, settings.password_file, abandon_on_cancel=True)

            return {}, httpx.BasicAuth(settings.username, password)

        return {}, None


def result_of(status: int, headers: Mapping[str, str], text: str, wall_seconds: float) -> SendResult:
    """Return the meaning of an answer. ``wall_seconds`` is now, since the epoch."""
    if status in _SUCCESSES:
        return Sent()

    reason = f"answered {status}{': ' if text else ''}{text}"
    if status in _REDIRECTS:
        location = headers.get("Location", "no address")
        return Postponed(f"answered {status}, a redirect to {redacted(location)}: set push.url to where it leads")

    if status in _CLIENT_ERRORS and status not in _POSTPONING:
        return Refused(reason)

    return Postponed(
        reason, retry_after_seconds(headers.get("Retry-After", ""), wall_seconds), answered=status in _SERVER_ERRORS
    )


def retry_after_seconds(value: str, wall_seconds: float) -> float | None:
    """Read a ``Retry-After``: seconds, or a date. None if it is neither; never above `MAX_RETRY_AFTER_SECONDS`."""
    value = value.strip()
    if value.isascii() and value.isdecimal():
        # The first of thousands of digits suffice, and Python refuses to read them all.
        return min(float(value[:_SHOWN_CHARACTERS]), MAX_RETRY_AFTER_SECONDS)

    try:
        date = parsedate_to_datetime(value)
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - wall_seconds
    except (ValueError, TypeError, IndexError, OverflowError):
        return None

    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS) if math.isfinite(seconds) else None


def _trusted(settings: PushSettings) -> ssl.SSLContext | bool:
    if not settings.url.lower().startswith("https:"):
        return False  # reading the host's certificates takes 20 ms, and there is nothing to verify

    try:
        return ssl.create_default_context(cafile=settings.ca_file or None)
    except ssl.SSLError as error:
        raise OSError(0, f"push.ca_file {settings.ca_file} has no certificates: name a PEM file") from error


async def _beginning(answer: httpx.Response) -> str:
    """Return the first words of an answer, as one line."""
    beginning = b""
    async for piece in answer.aiter_raw():
        beginning += piece
        if len(beginning) >= MAX_ANSWER_BYTES:
            break

    return " ".join(beginning[:MAX_ANSWER_BYTES].decode("utf-8", "replace").split())[:_SHOWN_CHARACTERS]


def _secret(name: str) -> bytes:
    """Read a password or a token. Raises `SecretError`."""
    try:
        with Path(name).open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES).strip()
    except OSError as error:
        raise SecretError(f"{name} cannot be read ({error.strerror})") from error

    if not secret or any(byte < 0x20 or byte == 0x7F for byte in secret):  # noqa: PLR2004 - ASCII's control characters
        raise SecretError(f"{name} must hold one line of printable characters")

    return secret
