"""What a daemon has besides its socket, by its settings: the call log, pushed metrics, the HTTP listener.

What each of them needs to be imported is imported here, by daemons that have it.
"""

import random
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio.abc import TaskGroup

from sidecard.config.model import Config
from sidecard.config.redaction import redacted
from sidecard.core.accounts.daemon_metrics import DaemonMetrics
from sidecard.core.effects import CallRecord
from sidecard.errors import ConfigError
from sidecard.server import listener
from sidecard_client.protocol import wire

if TYPE_CHECKING:
    from sidecard.observe.call_log.log import CallLog
    from sidecard.observe.http.listener import HttpListener
    from sidecard.observe.push.push import Push

SPOOL_NAME = "spool"
"""The directory of metrics that wait, in the state directory."""

Ask = Callable[[wire.AnyRequest], wire.AnyReply]
"""Asks the engine as an operator; waits for nothing."""


def require(config: Config) -> None:
    """Load what the call log's place needs. Raises `ConfigError` where it is not installed."""
    if config.calls.enabled:
        from sidecard.observe.call_log import places as call_places  # noqa: PLC0415 - see the module's text

        call_places.require(config.calls.url)


class Outlets:
    """Those of one daemon: `open` before it serves, `start` when it does, `close` after it has.

    ``state`` is the state directory, locked. What is lost is added to ``metrics``, which get the gauges too.
    ``clock`` is the engine's, ``wall_clock`` the wall's, both in seconds; ``say`` is a log's.

    Raises `ConfigError` where the call log cannot be what is configured.
    """

    def __init__(
        self,
        config: Config,
        state: Path | None,
        metrics: DaemonMetrics,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        say: Callable[..., None],
    ) -> None:
        self._config = config
        self._state = state
        self._metrics = metrics
        self._clock = clock
        self._wall_clock = wall_clock
        self._say = say
        self._calls = self._open_calls() if config.calls.enabled else None
        self._push: Push | None = None
        self._http: HttpListener | None = None

    @property
    def on_call(self) -> Callable[[CallRecord], None] | None:
        """What hears of each call that ended, if anything does."""
        calls, wall_clock = self._calls, self._wall_clock
        return None if calls is None else lambda record: calls.add(record, wall_clock())

    def open(self, ask: Ask, held: ExitStack) -> None:
        """Make ready what asks the engine; ``held`` closes the HTTP listener's socket.

        Raises `ConfigError`, and `ListenError` where the address of HTTP cannot be had.
        """
        if self._config.push.url:
            self._push = self._open_push(ask)

        if self._config.http.listen:
            self._http = self._open_http(ask, held)

    async def start(self, tasks: TaskGroup) -> None:
        """Begin, in ``tasks``; whoever cancels them calls `close` afterwards."""
        if self._calls is not None:
            tasks.start_soon(self._calls.run)

        if self._push is not None:
            tasks.start_soon(self._push.run)

        if self._http is not None:
            await tasks.start(self._http.run)

    async def close(self) -> None:
        """Write and send what waits, for some two seconds."""
        async with anyio.create_task_group() as tasks:
            for outlet in (self._calls, self._push):
                if outlet is not None:
                    tasks.start_soon(outlet.close)

    def _count(self, what: str, number: int) -> None:
        self._metrics.dropped[what] += number

    def _open_calls(self) -> "CallLog":
        from sidecard.observe.call_log.places import open_log  # noqa: PLC0415 - see the module's text

        settings = self._config.calls
        calls = open_log(
            settings.url,
            self._state,
            shown_url=redacted(settings.url),
            host=socket.gethostname(),
            redact=settings.redact,
            retention_days=settings.retention_days,
            max_bytes=settings.max_bytes,
            wall_clock=self._wall_clock,
            clock=self._clock,
            say=self._say,
            count=self._count,
        )
        self._metrics.gauges["calls_pending"] = lambda: calls.pending
        return calls

    def _open_push(self, ask: Ask) -> "Push":
        from sidecard.observe.push.push import Push, PushSettings  # noqa: PLC0415 - see the module's text

        settings = self._config.push
        chosen = {name: getattr(settings, name) for name in PushSettings.__struct_fields__}
        chosen["instance"] = settings.instance or socket.gethostname()
        try:
            push = Push(
                PushSettings(**chosen),
                lambda: _families(ask),
                directory=None if self._state is None else self._state / SPOOL_NAME,
                clock=self._clock,
                wall=self._wall_clock,
                say=self._say,
                count=self._count,
                jitter=random.random,
            )
        except (ValueError, OSError) as error:
            raise ConfigError([f"push: {error}"]) from error

        self._metrics.gauges["spool_bytes"] = lambda: push.spool_bytes
        return push

    def _open_http(self, ask: Ask, held: ExitStack) -> "HttpListener":
        from sidecard.observe.http.address import bind_tcp, parse  # noqa: PLC0415 - as above
        from sidecard.observe.http.listener import HttpListener, HttpSettings  # noqa: PLC0415 - see the module's text

        address = parse(self._config.http.listen)
        if isinstance(address, str):
            socket_settings = self._config.socket
            bound = listener.bind(address, socket_settings.mode, socket_settings.group, "http.listen")
            held.callback(bound.close)
            listening, shown = bound.socket, address
        else:
            listening = held.enter_context(bind_tcp(address))
            host, port = listening.getsockname()[:2]
            shown = f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"

        self._say("info", "serving http", at=shown)
        return HttpListener(HttpSettings(self._config.http.allow_hosts), listening, ask, self._say)


def _families(ask: Ask) -> list[wire.Family]:
    answer = ask(wire.GetMetrics())
    if not isinstance(answer, wire.Metrics):
        raise TypeError(f"metrics answered by {answer!r}")

    return list(answer.families)
