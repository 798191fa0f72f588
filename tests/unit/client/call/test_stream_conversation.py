"""The decisions of a stream: each scenario as a script of results, and an interruption thrown in at every yield."""

from collections.abc import Callable
from typing import Any
from warnings import catch_warnings

import msgspec
import pytest

from sidecard_client import CallFailed, CallTimeout
from sidecard_client.call import commands
from sidecard_client.call.call import Call, prepare
from sidecard_client.call.commands import Raised, Returned
from sidecard_client.call.leading import FLUSH_BYTES, lead
from sidecard_client.call.options import Options
from sidecard_client.call.streams import END, ENOUGH, Enough, ForOthers, ForOwnCaller, Provenance, follow
from sidecard_client.protocol import wire
from sidecard_client.protocol.connection import ConnectionEnded, ConnectionLost, NotConnected
from sidecard_client.protocol.errors import SidecardWarning

DOWN = ConnectionError("down")
GONE = ConnectionEnded("gone")
STORED = wire.Stored(id=0, stored=True)
OK = wire.Ok(id=0)
WAITERS = wire.Ok(id=0, waiters=2)
END_REPLY = wire.End(1, "cache", 0.0, False, 1.0, 0.5, "local", {})


class Interruption(BaseException):
    """A cancellation, or Ctrl-C."""


def lease(backend: str = "default", **fields: Any) -> wire.Lease:
    """Build a lease."""
    return wire.Lease(id=1, lease=f"l.{backend}", backend=backend, expires_in_seconds=15, attempt=1, **fields)


def chunk(piece: str) -> wire.Chunk:
    """Build a piece of another caller's stream."""
    return wire.Chunk(1, piece)


def generate(prompt: str) -> list[str]:
    """Be the function."""
    return [prompt]


class Daemon:
    """Executes commands with the results of a script, and counts the leases that it may still hold."""

    def __init__(
        self, *results: Any, leave_at: int = -1, after: commands.AfterGive = "left", may_go_on: bool = True
    ) -> None:
        self.results = list(results)
        self.commands: list[commands.Command] = []
        self.pieces: list[Any] = []
        self.held = 0
        self.renewed = False
        self._leave_at = leave_at
        self._after = after
        self._may_go_on = may_go_on

    @property
    def names(self) -> list[str]:
        """The names of the commands so far."""
        return [type(command).__name__ for command in self.commands]

    def execute(self, command: commands.Command) -> Any:  # noqa: C901 - one case for each kind of command
        """Execute a command."""
        self.commands.append(command)
        match command:
            case commands.Give():
                self.pieces.append(command.piece)
                return self._after if len(self.pieces) - 1 == self._leave_at else "more"
            case commands.GoOn():
                return self._may_go_on
            case commands.Abandon():
                self.held, self.renewed = 0, False
                return None
            case commands.Hold() | commands.Release():
                self.renewed = isinstance(command, commands.Hold)
                return None
            case commands.Send(wire.Append() | wire.Started()):
                return True
            case commands.Send():
                self._give_back()
                return True

        result = self.results.pop(0)
        if isinstance(command, commands.Open) and command.lease is not None:
            self.renewed = isinstance(result, Returned)

        if isinstance(result, wire.Lease):
            self.held = 1
        elif isinstance(command, commands.Ask) and not isinstance(command.message, wire.Renew):
            assert not self.renewed, "the heartbeat may send meanwhile"
            if not isinstance(result, ConnectionLost | wire.Error):
                self._give_back()

        return result

    def interrupt(self, command: commands.Command) -> None:
        """Leave what an interrupted command leaves."""
        self.commands.append(command)
        match command:
            case (
                commands.Ask(wire.Fail(next=True))
                | commands.Ask(wire.Renew())
                | commands.Send(wire.Append() | wire.Started())
            ):
                pass
            case commands.Ask() | commands.Send():
                self._give_back()
            case commands.Abandon() | commands.BeginCall():
                self.held, self.renewed = 0, False

    def _give_back(self) -> None:
        self.held -= 1
        self.renewed = False
        assert self.held >= 0, "a lease was given back twice"


