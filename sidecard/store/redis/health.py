"""How a Redis server is: what its errors mean, in which sentence they are told, and that each change is told once."""

from msgspec import Struct
from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sidecard.core.events import StoreStateChanged
from sidecard.store.base import StoreListener as Tell
from sidecard.store.redis.access import Access

_READ_ONLY = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "NOPERM")
"""Codes of errors by which a server takes no writes but answers questions. Those of scripts have them in their midst."""

_SHOWN_CHARACTERS = 200


class Health(Struct):
    """Of one server. ``tell`` is where the store's events go."""

    access: Access
    tell: Tell
    connected: bool | None = None
    """None until the first try to connect has ended."""
    takes_writes: bool = True
    faults: int = 0
    turned: StoreStateChanged | None = None

    def came_up(self) -> None:
        """A session has begun."""
        self.connected = True
        self.takes_writes = True
        self._turn(StoreStateChanged("up"))

    def went_down(self, fault: Exception) -> None:
        """A session has ended."""
        self.connected = False
        self.faults += 1
        self._turn(StoreStateChanged("down", self._sentence(fault)))

    def writes_again(self) -> None:
        """The server takes writes again."""
        self.takes_writes = True
        self._turn(StoreStateChanged("up"))

    def refuses_writes(self, error: ResponseError) -> bool:
        """Tell whether an error says that the server takes no writes now; from then on that is how it is.

        Raises `ConnectionError` where another server is to be found instead.
        """
        text = str(error)
        code = next((code for code in _READ_ONLY if code in text), None)
        if code is None:
            self.faults += 1
            return False

        if self.access.address.kind != "single" and "READONLY" in text:
            # It was the primary and is no longer: a new session finds out who is.
            raise ConnectionError("the server has become a replica")

        if self.takes_writes:
            self.takes_writes = False
            self.faults += 1
            self._turn(StoreStateChanged("read_only", f"{self._place} answers: {_shown(text[text.index(code) :])}."))

        return True

    @property
    def _place(self) -> str:
        """The server without its credentials."""
        address = self.access.address
        return address.path or ",".join(f"{host}:{port}" for host, port in address.hosts)

    def _turn(self, turned: StoreStateChanged) -> None:
        if turned != self.turned:
            self.turned = turned
            self.tell(turned)

    def _sentence(self, fault: Exception) -> str:
        text = _shown(str(fault) or type(fault).__name__)
        if isinstance(fault, AuthenticationError | AuthorizationError):
            return f"{self._place} does not let us in ({text}); see store.username and store.password_file."

        if isinstance(fault, TimeoutError | RedisTimeoutError):
            return f"{self._place} did not answer within {self.access.timeout_seconds:g} s."

        return f"{self._place} cannot be reached ({text})."


def _shown(text: str) -> str:
    return " ".join(text.split())[:_SHOWN_CHARACTERS].rstrip(". ")
