"""Share the calls of an SDK's object, by the transports of the HTTP clients inside it.

::

    llm = share(OpenAI())
    llm.chat.completions.create(...)          # made once for all processes of the host

The transports of the SDK's own HTTP client stay in use, with its proxies, limits and certificates: `SidecardTransport` is put
around each of them. The object itself is returned, unchanged otherwise.
"""

from typing import TYPE_CHECKING, Any, TypeVar

from sidecard_client.http.sharing.policies import checked_policy, sidecard_of
from sidecard_client.http.sharing.search import Search
from sidecard_client.http.sharing.wrapping import share_client

if TYPE_CHECKING:
    from sidecard_client._async.client import AsyncClient
    from sidecard_client._sync.client import Client

__all__ = ["share", "share_if_found"]

T = TypeVar("T")


def share(target: T, /, *, sidecard: "Client | AsyncClient | None" = None, **policy: Any) -> T:
    """Share the calls that ``target`` makes with httpx or httpx2, and return it.

    ``target`` is a client of an SDK (``OpenAI()``), what a framework makes of one (``ChatOpenAI()``, an agent, a chain), an
    HTTP client itself, or the module ``litellm``, ``openai``, ``ollama`` or ``huggingface_hub``. It may be of either kind,
    blocking or asynchronous. Copies of it (``with_options()``) use the same HTTP client, so they share as well; so does every
    other object that uses this HTTP client.

    ``sidecard`` is the client of the daemon; by default, all objects of a process use one `Client` and one `AsyncClient`. The
    other keywords are those of `SidecardTransport`. A second ``share()`` of an object changes nothing but the ``sidecard``, if one is given.

    Raises `TypeError` if there is nothing to share in ``target``, and what `SidecardTransport` raises for a wrong keyword.
    """
    policy = checked_policy(policy, sidecard)
    given = sidecard is not None
    search = Search(
        lambda client: share_client(client, sidecard_of(client, sidecard), policy, given=given), replaces=given
    )
    search.run(target)
    if search.found == 0:
        raise search.failure(target)

    return target


def share_if_found(target: object, sidecard: "Client | AsyncClient", policy: dict[str, Any]) -> bool:
    """Do as `share`, and return whether there was something to share."""
    policy = checked_policy(policy, sidecard)
    search = Search(
        lambda client: share_client(client, sidecard_of(client, sidecard), policy, given=True), replaces=True
    )
    search.run(target)
    return search.found > 0