Script = tuple[str, dict[str, Any], tuple[Any, ...], list[Any]]

TWO = {"valid": lambda pieces: len(pieces) == 2}
LONG = "x" * FLUSH_BYTES
LARGE = (Returned(LONG), Returned(LONG))
OLD = wire.Chunk(1, "x", "cache", 3.0)
OLD_END = wire.End(1, "cache", 3.0, False, 1.0, 0.5, "local", {})
EIGHT: dict[str, Any] = {"stale_value": ["old"], "stale_age_seconds": 8.0}

SCRIPTS: list[Script] = [
    ("a stored stream", {}, (chunk("a"), chunk("b"), END_REPLY), ["a", "b"]),
    ("an empty stored stream", {}, (END_REPLY,), []),
    ("a stream that leads", {}, (lease(), Returned("a"), Returned("b"), Returned(END), STORED), ["a", "b"]),
    ("a stream that ends at once", {}, (lease(), Returned(END), STORED), []),
    ("a complete that is lost", {}, (lease(), Returned("a"), Returned(END), GONE), ["a"]),
    ("a failure before the first piece", {}, (lease(), Raised(DOWN), OK), []),
    ("a failure after the first piece", {}, (lease(), Returned("a"), Raised(DOWN), OK), ["a"]),
    ("a retry", {"retries": 1}, (lease(), Raised(DOWN), lease(), Returned("a"), Returned(END), STORED), ["a"]),
    ("a stale value", {}, (lease(stale_value=["old"]), Raised(DOWN), OK), ["old"]),
    ("a piece that cannot be shared", {}, (lease(), Returned(object), OK, Returned(END)), [object]),
    ("no daemon", {}, (NotConnected("no"), Returned("a"), Returned(END)), ["a"]),
    ("a valid stream", TWO, (lease(), Returned("a"), Returned("b"), Returned(END), STORED), ["a", "b"]),
    ("a valid stream of large pieces", TWO, (lease(), *LARGE, Returned(END), OK, OK, STORED), [LONG, LONG]),
    ("a lease that ends before the pieces are sent", TWO, (lease(), *LARGE, Returned(END), GONE), [LONG, LONG]),
    ("an invalid stream", TWO, (lease(), Returned("a"), Returned(END), OK), ["a"]),
    ("a stored stream that is valid", TWO, (chunk("a"), chunk("b"), END_REPLY), ["a", "b"]),
    (
        "a stored stream that is invalid",
        TWO,
        (chunk("x"), END_REPLY, lease(), Returned("a"), Returned("b"), Returned(END), STORED),
        ["a", "b"],
    ),
    (
        "streams of other callers that are all invalid",
        TWO,
        (chunk("x"), END_REPLY, END_REPLY, END_REPLY, lease(), Returned("a"), Returned(END), STORED),
        ["a"],
    ),
    (
        "a stored stream that is too old",
        {"max_age": 3},
        (OLD, chunk("x"), OLD_END, lease(), Returned("a"), Returned(END), STORED),
        ["a"],
    ),
    ("a stale value that is too old by now", {"ttl": 3, "stale": 5}, (lease(**EIGHT), Raised(DOWN), OK), []),
    ("a daemon that restarts", {}, (GONE, lease(), Returned("a"), Returned(END), STORED), ["a"]),
    (
        "pieces of the caller alone",
        {},
        (lease(), Returned(ForOwnCaller(object)), Returned(ForOthers("all")), Returned(END), STORED),
        [object],
    ),
    ("pieces of others without a daemon", {}, (NotConnected("no"), Returned(ForOthers("a")), Returned(END)), []),
    (
        "an answer that is complete before its function fails",
        {},
        (lease(), Returned(ENOUGH), Returned("a"), Raised(DOWN), STORED),
        ["a"],
    ),
    (
        "a holder that is to report its first output",
        TWO,
        (
            lease(prefix=True),
            Returned(ForOwnCaller("head", is_output=False)),
            Returned("a"),
            Returned("b"),
            Returned(END),
            STORED,
        ),
        ["head", "a", "b"],
    ),
    (
        "a call whose backend schedules by prefixes",
        {"prefix": "Be brief."},
        (wire.PrefixWanted(1), lease(), Returned("a"), Returned(END), STORED),
        ["a"],
    ),
    ("an own call", {}, (wire.Failed(1, "ignored", ""), lease(), Returned("a"), Returned(END), STORED), ["a"]),
]


