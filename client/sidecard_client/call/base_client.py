"""Arguments of both clients, checked once, and the defaults of every call's policy."""

import functools
import os
from collections.abc import Callable, Collection
from time import monotonic
from typing import Any, ClassVar, Literal, Self, TypeVar

from sidecard_client.call.failures import Classify, default_classify
from sidecard_client.call.option_checks import time_limit
from sidecard_client.call.options import OnUnavailable, Options, ReadUsage, Redact
from sidecard_client.call.sovereign import sovereign_by
from sidecard_client.keys.normal_form import NormalForm
from sidecard_client.keys.vectors import Embedder
from sidecard_client.protocol import wire
from sidecard_client.protocol.socket_path import StrPath, find_socket

C = TypeVar("C", bound="BaseClient")

DAEMON_TIMEOUT_SECONDS = 0.5
"""Ten thousand times a hit's round trip: a daemon that needs longer does not work properly."""


class BaseClient:
    """The arguments of `Client` and `AsyncClient`.

    A client pickles by its arguments: another process gets a client of its own. A copy is the client itself.
    """

    has_no_part_in_keys = True
    """A function that captures a client answers no differently for it (`sidecard_client.keys.stable_forms`)."""

    awaits: ClassVar = False
    """Whether calls are to be awaited."""

    _clock: Callable[[], float] = staticmethod(monotonic)
    """By which outcomes age until they are refreshed."""

    _arguments: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Keep the arguments, for `__reduce__`."""
        self = super().__new__(cls)
        self._arguments = args, kwargs
        return self

    def __init__(
        self,
        path: StrPath | None = None,
        *,
        namespace: str = wire.DEFAULT_NAMESPACE,
        task: str = wire.DEFAULT_TASK,
        daemon_timeout: float = DAEMON_TIMEOUT_SECONDS,
        ttl: float | None = None,
        max_age: float | None = None,
        stale: float | None = None,
        wait: float | None = None,
        normalize: Collection[NormalForm] | Literal["task"] = (),
        usage: ReadUsage | None = None,
        classify: Classify = default_classify,
        embed: Embedder | None = None,
        redact: Redact | None = None,
        on_unavailable: OnUnavailable = "fallback",
        sovereign: bool | None = None,
    ) -> None:
        """Connect to nothing; never fail because no daemon runs.

        ``path`` is the daemon's socket; by default, each new connection finds it by `socket_path.find_socket`.
        ``daemon_timeout`` is how many seconds the daemon may take for a first reply, or for a sign of life during a wait,
        before calls are made without it: more than 0, at most 3,600. The other keywords are the defaults of every call's policy; see `options`.

        A sovereign daemon grants no lease on a remote backend. ``sovereign`` extends that to calls without a lease: they
        use only backends named ``local``, ``default`` or by a loopback address, and raise `CallRejected` ("sovereign") if
        none is left. None reads the daemon's variables once: ``SIDECARD_SOVEREIGN_ENABLED``, else ``SOVEREIGN_MODE``.
        While a daemon replies, the daemon alone decides.

        Raises `ValueError` and `TypeError` for a wrong argument, including a path that is too long for a socket.
        """
        daemon_timeout = time_limit("daemon_timeout", daemon_timeout)
        self._options = Options().changed(
            {
                "namespace": namespace,
                "task": task,
                "ttl": ttl,
                "max_age": max_age,
                "stale": stale,
                "wait": wait,
                "normalize": normalize,
                "usage": usage,
                "classify": classify,
                "embed": embed,
                "redact": redact,
                "on_unavailable": on_unavailable,
                "sovereign": sovereign_by(os.environ) if sovereign is None else sovereign,
            }
        )
        place = None if path is None else find_socket(path)
        self._open(place, daemon_timeout)

    def _open(self, path: str | None, timeout_seconds: float) -> Any:
        raise NotImplementedError

    def __reduce__(self) -> Any:
        args, kwargs = self._arguments
        return functools.partial(type(self), *args, **kwargs), ()

    def counterpart(self, kind: type[C]) -> C:
        """Return a client of another ``kind``, blocking or asynchronous, with the same arguments."""
        args, kwargs = self._arguments
        return kind(*args, **kwargs)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    @property
    def defaults(self) -> Options:
        """The policy of calls that name none of their own."""
        return self._options

    @property
    def options(self) -> Options:
        """The defaults of every call's policy."""
        return self._options

    @property
    def redact(self) -> Redact | None:
        """The hook that redacts prompts and answers for the daemon's call log."""
        return self._options.redact

    @property
    def sovereign(self) -> bool:
        """Whether calls without a lease use only backends that are known to be local."""
        return self._options.sovereign
