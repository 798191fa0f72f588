"""A daemon that a test scripts: a real Unix socket, real frames, and a script in place of an engine.

A step answers one request. It is one of

- a reply of `wire` (its ``id`` is replaced by the request's),
- ``bytes``, sent as they are,
- `HANG` (nothing is sent), `CLOSE` (the connection is closed), `DIE` (every connection and the listener are closed),
- `After` and `Delayed` (a step for later; other requests of the connection are served meanwhile),
- a list of steps, performed in order,
- a callable that takes the request and returns a step.

Requests without a step get `DEFAULTS`: every begin is a lease, every complete is stored, every ping a pong.
"""

import contextlib
import itertools
import os
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, Self

import msgspec

from sidecard_client.protocol import wire

BOOT_ID = "scripted"
DEADLINE_SECONDS = 10.0
"""How long `ScriptedDaemon.wait_until` polls before a test fails."""


class Hang:
    """No answer."""


class Close:
    """The end of the connection."""


class Die:
    """The end of the daemon: like `Close` for all connections, and the socket does not listen any more."""


HANG: Final = Hang()
CLOSE: Final = Close()
DIE: Final = Die()


class After(NamedTuple):
    """``step``, as soon as ``event`` is set."""

    event: threading.Event
    step: "Step"


class Delayed(NamedTuple):
    """``step``, after ``seconds``."""

    seconds: float
    step: "Step"


Step = wire.Reply | bytes | Hang | Close | Die | After | Delayed | list[Any] | Callable[[Any], Any]

_leases = itertools.count(1)


def lease(
    backend: str = "default",
    *,
    expires_in_seconds: float = 15.0,
    attempt: int = 1,
    passed_over: dict[str, wire.RejectionReason] | None = None,
) -> wire.Lease:
    """Build a lease that no other lease equals."""
    return wire.Lease(
        id=0,
        lease=f"{BOOT_ID}.{next(_leases)}",
        backend=backend,
        expires_in_seconds=expires_in_seconds,
        attempt=attempt,
        passed_over=passed_over or {},
    )


def hit(value: Any, *, age_seconds: float = 3.0, stale: bool = False, backend: str = "default") -> wire.Hit:
    """Build a stored answer that has saved two seconds and a quarter of a dollar."""
    return wire.Hit(
        id=0,
        value=value,
        age_seconds=age_seconds,
        stale=stale,
        saved_seconds=2.0,
        saved_dollars=0.25,
        backend=backend,
        meta={},
    )


def shared(value: Any, *, backend: str = "default") -> wire.Shared:
    """Build an answer that another caller has fetched."""
    return wire.Shared(
        id=0,
        value=value,
        age_seconds=0.0,
        stale=False,
        saved_seconds=1.0,
        saved_dollars=0.25,
        backend=backend,
        meta={},
    )


PENDING: Final = wire.Pending(id=0)

DEFAULTS: dict[type[wire.Request], Step] = {
    wire.Ping: wire.Pong(id=0, version="0", protocol=wire.PROTOCOL_VERSION, boot_id=BOOT_ID, uptime_seconds=1.0),
    wire.Begin: lambda _request: lease(),
    wire.Complete: wire.Stored(id=0, stored=True),
    wire.Fail: wire.Ok(id=0),
    wire.Renew: wire.Ok(id=0),
    wire.Cancel: wire.Ok(id=0),
    wire.Get: wire.Miss(id=0),
    wire.Put: wire.Stored(id=0, stored=True),
    wire.Delete: wire.Deleted(id=0, count=1),
    wire.Purge: wire.Deleted(id=0, count=2),
    wire.GetHealth: wire.Health(id=0, status="ok", reasons=[], version="0", boot_id=BOOT_ID, uptime_seconds=1.0),
    wire.GetConfig: wire.Settings(
        id=0, settings={"cache.ttl_seconds": 300.0}, origins={"cache.ttl_seconds": "default"}
    ),
    wire.GetBreakers: wire.Breakers(id=0, backends={}),
    wire.SetBreaker: wire.Ok(id=0),
    wire.GetView: wire.Error(id=0, code="unavailable", message="no view: this daemon has none"),
}


class Taken(NamedTuple):
    """A request, and the number of the connection that it came by (from 0)."""

    connection: int
    request: Any