def stream(call: Call, facts: Provenance, place: Callable[[], str]) -> Any:
    """Converse for a whole stream, as the clients do one after the other."""
    leading = yield from follow(call, facts, place)
    return None if leading is None else (yield from lead(leading, facts))


def converse(policy: dict[str, Any]) -> Any:
    """Start a stream's conversation."""
    call = prepare(Options(), generate, ("p",), {"key": "k", **policy}, stream=True)
    return stream(call, Provenance(), lambda: "/s")


def drive(conversation: Any, daemon: Daemon, throw_at: int = -1) -> Any:
    """Execute commands to the end. At the yield number ``throw_at``, throw an interruption in instead of a result."""
    resume, result, count = conversation.send, None, 0
    while True:
        try:
            command = resume(result)
        except StopIteration as end:
            return end.value

        if count == throw_at:
            daemon.interrupt(command)
            resume, result = conversation.throw, Interruption()
        else:
            resume, result = conversation.send, daemon.execute(command)

        count += 1


def played(script: Script) -> Daemon:
    """Play a script to its end."""
    daemon = Daemon(*script[2])
    with catch_warnings(action="ignore"):
        drive(converse(script[1]), daemon)

    return daemon


INTERRUPTIONS = [
    pytest.param(script, index, id=f"{script[0]}, yield {index}")
    for script in SCRIPTS
    for index in range(len(played(script).commands))
]


@pytest.mark.parametrize("script", SCRIPTS, ids=[script[0] for script in SCRIPTS])
def test_a_stream_that_ends_has_given_every_piece_and_holds_nothing(script: Script) -> None:
    """Every lease was reported or given back, and every result of the script was needed."""
    daemon = played(script)
    assert (daemon.pieces, daemon.results) == (script[3], [])
    assert (daemon.held, daemon.renewed) == (0, False)


@pytest.mark.parametrize(("script", "index"), INTERRUPTIONS)
def test_an_interruption_at_any_yield_leaves_nothing_held(script: Script, index: int) -> None:
    """The lease is given back once, and the interruption is raised."""
    daemon = Daemon(*script[2])
    with pytest.raises(Interruption), catch_warnings(action="ignore"):
        drive(converse(script[1]), daemon, throw_at=index)

    assert (daemon.held, daemon.renewed) == (0, False)


@pytest.mark.parametrize("index", range(4))
def test_a_dropped_conversation_executes_nothing_more(index: int) -> None:
    """1. nothing refers to a stream any more; 2. its generator is closed, which must not yield a command."""
    conversation, daemon = converse({}), Daemon(lease(), Returned("a"), Returned("b"))
    result = None
    for _ in range(index + 1):
        result = daemon.execute(conversation.send(result))

    conversation.close()
    assert conversation.gi_frame is None


