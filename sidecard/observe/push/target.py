"""Where metrics are pushed to: one HTTP request a block, and what its answer means.

======================================================  ==============================================================
answer                                                  what becomes of the block
======================================================  ==============================================================
2xx                                                     it has arrived
429, 5xx, none                                          it is sent again, after a pause that the target may ask for
3xx                                                     the same: nobody leads metrics elsewhere but the settings do
401, 402, 403, 404, 405, 407, 408, 421, 425, 426, 451   the same: it is the settings or the target that must be mended,
                                                        and what waits until then is bounded
any other, above all 400, 409, 413, 415, 422            it is dropped: it would be refused for ever
======================================================  ==============================================================

Proxies of the environment are not used, for the reason that redirects are not followed.
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
from sidecard.errors import SidecardError

MAX_RETRY_AFTER_SECONDS = 3600.0
"""A target that asks for more is asked again after an hour."""

MAX_SECRET_BYTES = 65536
"""Of a file with a password or a bearer token."""

MAX_ANSWER_BYTES = 4096
"""That are read. What an error says is in its first words; what is left unread costs a connection."""

_SHOWN_CHARACTERS = 200

_WAITED_FOR = frozenset({401, 402, 403, 404, 405, 407, 408, 421, 425, 426, 429, 451})
_USERS_MISTAKES = range(400, 500)
_SUCCESSES = range(200, 300)
_REDIRECTS = range(300, 400)
_FAULTS = range(500, 1000)


class Access(Struct, frozen=True):
    """How a target is reached and who we are to it. Empty is none; files are read at each request."""

    url: str
    timeout_seconds: float = 10.0
    """Of one request, all in all."""
    username: str = ""
    password: str = ""
    password_file: str = ""
    bearer_token_file: str = ""
    ca_file: str = ""
    """Certificates to trust instead of the host's."""


class Sent(Struct, frozen=True):
    """The block has arrived."""


class Refused(Struct, frozen=True):
    """The target will never take this block."""

    reason: str


class Away(Struct, frozen=True):
    """The block must wait."""

    reason: str
    retry_after_seconds: float | None = None
    """What the target asks for."""
    answered: bool = False
    """Whether the target was reached, and failed: it may be this block that it fails at."""


Outcome = Sent | Refused | Away


class SecretError(SidecardError):
    """A password or a token cannot be had from its file, as the message says."""


class Target:
    """One target. ``wall`` is the wall clock, for dates in answers. Raises `OSError` where ``ca_file`` cannot be used."""

    def __init__(self, access: Access, headers: Mapping[str, str], *, wall: Callable[[], float]) -> None:
        self._access = access
        self._wall = wall
        self.shown_url = redacted(access.url)
        """For logs."""
        self._client = httpx.AsyncClient(
            verify=_trusted(access),
            # Not compressed: a small answer may unfold to a large one.
            headers={"User-Agent": "sidecard", "Accept-Encoding": "identity", **headers},
            timeout=None,  # noqa: S113 - one deadline for all of a request, in `send`
            follow_redirects=False,
            trust_env=False,
        )

    async def send(self, body: bytes) -> Outcome:
        """Send one block. Every fault is an outcome."""
        try:
            with anyio.fail_after(self._access.timeout_seconds):
                try:
                    headers, auth = await self._identity()
                except SecretError as error:
                    return Away(str(error))

                async with self._client.stream(
                    "POST", self._access.url, content=body, headers=headers, auth=auth
                ) as answer:
                    text = await _beginning(answer)
                    return outcome_of(answer.status_code, answer.headers, text, self._wall())
        except TimeoutError:
            return Away(f"no answer within {self._access.timeout_seconds:g} s")
        except (httpx.LocalProtocolError, httpx.InvalidURL):
            # What these say has the header or the address in it, and so what is secret there.
            return Away(
                "the request cannot be written: look at push.url, push.username, and what the files of push hold"
            )
        except (httpx.HTTPError, OSError) as error:
            return Away(str(error) or type(error).__name__)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def _identity(self) -> tuple[dict[bytes, bytes], httpx.BasicAuth | None]:
        access = self._access
        if access.bearer_token_file:
            token = await to_thread.run_sync(_secret, access.bearer_token_file, abandon_on_cancel=True)
            return {b"Authorization": b"Bearer " + token}, None

        if access.username:
            password = access.password.encode()
            if access.password_file:
                password = await to_thread.run_sync(_secret, access.password_file, abandon_on_cancel=True)

            return {}, httpx.BasicAuth(access.username, password)

        return {}, None


def outcome_of(status: int, headers: Mapping[str, str], text: str, wall_seconds: float) -> Outcome:
    """Return what an answer means. ``wall_seconds`` is now, since the epoch."""
    if status in _SUCCESSES:
        return Sent()

    reason = f"answered {status}{': ' if text else ''}{text}"
    if status in _REDIRECTS:
        there = headers.get("Location", "elsewhere")
        return Away(f"answered {status}, a redirect to {redacted(there)}: set push.url to where it leads")

    if status in _USERS_MISTAKES and status not in _WAITED_FOR:
        return Refused(reason)

    return Away(reason, retry_after_seconds(headers.get("Retry-After", ""), wall_seconds), answered=status in _FAULTS)


def retry_after_seconds(asked: str, wall_seconds: float) -> float | None:
    """Read a ``Retry-After``: seconds, or a date. None where it is neither; never above `MAX_RETRY_AFTER_SECONDS`."""
    asked = asked.strip()
    if asked.isascii() and asked.isdecimal():
        # Of thousands of digits the first few say enough, and Python refuses to read them all.
        return min(float(asked[:_SHOWN_CHARACTERS]), MAX_RETRY_AFTER_SECONDS)

    try:
        date = parsedate_to_datetime(asked)
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - wall_seconds
    except (ValueError, TypeError, IndexError, OverflowError):
        return None

    return min(max(0.0, seconds), MAX_RETRY_AFTER_SECONDS) if math.isfinite(seconds) else None


def _trusted(access: Access) -> ssl.SSLContext | bool:
    if not access.url.lower().startswith("https:"):
        return False  # the host's certificates take 20 ms to read, and there is nothing to verify

    try:
        return ssl.create_default_context(cafile=access.ca_file or None)
    except ssl.SSLError as error:
        raise OSError(0, f"push.ca_file {access.ca_file} has no certificates: name a PEM file") from error


async def _beginning(answer: httpx.Response) -> str:
    """Return the first words of an answer, in one line."""
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
        raise SecretError(f"{name} must hold one line, of characters that can be sent")

    return secret