class ScriptedDaemon:
    """A listener at ``path``; use it in a ``with`` statement.

    ``taken`` holds every request in order of arrival, ``ended`` the numbers of the connections that clients closed.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.taken: list[Taken] = []
        self.ended: list[int] = []
        self.connections: list[socket.socket] = []
        self._once: dict[type[wire.Request], deque[Step]] = defaultdict(deque)
        self._always: dict[type[wire.Request], Step] = dict(DEFAULTS)
        self._lock = threading.Lock()  # guards the lists and dicts above, and keeps frames whole
        self._thawed = threading.Event()
        self._thawed.set()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Self:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)  # noqa: PTH108 - a path is a str here, as in the client

        self._listener.bind(self.path)
        self._listener.listen(1024)
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.die()
        for thread in self._threads:
            thread.join(DEADLINE_SECONDS)

    def script(self, op: type[wire.Request], *steps: Step) -> None:
        """Answer the next requests of type ``op`` by ``steps``, one each."""
        with self._lock:
            self._once[op].extend(steps)

    def always(self, op: type[wire.Request], step: Step) -> None:
        """Answer every request of type ``op`` that has no step of its own by ``step``."""
        with self._lock:
            self._always[op] = step

    def freeze(self) -> None:
        """Behave like a stopped process: the kernel accepts connections and bytes, but no reply is sent."""
        self._thawed.clear()

    def thaw(self) -> None:
        """Go on with everything that came while frozen."""
        self._thawed.set()

    def hang_up(self) -> None:
        """Close every connection and go on listening."""
        with self._lock:
            connections, self.connections = self.connections, []

        for connection in connections:
            _shut(connection)

    def die(self) -> None:
        """Close everything, as the kernel does for a killed process; the path stays and refuses."""
        self._thawed.set()
        _shut(self._listener)
        self.hang_up()

    def requests(self, op: type[wire.Request] = wire.Request) -> list[Any]:
        """Return the requests of type ``op`` so far."""
        with self._lock:
            return [taken.request for taken in self.taken if isinstance(taken.request, op)]

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Poll until ``condition()`` is true; fail the test at the deadline."""
        wait_until(condition)

    def wait_for(self, op: type[wire.Request], count: int = 1) -> list[Any]:
        """Poll until ``count`` requests of type ``op`` have come, and return them."""
        wait_until(lambda: len(self.requests(op)) >= count)
        return self.requests(op)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        for number in itertools.count():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                self._listener.close()
                return

            with self._lock:
                self.connections.append(connection)

            self._start(self._serve, number, connection)

    def _serve(self, number: int, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            while True:
                header = _exactly(connection, wire.FRAME_HEADER_BYTES)
                if header is None:
                    break

                body = _exactly(connection, int.from_bytes(header, "big"))
                if body is None:
                    break

                request = wire.unpack_request(body)
                with self._lock:
                    self.taken.append(Taken(number, request))
                    steps = self._once[type(request)]
                    step = steps.popleft() if steps else self._always.get(type(request), HANG)

                self._perform(connection, request, step)

        with self._lock:
            self.ended.append(number)

    def _perform(self, connection: socket.socket, request: Any, step: Step) -> None:
        match step:
            case After() | Delayed():
                self._start(self._later, connection, request, step)
            case list():
                for each in step:
                    self._perform(connection, request, each)
            case Hang():
                pass
            case Close():
                self._thawed.wait()
                _shut(connection)
            case Die():
                self.die()
            case bytes():
                self._send(connection, step)
            case wire.Reply():
                body = wire.pack(msgspec.structs.replace(step, id=request.id))
                self._send(connection, len(body).to_bytes(wire.FRAME_HEADER_BYTES, "big") + body)
            case _:
                self._perform(connection, request, step(request))

    def _later(self, connection: socket.socket, request: Any, step: After | Delayed) -> None:
        if isinstance(step, After):
            step.event.wait(DEADLINE_SECONDS)
        else:
            time.sleep(step.seconds)

        self._perform(connection, request, step.step)

    def _send(self, connection: socket.socket, data: bytes) -> None:
        self._thawed.wait()
        with self._lock, contextlib.suppress(OSError):
            connection.sendall(data)


@contextlib.contextmanager
def short_path() -> Iterator[str]:
    """Give a socket path that fits: ``sun_path`` holds 108 bytes, which pytest's own directories exceed."""
    with TemporaryDirectory(prefix="sc-", dir="/tmp") as directory:
        yield str(Path(directory) / "s.sock")


def wait_until(condition: Callable[[], object], seconds: float = DEADLINE_SECONDS) -> None:
    """Poll until ``condition()`` is true; fail the test after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.002)


def _exactly(connection: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            return None

        data += part

    return bytes(data)


def _shut(connection: socket.socket) -> None:
    """Wake the thread that reads from ``connection``, which then closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
