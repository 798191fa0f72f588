"""The transition table of flights is the whole law, and the engine uses all of it."""

import ast
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import cast, get_args
from unittest.mock import Mock

import pytest
from msgspec import Struct, structs

import sidecard.core
from sidecard.core.events import Absent, ClaimedRemotely, Found, KeyChanged
from sidecard.core.flights import flight as flight_module
from sidecard.core.flights.flight import (
    LEASED,
    LOOKING_UP,
    OVER,
    QUEUED,
    TRANSITIONS,
    Flight,
    FlightEvent,
    FlightState,
)
from sidecard.core.flights.participants import Applicant, HeldLease, Waiter
from sidecard.core.records import Record
from sidecard.core.settings import BackendSettings
from sidecard_client.protocol.wire import Begin, Cancel, Get, Lease, Usage
from tests.host import Host, packed

CORE = Path(sidecard.core.__file__).parent
STATES: tuple[FlightState, ...] = get_args(FlightState)
EVENTS: tuple[FlightEvent, ...] = get_args(FlightEvent)
OWNERS = {"flight.py", "participants.py", "table.py"}
"""The only modules of `core/flights` that change flights and their participants."""

STORED = Record(bytes(packed("stored")), 2.0, 300.0, 60.0, "cloud", Usage(), (), 10.0)


METHODS: dict[FlightEvent, Callable[[Flight], None]] = {
    "store_asked": lambda flight: flight.store_asked(reads_entry=True, claiming=False),
    "claimed_elsewhere": Flight.claimed_elsewhere,
    "not_stored": Flight.not_stored,
    "lease_granted": lambda flight: flight.lease_granted(cast("HeldLease", Mock(attempt=1))),
    "lease_ended": Flight.lease_ended,
    "finished": Flight.finish,
}


@pytest.mark.parametrize(("state", "event"), list(product(STATES, EVENTS)))
def test_an_event_outside_the_table_raises_and_changes_nothing(state: FlightState, event: FlightEvent) -> None:
    """An event inside the table leads to the row's state."""
    flight = Flight("scope", "key", 1000, state)
    before = structs.asdict(flight)
    if (state, event) in TRANSITIONS:
        METHODS[event](flight)
        assert flight.state == TRANSITIONS[state, event]
    else:
        with pytest.raises(KeyError):
            METHODS[event](flight)

        assert structs.asdict(flight) == before


def test_no_event_leaves_the_last_state() -> None:
    """A flight that is over stays over."""
    assert not [row for row in TRANSITIONS if row[0] == OVER]


def test_each_event_of_the_table_has_one_method() -> None:
    """Every assignment to the state looks the next state up in the table."""
    tree = ast.parse(Path(flight_module.__file__).read_text())
    events = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith(".state"):
            looked_up = ast.unparse(node.value)
            assert looked_up.startswith("TRANSITIONS[self.state, '"), looked_up
            events.append(looked_up.split("'")[1])

    assert sorted(events) == sorted(EVENTS) == sorted({event for _, event in TRANSITIONS})


def _begins(host: Host) -> int:
    """Begin by a new peer, and return the ticket of the question to the store."""
    host.peer().asks(Begin("key", id=1))
    return host.asked().ticket


def _lead_and_complete() -> None:
    host = Host(store="own")
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, Absent())
    alice.completes(alice.gets(Lease).lease, "answer")


def _found_in_the_store() -> None:
    host = Host(store="own")
    host.answers(_begins(host), Found(STORED))


def _get_then_begin() -> None:
    host = Host(store="shared")
    host.peer().asks(Get("key", id=1))
    ticket = host.asked().ticket
    host.peer().asks(Begin("key", id=2))
    host.answers(ticket, Absent())
    assert host.asked().claim


def _wait_for_another_host() -> None:
    host = Host(store="shared")
    host.answers(_begins(host), ClaimedRemotely(5.0))
    host.happens(KeyChanged("1000:default", "key", "released"))
    host.answers(host.asked().ticket, Absent("claim"))


def _another_host_cannot_share() -> None:
    host = Host(store="shared")
    host.answers(_begins(host), ClaimedRemotely(5.0))
    host.happens(KeyChanged("1000:default", "key", "unshared"))


