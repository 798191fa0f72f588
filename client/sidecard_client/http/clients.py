"""The blocking and the asynchronous client of one transport: that of the other kind is made when it is first needed."""

from typing import TYPE_CHECKING, Any, cast

from sidecard_client.call.base_client import BaseClient

if TYPE_CHECKING:
    from sidecard_client._async.client import AsyncClient
    from sidecard_client._sync.client import Client
    from sidecard_client.call.options import Redact


class Clients:
    """``given`` is a client of either kind, or None: then the transport makes its own of both kinds.

    A client that is made here has the arguments of the given one, and is closed with the transport.
    """

    def __init__(self, given: Any) -> None:
        if given is not None and not isinstance(given, BaseClient):
            raise TypeError(f"sidecard= must be a Client or an AsyncClient, not {type(given).__name__}.")

        self.replace(given)

    def replace(self, given: Any) -> None:
        """Use another client from now on. Calls in progress keep theirs."""
        self._given = given
        self._blocking = None if given is None or given.awaits else cast("Client", given)
        self._awaiting = cast("AsyncClient", given) if given is not None and given.awaits else None

    @property
    def blocking(self) -> "Client":
        """The client for blocking code."""
        if self._blocking is None:
            from sidecard_client._sync.client import Client  # noqa: PLC0415 - users of the async client do not import it

            self._blocking = Client() if self._given is None else self._given.counterpart(Client)

        return self._blocking

    @property
    def awaiting(self) -> "AsyncClient":
        """The client for asynchronous code. Needs anyio."""
        if self._awaiting is None:
            from sidecard_client import AsyncClient  # noqa: PLC0415 - it needs anyio, an optional dependency

            self._awaiting = AsyncClient() if self._given is None else self._given.counterpart(AsyncClient)

        return self._awaiting

    @property
    def redact(self) -> "Redact | None":
        """The hook of both that redacts prompts and answers for the daemon's call log."""
        return None if self._given is None else self._given.redact

    def close(self) -> None:
        """Close the blocking client, unless it was given."""
        if self._blocking is not None and self._blocking is not self._given:
            self._blocking.close()

    async def aclose(self) -> None:
        """Close the asynchronous client, unless it was given."""
        if self._awaiting is not None and self._awaiting is not self._given:
            await self._awaiting.aclose()