# Leaving early -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("renewal", "may_go_on", "names"),
    [
        (WAITERS, True, ["Release", "Ask", "Hold", "GoOn", "Pull", "Send", "Pull", "Release", "Ask"]),
        (WAITERS, False, ["Release", "Ask", "Hold", "GoOn", "Release", "Send"]),
        (OK, True, ["Release", "Ask", "Send"]),
        (GONE, True, ["Release", "Ask", "Send"]),
    ],
)
def test_a_caller_that_leaves_ends_the_call_unless_others_wait(renewal: Any, may_go_on: bool, names: list[str]) -> None:
    """The function goes on for the waiters if it can, and reports its end."""
    results = (lease(), Returned("a"), renewal, Returned("b"), Returned(END), STORED)
    daemon = Daemon(*results, leave_at=0, may_go_on=may_go_on)
    assert drive(converse({}), daemon) is None
    assert daemon.names[daemon.names.index("Give") + 1 :] == names
    assert (daemon.pieces, daemon.held, daemon.renewed) == (["a"], 0, False)


def test_a_caller_that_does_not_read_ends_the_call_with_an_error() -> None:
    """The lease is given up, and a later read raises: no stream stops without an error."""
    daemon = Daemon(lease(), Returned("a"), OK, leave_at=0, after="unread")
    result = drive(converse({}), daemon)
    assert (type(result.error), result.error.kind) == (CallFailed, "transient")
    assert daemon.commands[-1].message.kind == "cancelled"  # type: ignore[union-attr]  # a `Send`
    assert (daemon.held, daemon.renewed) == (0, False)


def test_a_caller_that_does_not_read_keeps_its_call_while_others_wait() -> None:
    """It gets the rest when it reads on."""
    daemon = Daemon(lease(), Returned("a"), WAITERS, Returned("b"), Returned(END), STORED, leave_at=0, after="unread")
    assert drive(converse({}), daemon) is None
    assert (daemon.pieces, daemon.held) == (["a", "b"], 0)


def test_a_caller_that_is_too_far_behind_shares_no_more() -> None:
    """The lease ends as that of an answer that cannot be shared; the caller gets the rest, and it alone."""
    daemon = Daemon(lease(), Returned("a"), OK, Returned("b"), Returned(END), leave_at=0, after="full")
    assert drive(converse({}), daemon) is None
    gives = [command for command in daemon.commands if isinstance(command, commands.Give)]
    assert gives == [commands.Give("a", shared=True), commands.Give("b", shared=False)]
    (fail,) = [command.message for command in daemon.commands if isinstance(command, commands.Ask)]
    assert (fail.kind, fail.answered, daemon.held) == ("ignored", True, 0)  # type: ignore[union-attr]  # a `Fail`


def test_a_holder_without_caller_and_waiters_ends() -> None:
    """If the daemon is lost after the caller has left, no caller remains, and the call ends."""

    class Lost(Daemon):
        def execute(self, command: commands.Command) -> Any:
            result = super().execute(command)
            return False if isinstance(command, commands.Send) and len(self.names) > 6 else result

    daemon = Lost(lease(), Returned("a"), WAITERS, Returned("b"), Returned("c"), leave_at=0)
    assert drive(converse({}), daemon) is None
    assert (daemon.results[0].value, daemon.held) == ("c", 0)


def test_a_caller_that_leaves_with_the_whole_answer_has_it_stored() -> None:
    """The function is not run to its end, and the daemon is not asked whether others wait."""
    daemon = Daemon(lease(), Returned("a"), Returned(ENOUGH), Returned("b"), STORED, leave_at=1)
    assert drive(converse({}), daemon) is None
    assert daemon.names[-3:] == ["Give", "Release", "Ask"]
    assert isinstance(daemon.commands[-1].message, wire.Complete)  # type: ignore[union-attr]  # an `Ask`
    assert daemon.pieces == ["a", "b"]


