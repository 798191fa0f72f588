"""The state of a Redis server: what its errors mean, and how they are reported."""

from redis.exceptions import AuthenticationError, AuthorizationError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sidecard.core.events import StoreStateChanged
from sidecard.store.base import StoreReporter
from sidecard.store.redis.access import RedisAccess

_READ_ONLY = ("OOM", "READONLY", "MISCONF", "NOREPLICAS", "NOPERM")
"""Error codes of a server that reads but does not write. Errors of scripts contain them in the middle."""

_SHOWN_CHARACTERS = 200


class RedisHealth:
    """The state of one server."""

    def __init__(self, access: RedisAccess, reporter: StoreReporter) -> None:
        self.connected: bool | None = None
        """None until the first try to connect has ended."""
        self.takes_writes = True
        self._access = access
        self._reporter = reporter
        address = access.address
        self._shown = address.path or ",".join(f"{host}:{port}" for host, port in address.hosts)
        """The server without its credentials."""

    def session_began(self) -> None:
        """Report that the server answers."""
        self.connected = True
        self.writes_again()

    def session_ended(self, fault: Exception) -> None:
        """Report why the server no longer answers."""
        self.connected = False
        self._reporter.faults += 1
        self._reporter.state(StoreStateChanged("down", self._sentence(fault)))

    def writes_again(self) -> None:
        """Report that the server takes writes again."""
        self.takes_writes = True
        self._reporter.state(StoreStateChanged("up"))

    def refuses_writes(self, error: ResponseError) -> bool:
        """Return whether an error means that the server takes no writes. If it does, report that, until `writes_again`.

        Raises `ConnectionError` if another server must be found.
        """
        text = str(error)
        code = next((code for code in _READ_ONLY if code in text), None)
        if code is None:
            self._reporter.faults += 1
            return False

        if self._access.address.kind != "single" and "READONLY" in text:
            # The primary has become a replica: a new session finds the new primary.
            raise ConnectionError("the server has become a replica")

        if self.takes_writes:
            self.takes_writes = False
            self._reporter.faults += 1
            reason = f"{self._shown} answers: {_first_line(text[text.index(code) :])}."
            self._reporter.state(StoreStateChanged("read_only", reason))

        return True

    def _sentence(self, fault: Exception) -> str:
        text = _first_line(str(fault) or type(fault).__name__)
        if isinstance(fault, AuthenticationError | AuthorizationError):
            return f"{self._shown} does not let us in ({text}); see store.username and store.password_file."

        if isinstance(fault, TimeoutError | RedisTimeoutError):
            return f"{self._shown} did not answer within {self._access.timeout_seconds:g} s."

        return f"{self._shown} cannot be reached ({text})."


def _first_line(text: str) -> str:
    return " ".join(text.split())[:_SHOWN_CHARACTERS].rstrip(". ")
