"""Access to a Redis server: address, credentials, certificates, and which hosts may be connected to."""

import ssl
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct
from redis.credentials import CredentialProvider
from redis.exceptions import RedisError

from sidecard.config.store_url import RedisAddress
from sidecard.persistence.worker import run_in_thread

FAULTS = (RedisError, OSError, TimeoutError)
"""Faults of a server, as opposed to internal errors."""


class NotAdmittedError(ConnectionError):
    """A sentinel or a cluster named a host that a sovereign daemon may not connect to."""


class RedisAccess(Struct, frozen=True):
    """How to connect. ``admits`` returns whether a host that a sentinel or a cluster names may be connected to."""

    address: RedisAddress
    username: str
    password: str
    password_file: str
    ca_file: str
    cert_file: str
    key_file: str
    timeout_seconds: float
    admits: Callable[[str], bool]

    @property
    def has_credentials(self) -> bool:
        """Whether the settings or the address have a password."""
        return bool(self.password_file or self.password or self.address.password)

    def credentials(self) -> tuple[str, str] | None:
        """Return user and password. Read again for each connection, so that a password can be changed. Raises `OSError`."""
        password = self.password or self.address.password
        if self.password_file:
            password = _secret(self.password_file)

        username = self.username or self.address.username
        return (username or "default", password) if password else None

    async def read_credentials(self) -> tuple[str, str] | None:
        """Return `credentials`. A file is read in a thread: its disk may hang. Raises `OSError`."""
        if not self.password_file:
            return self.credentials()

        return await run_in_thread("sidecard-store-files", self.credentials, abandon=True)

    def tls(self) -> ssl.SSLContext | None:
        """Return the TLS settings of a connection; None for an unencrypted one. Raises `OSError`."""
        if not self.address.tls:
            return None

        context = ssl.create_default_context(cafile=self.ca_file or None)
        if self.cert_file:
            context.load_cert_chain(self.cert_file, self.key_file or None)

        return context

    def admitted(self, address: tuple[str, int]) -> tuple[str, int]:
        """Return an address that a sentinel or a cluster named. Raises `NotAdmittedError`."""
        host = address[0]
        if not self.admits(host):
            raise NotAdmittedError(
                f"it leads to {host}, which is neither this host nor a private network; add it to sovereign.allow"
            )

        return address


def _secret(name: str) -> str:
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        # The original message quotes a byte of the secret.
        raise OSError(0, f"store.password_file {name} is not UTF-8") from None


class Credentials(CredentialProvider):
    """The credentials of an access, for redis-py."""

    def __init__(self, access: RedisAccess) -> None:
        self._access = access

    async def get_credentials_async(self) -> tuple[str] | tuple[str, str]:
        """Return user and password."""
        return await self._access.read_credentials() or ("",)

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        """Return user and password."""
        return self._access.credentials() or ("",)