def test_a_caller_that_leaves_with_an_answer_that_is_not_shared_reports_that() -> None:
    """The failure that the function would have raised at its end is reported to the daemon."""

    class Unproven(Exception):
        """What the answer is."""

        kind, answered, not_stored = "ignored", True, "incomplete"

    daemon = Daemon(lease(), Returned("a"), Returned(Enough(Unproven("no end"))), Returned("b"), OK, leave_at=1)
    assert drive(converse({}), daemon) is None
    message = daemon.commands[-1].message  # type: ignore[union-attr]  # an `Ask`
    assert isinstance(message, wire.Fail)
    assert (message.kind, message.answered, message.not_stored) == ("ignored", True, "incomplete")
    assert daemon.pieces == ["a", "b"]


def test_a_caller_that_leaves_before_the_last_piece_lacks_a_part() -> None:
    """`ENOUGH` speaks of the piece that follows it."""
    daemon = Daemon(lease(), Returned(ENOUGH), Returned(ForOthers("a")), Returned("b"), Returned(END), STORED)
    drive(converse({}), daemon)
    sent = [command.message.chunk for command in daemon.commands if isinstance(command, commands.Send)]  # type: ignore[union-attr]
    assert [bytes(chunk) for chunk in sent] == [b"\xa1a", b"\xa1b"]
    daemon = Daemon(lease(), Returned("a"), OK, leave_at=0)
    drive(converse({}), daemon)
    assert isinstance(daemon.commands[-1].message, wire.Fail)  # type: ignore[union-attr]  # a `Send`


def test_the_whole_that_hooks_see_is_what_others_get() -> None:
    """``store``, ``usage`` and ``valid`` judge the answer that other callers would receive."""
    seen: list[list[str]] = []

    def is_valid(pieces: list[str]) -> bool:
        seen.append(pieces)
        return True

    results = (
        lease(),
        Returned(ForOwnCaller("mine")),
        Returned("a"),
        Returned(ForOthers("theirs")),
        Returned(END),
        STORED,
    )
    daemon = Daemon(*results)
    drive(converse({"store": seen.append, "valid": is_valid}), daemon)
    assert daemon.pieces == ["mine", "a"]
    assert seen == [["a", "theirs"]] * 2


HEAD = ForOwnCaller("head", is_output=False)
OWN = ForOwnCaller("own")


@pytest.mark.parametrize(
    ("policy", "pieces", "sent"),
    [
        ({}, ["a", "b"], [wire.Append, wire.Append]),
        (TWO, ["a", "b"], [wire.Started, wire.Append, wire.Append]),
        ({}, [HEAD, OWN, OWN, ForOthers("all")], [wire.Started, wire.Append]),
        ({}, [HEAD, ForOthers("a"), OWN], [wire.Append]),
        ({}, [HEAD, ENOUGH, "a"], [wire.Append]),
        ({}, [HEAD], []),
    ],
    ids=["pieces", "pieces held back", "a body read whole", "a live body", "a body that ends", "a head alone"],
)
def test_a_holder_reports_the_first_output_that_the_daemon_does_not_see(
    policy: dict[str, Any], pieces: list[Any], sent: list[type]
) -> None:
    """Where pieces are kept from the daemon, their first one is reported; a piece that is sent reports itself."""
    for asked in (True, False):
        daemon = Daemon(lease(prefix=asked), *map(Returned, pieces), Returned(END), STORED)
        drive(converse(policy), daemon)

        messages = [type(command.message) for command in daemon.commands if isinstance(command, commands.Send)]
        assert messages == [kind for kind in sent if asked or kind is wire.Append]


EARLY = [ForOthers("early", is_output=False), ForOwnCaller("early", is_output=False)]