def _caller_leaves_while_another_host_computes() -> None:
    host = Host(store="shared")
    alice = host.peer()
    alice.asks(Begin("key", id=1))
    host.answers(host.asked().ticket, ClaimedRemotely(5.0))
    alice.asks(Cancel(1, id=2))
    host.happens(KeyChanged("1000:default", "key", "released"))


class _UsedRows(dict[tuple[FlightState, FlightEvent], FlightState]):
    """The table; remembers which of its rows were used."""

    def __init__(self) -> None:
        super().__init__(TRANSITIONS)
        self.used = set[tuple[FlightState, FlightEvent]]()

    def __getitem__(self, row: tuple[FlightState, FlightEvent]) -> FlightState:
        self.used.add(row)
        return super().__getitem__(row)


def test_the_engine_reaches_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table has no row that no conversation leads to."""
    table = _UsedRows()
    monkeypatch.setattr(flight_module, "TRANSITIONS", table)
    conversations: tuple[Callable[[], None], ...] = (
        _lead_and_complete,
        _found_in_the_store,
        _get_then_begin,
        _wait_for_another_host,
        _another_host_cannot_share,
        _caller_leaves_while_another_host_computes,
    )
    for conversation in conversations:
        conversation()

    assert table.used == set(TRANSITIONS)


def test_a_flight_is_leased_while_and_only_while_it_has_a_lease() -> None:
    """Its state follows the holder's lease."""
    host = Host()
    alice, bob = host.peer(), host.peer()
    lease = alice.leads("key")
    bob.waits("key")
    flight = host.engine._flights.find("1000:default", "key")
    assert flight is not None
    assert (flight.state, flight.lease is not None) == (LEASED, True)
    alice.fails(lease, "fatal")
    assert (flight.state, flight.lease) == (OVER, None)


def test_a_flight_without_a_permit_is_queued() -> None:
    """Its applicant waits for the backend."""
    host = Host(backends={"default": BackendSettings(max_concurrent=1)})
    host.peer().leads("other")
    host.peer().waits("key")
    flight = host.engine._flights.find("1000:default", "key")
    assert flight is not None
    assert (flight.state, flight.applicant is not None) == (QUEUED, True)


def test_a_flight_that_asks_the_store_looks_up() -> None:
    """Its callers wait for the store."""
    host = Host(store="own")
    _begins(host)
    (flight,) = host.engine._flights
    assert flight.state == LOOKING_UP


def test_only_flights_and_their_table_change_flights() -> None:
    """No other module of the core assigns to an attribute of a flight or participant, or changes its tables."""
    kinds: tuple[type[Struct], ...] = (Flight, Waiter, Applicant, HeldLease)
    attributes = {name for kind in kinds for name in kind.__struct_fields__}
    tables = {"waiters", "queues", "applicants", "leases"}
    found = []
    for path in sorted(CORE.rglob("*.py")):
        if path.parent.name == "flights" and path.name in OWNERS:
            continue

        tree = ast.parse(path.read_text())
        for target in _assigned(tree):
            attribute = target.value if isinstance(target, ast.Subscript) else target
            if isinstance(attribute, ast.Attribute) and not _is_own(attribute):
                names = tables if isinstance(target, ast.Subscript) else attributes
                if attribute.attr in names:
                    found.append(f"{path.name}:{target.lineno} {ast.unparse(target)}")

        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = node.func.value
                if (
                    node.func.attr in {"pop", "popitem", "clear", "update", "setdefault"}
                    and isinstance(owner, ast.Attribute)
                    and owner.attr in tables
                    and not _is_own(owner)
                ):
                    found.append(f"{path.name}:{node.lineno} {ast.unparse(node.func)}")

    assert found == []


def _is_own(attribute: ast.Attribute) -> bool:
    """Return whether an attribute is of the class at hand, or of one whose attributes have the same names."""
    return isinstance(attribute.value, ast.Name) and attribute.value.id in {"self", "decision", "counters", "entry"}


def _assigned(tree: ast.AST) -> Iterator[ast.expr]:
    """Yield everything that is assigned to, or deleted."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                yield from targets
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                yield target
