"""Raw peers: processes that speak the protocol without a client, in either encoding, and not always as they should.

They hold leases and hang, answer late, answer twice, answer in others' name, reuse ids, take begins back, half-close and stop
in the middle of a message. Their replies are checked as those of apps are.
"""

import base64
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from sidecard_client.protocol.errors import FramingError
from sidecard_client.protocol.frames import FrameBuffer, LineBuffer, frame
from tests.laws.answer_checker import Call, Run
from tests.simulation.host.apps import Fields, Stage, scope_of
from tests.simulation.host.processes import LoopProcess, Surroundings
from tests.simulation.host.sockets import Socket

_RECEIVE_BYTES = 4096
_NONSENSE_SECONDS = 0.5

_to_frame = msgspec.msgpack.Encoder().encode
_of_frame = msgspec.msgpack.Decoder().decode
_to_line = msgspec.json.Encoder().encode
_of_line = msgspec.json.Decoder().decode

_ENDS = frozenset({"hit", "shared", "lease", "rejected", "failed", "timeout", "end", "error"})


class Begun:
    """A begin that a raw peer has sent."""

    def __init__(self, call: Call, fields: Fields) -> None:
        self.call = call
        self.fields = fields
        self.pieces: list[str] = []


class RawPeer(LoopProcess):
    """One connection of its own; another one where it has ended."""

    world: Stage

    def __init__(
        self,
        world: Surroundings,
        name: str,
        uid: int,
        pid: int,
        *,
        lines: bool,
        leases: Callable[[], list[str]],
        **clock: float,
    ) -> None:
        super().__init__(world, name, **clock)
        self.uid, self.pid = uid, pid
        self.sockets: list[Socket] = []
        self.dying = False
        self._lines = lines
        self._leases = leases
        """Names of all leases of other peers, which it should not know."""
        self._socket: Socket | None = None
        self._reader: Any = None
        self._unsent = b""
        self._begun: dict[int, Begun] = {}
        self._then: dict[int, Callable[[], None]] = {}
        self._half_closed = False
        self._spoke_nonsense = False
        """Then what it is answered may be in the other encoding."""
        self._ids = 0

    # Steps of a script

    def calls(self, fields: Fields) -> None:
        """Begin, and do with the lease what ``fields`` say."""

        def start() -> None:
            if not self._connect():
                return

            wait_seconds = fields.get("wait")
            call = self.world.answers.call_begins(
                (scope_of(self.uid, fields.get("namespace")), fields["key"]),
                self.name,
                self.world.wait_seconds if wait_seconds is None else wait_seconds,
            )
            self._ids += 1
            self._begun[self._ids] = Begun(call, fields)
            request = {"op": "begin", "id": self._ids, "key": fields["key"], "stream": bool(fields.get("stream"))}
            for field, name in (
                ("wait", "wait_seconds"),
                ("mode", "mode"),
                ("backends", "backends"),
                ("ttl", "ttl_seconds"),
                ("namespace", "namespace"),
            ):
                if fields.get(field) is not None:
                    request[name] = fields[field]

            self._say(request)

        self.soon(start)

    def interrupts(self, number: int) -> None:
        """Take a begin back."""

        def cancel() -> None:
            targets = list(self._begun)
            if targets and self._connect():
                self._cancel(-9, targets[number % len(targets)])

        self.soon(cancel)

    def does(self, action: Callable[[Any], Any], then: Callable[[], None]) -> None:
        """Do nothing: a raw peer has no client."""

    def says(self, request: Fields) -> None:
        """Send a request that a client never sends, such as one about another peer's lease."""

        def say() -> None:
            leases = self._leases()
            if not self._connect():
                return

            if "raw" in request:
                # What it had asked for may be lost with it, and it hangs up soon.
                self._spoke_nonsense = True
                self._all_leave()
                self._unsent += request["raw"]
                self._flush()
                self.at(self.clock() + _NONSENSE_SECONDS, self._lose)
            elif request["op"] == "cancel":
                self._cancel(-8, request["target"])
            else:
                stolen = {"lease": leases[request["lease"] % len(leases)]} if leases and "lease" in request else {}
                self._say({"id": -8, **request, **stolen})

        self.soon(say)

    def half_closes(self) -> None:
        """Send no more, and go on listening."""
        if self._socket is not None and self._socket.is_open:
            ends = self._socket._ends
            assert ends is not None
            ends.outgoing.end()
            self._half_closed = True

    def die(self, kept: int) -> None:
        """End immediately."""
        self.dying = True
        for one in self.sockets:
            one.kill(kept)

        self._all_leave()
        self.alive = False
        self.forget_everything()

    @property
    def open_sockets(self) -> list[Socket]:
        """Return the sockets that are connected."""
        self.sockets = [one for one in self.sockets if one.is_open]
        return self.sockets

    # What it does

    def _connect(self) -> bool:
        if self._socket is not None and self._socket.is_open:
            return not (self._half_closed or self._spoke_nonsense)

        fresh = Socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            fresh.connect("")
        except OSError:
            return False

        self._socket = fresh
        self._half_closed = self._spoke_nonsense = False
        self._reader = LineBuffer() if self._lines else FrameBuffer()
        self._unsent = b""
        self.loop.add_reader(fresh.fileno(), self._read)
        self.loop.add_writer(fresh.fileno(), self._flush)
        return True

    def _cancel(self, request_id: int, target: int) -> None:
        """Send a cancel. ``target`` need not be the id of a begin."""
        begun = self._begun.pop(target, None)
        if begun is not None:
            self.world.answers.call_leaves(begun.call)

        self._say({"op": "cancel", "id": request_id, "target": target})

    def _say(self, request: Fields) -> None:
        if self._half_closed or self._spoke_nonsense:
            return

        self._unsent += _to_line(_lined(request)) + b"\n" if self._lines else frame(_to_frame(request))
        self._flush()

    def _flush(self) -> None:
        while self._unsent and self._socket is not None:
            try:
                sent = self._socket.send(self._unsent)
            except BlockingIOError:
                return
            except OSError:
                self._lose()
                return

            self._unsent = self._unsent[sent:]

    def _read(self) -> None:
        while self._socket is not None and self._socket.is_readable:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except OSError:
                data = b""

            if not data:
                self._lose()
                return

            try:
                messages = self._reader.feed(data)
            except FramingError:
                assert self._spoke_nonsense, "the daemon sends what is no frame"
                self._lose()
                return

            for message in messages:
                self._hear(_of_line(message) if self._lines else _of_frame(message))

    def _lose(self) -> None:
        self._unsent = b""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

        self._all_leave()

    def _all_leave(self) -> None:
        begun, self._begun = self._begun, {}
        for one in begun.values():
            self.world.answers.call_leaves(one.call)

    def _hear(self, reply: Fields) -> None:
        kind, request_id = reply["type"], reply["id"]
        begun = self._begun.get(request_id)
        if begun is None:
            assert request_id <= self._ids, reply
            return

        begun.call.quiet_since = self.world.now
        answers = self.world.answers
        if kind == "chunk":
            answers.call_sees(begun.call, reply["chunk"])
        elif kind in _ENDS:
            del self._begun[request_id]
            if kind in {"hit", "shared"}:
                answers.call_ends(begun.call, reply["value"], "stale" if reply.get("stale") else _source(kind))
            elif kind == "end":
                answers.call_ends(begun.call, begun.call.seen, reply["source"])
            else:
                answers.call_leaves(begun.call)
                if kind == "lease":
                    assert not begun.call.seen, "who has seen a piece may not lead"
                    self._work(begun, reply)
        else:
            assert kind == "pending", reply

    def _work(self, begun: Begun, lease: Fields) -> None:
        """Make the call and report its end; ``how`` names what the peer does wrong."""
        fields, name, ours = begun.fields, lease["lease"], self._socket
        plan = fields.get("plan", ((0.1, "ok"),))
        seconds, end = plan[0]
        size, how = fields.get("size", 1), fields.get("how", "")
        run = self.world.answers.run_begins(begun.call, size, lease["backend"])
        if how != "silent":
            self._renew(run, name, lease["expires_in_seconds"] / 3, ours)

        def step(index: int) -> None:
            if self._socket is not ours and how != "late":
                self.world.answers.run_ends(run, "left")
                return

            if not self._connect():
                self.world.answers.run_ends(run, "left")
            elif end in {"transient", "fatal", "ignored"} and index >= size // 2:
                self.world.answers.run_ends(run, end)
                self._say(
                    {
                        "op": "fail",
                        "id": -1,
                        "lease": name,
                        "kind": end,
                        "message": f"UpstreamFailed: run {run.number} fails",
                    }
                )
            elif index < size:
                if fields.get("stream"):
                    chunk = run.piece(index)
                    self._say({"op": "append", "id": -2, "lease": name, "chunk": chunk, "output": index > 0})

                self.at(self.clock() + seconds, lambda: step(index + 1))
            else:
                self.world.answers.run_ends(run, "ok")
                value = {} if fields.get("stream") else {"value": run.answer()}
                for _ in range(2 if how == "twice" else 1):
                    self._say({"op": "complete", "id": -3, "lease": name, **value})

        self.at(self.clock() + seconds, lambda: step(0))

    def _renew(self, run: Run, lease: str, every_seconds: float, ours: Socket | None) -> None:
        def beat() -> None:
            if not run.end and self._socket is ours and ours is not None:
                self._say({"op": "renew", "id": -4, "lease": lease})
                self.at(self.clock() + every_seconds, beat)

        self.at(self.clock() + every_seconds, beat)


def _source(kind: str) -> str:
    return "cache" if kind == "hit" else "shared"


def _lined(value: Any) -> Any:
    """Return a message as JSON lines have it."""
    if isinstance(value, dict):
        return {name: _lined(item) for name, item in value.items()}

    return {"$bytes": base64.b64encode(value).decode()} if isinstance(value, bytes) else value