@pytest.mark.parametrize(
    ("policy", "pieces", "sent"),
    [
        ({}, [HEAD, *EARLY, "a", "b"], ["early", "a!", "b!"]),
        ({}, [HEAD, *EARLY, *EARLY, ForOthers("a"), OWN], ["early", "early", "a!"]),
        ({}, [HEAD, *EARLY, OWN, OWN], ["early", "!"]),
        ({}, [HEAD, EARLY[1], OWN, ForOthers("all")], ["!", "all!"]),
        ({}, [HEAD, *EARLY], ["early"]),
        (TWO, [*EARLY, "a"], ["!", "early", "a!"]),
        (TWO, [*EARLY, *EARLY], ["early", "early"]),
    ],
    ids=[
        "pieces",
        "decoded",
        "no longer shared",
        "a body read whole",
        "no output",
        "held back",
        "held back, no output",
    ],
)
def test_pieces_before_the_output_are_sent_at_once_and_report_none(
    policy: dict[str, Any], pieces: list[Any], sent: list[str]
) -> None:
    """The first output reports itself, or is reported, once. Without a prefix, nobody asks whether a piece is output."""
    for asked in (True, False):
        daemon = Daemon(lease(prefix=asked), *map(Returned, pieces), Returned(END), STORED)
        drive(converse(policy), daemon)
        messages = [command.message for command in daemon.commands if isinstance(command, commands.Send)]
        expected = sent if asked else [f"{text.removesuffix('!')}!" for text in sent if text != "!"]
        assert list(map(_reported, messages)) == expected
        assert daemon.pieces == [
            piece.piece if isinstance(piece, ForOwnCaller) else piece for piece in pieces if own(piece)
        ]


def _reported(message: Any) -> str:
    """Return the text of a message's piece, if it has one, with a mark if it reports output."""
    if isinstance(message, wire.Started):
        return "!"

    text: str = msgspec.msgpack.decode(message.chunk)
    return f"{text}!" if message.output else text


def own(piece: Any) -> bool:
    """Return whether a function's own caller gets a piece."""
    return not isinstance(piece, ForOthers)


# Streams that break ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (wire.Failed(1, "fatal", "bad"), CallFailed, "bad"),
        (wire.Timeout(1, 2.0), CallTimeout, None),
        (wire.Rejected(1, "draining"), CallFailed, "stopped"),
        (GONE, CallFailed, "lost"),
        (OK, CallFailed, "sent Ok"),
    ],
)
def test_a_followed_stream_never_ends_silently(reply: Any, error: type[Exception], text: str | None) -> None:
    """Whatever takes the place of its end is an exception."""
    daemon = Daemon(chunk("a"), reply)
    with pytest.raises(error, match=text):
        drive(converse({}), daemon)

    assert daemon.pieces == ["a"]


def test_a_holder_whose_daemon_takes_no_pieces_goes_on_alone() -> None:
    """Its caller gets every piece."""

    class Full(Daemon):
        def execute(self, command: commands.Command) -> Any:
            result = super().execute(command)
            return False if isinstance(command, commands.Send) else result

    daemon = Full(lease(), Returned("a"), Returned("b"), Returned(END))
    assert drive(converse({}), daemon) is None
    assert (daemon.pieces, daemon.held) == (["a", "b"], 0)
    assert daemon.names.count("Abandon") == 1


def test_an_exception_of_the_function_is_returned() -> None:
    """The very same object."""
    daemon = Daemon(lease(), Returned("a"), Raised(DOWN), OK)
    result = drive(converse({}), daemon)
    assert result.error is DOWN


@pytest.mark.parametrize(
    ("results", "source"),
    [
        ((chunk("a"), END_REPLY), "shared"),
        ((wire.Chunk(1, "a", source="stale"), END_REPLY), "stale"),
        ((lease(), Returned("a"), Returned(END), STORED), "upstream"),
        ((NotConnected("no"), Returned("a"), Returned(END)), "fallback"),
    ],
)
def test_the_source_is_known_with_the_first_piece(results: tuple[Any, ...], source: str) -> None:
    """Pieces of a running call are shared; the caller's own are upstream's, or a fallback's."""
    provenance, daemon = Provenance(), Daemon(*results)
    call = prepare(Options(), generate, ("p",), {"key": "k"}, stream=True)
    conversation = stream(call, provenance, lambda: "/s")
    command = conversation.send(None)
    while not isinstance(command, commands.Give):
        command = conversation.send(daemon.execute(command))

    assert provenance.source == source
    conversation.close()


def test_a_piece_that_cannot_be_shared_is_warned_of() -> None:
    """The caller gets its pieces, and a warning that names the function."""
    call = prepare(Options(), generate_unshareable, (), {"key": "k"}, stream=True)
    daemon = Daemon(lease(), Returned(object), OK, Returned(END))
    with pytest.warns(SidecardWarning, match="generate_unshareable"):
        drive(stream(call, Provenance(), lambda: "/s"), daemon)

    assert daemon.pieces == [object]


def generate_unshareable() -> list[object]:
    """Be a function that no other test warns of: a function is warned of once."""
    return []


# Streams that are judged --------------------------------------------------------------------------------------------------


def sent_by(*results: Any, **policy: Any) -> list[Any]:
    """Play a stream, and return the messages that the daemon gets."""
    daemon = Daemon(*results)
    drive(converse(policy), daemon)
    return [command.message for command in daemon.commands if isinstance(command, commands.Ask | commands.Send)]


def test_pieces_are_held_back_until_the_whole_is_valid() -> None:
    """The caller gets each piece at once; the daemon gets them at the end, or the rejection and the usage."""
    daemon = Daemon(lease(), Returned("a"), Returned("b"), Returned(END), STORED)
    drive(converse(TWO), daemon)
    assert daemon.names == ["BeginCall", "Open", "Give", "Pull", "Give", "Pull", "Send", "Send", "Release", "Ask"]
    usage = {"usage": lambda pieces: {"completion_tokens": len(pieces)}}
    (fail,) = sent_by(lease(), Returned("a"), Returned(END), OK, **TWO, **usage)
    assert (fail.kind, fail.answered, fail.invalid, fail.usage.completion_tokens) == ("ignored", True, True, 1)


def test_a_followed_stream_that_is_judged_gives_no_piece_before_its_end() -> None:
    """The caller of a judged stream that breaks gets no piece."""
    daemon = Daemon(chunk("a"), chunk("b"), wire.Failed(1, "transient", "lost"))
    with pytest.raises(CallFailed, match="the stream broke: lost"):
        drive(converse(TWO), daemon)

    assert daemon.pieces == []


def test_a_stream_without_a_key_is_not_judged() -> None:
    """Without a key nothing is shared, so the holder sends each piece at once."""
    assert [type(message) for message in sent_by(lease(), Returned("a"), Returned(END), STORED, key=None, **TWO)] == [
        wire.Append,
        wire.Complete,
    ]


@pytest.mark.parametrize(
    ("policy", "script", "reason"),
    [
        ({}, (lease(), Returned("a"), Returned(END), STORED), ""),
        ({}, (lease(), Returned("a"), Returned(END), wire.Stored(0, False, "size")), "size"),
        ({}, (lease(), Returned(object), OK, Returned(END)), "unshareable"),
        (TWO, (lease(), Returned("a"), Returned(END), OK), "invalid"),
        ({}, (lease(), Returned("a"), Raised(DOWN), OK), ""),
        ({}, (NotConnected("no"), Returned("a"), Returned(END)), ""),
    ],
    ids=["stored", "too large", "unshareable", "invalid", "failed", "no daemon"],
)
@pytest.mark.filterwarnings("ignore::sidecard_client.protocol.errors.SidecardWarning")
def test_holder_of_a_stream_learns_why_it_was_not_stored(
    policy: dict[str, Any], script: tuple[Any, ...], reason: str
) -> None:
    """From its own report, or from the daemon's reply to it."""
    facts = Provenance()
    call = prepare(Options(), generate, ("p",), {"key": "k", **policy}, stream=True)
    drive(stream(call, facts, lambda: "/s"), Daemon(*script))
    assert facts.not_stored == reason
