"""Take what can be used of a kept ledger: an item that is broken counts as 0 or is left out, and never takes others with it."""

from collections.abc import Callable, Iterator
from math import inf, isfinite
from typing import Any, TypeVar, get_args

from sidecard.core.accounts.backend_ledger import BackendLedger
from sidecard.core.accounts.ledger import LedgerSnapshot, TaskLedger
from sidecard.core.backends.breaker import BreakerMemory, is_refusal
from sidecard.core.backends.budgets import BudgetMemory
from sidecard.core.names import NameMemory
from sidecard.core.notes import OpenCause
from sidecard.core.sums import MAX_COUNT, MAX_SUM, repaired
from sidecard_client.protocol.wire import BackendSpending, BreakerState

Item = TypeVar("Item")

_MAX_INSTANT = 1e11
"""Seconds of the wall clock; the year 5138."""
_MAX_DOUBLINGS = 64
_MAX_UID = 2**32
_ADDED_LATER = ("breakers", "names")
"""Tables that ledgers of earlier versions lack."""
_SPENDING = {
    name: type(value) for name, value in vars(BackendLedger()).items() if name in BackendSpending.__struct_fields__
}
_SUMS_ADDED_LATER = BackendSpending.__struct_fields__[-len(BackendSpending.__struct_defaults__) :]
"""Sums of a backend or model that ledgers of earlier versions lack."""
_SUMS: dict[str, type[float]] = {name: type(value) for name, value in TaskLedger().sums().items()}


def repaired_snapshot(fields: dict[str, Any]) -> tuple[LedgerSnapshot, list[str]]:
    """Return the ledger of a file's object, and a clause for each item that is broken."""
    repairs: list[str] = []
    began_at: Any = fields.get("began_at")
    if not _is_instant(began_at):
        repairs.append(f"began_at is {_shown(began_at)}")
        began_at = inf  # so that its age is 0

    def items(table: str, repair: Callable[[str, dict[str, Any]], Iterator[str | Item]]) -> dict[str, Item]:
        found = fields.get(table, {} if table in _ADDED_LATER else None)
        if not isinstance(found, dict):
            repairs.append(f"{table} is {_shown(found)}")
            return {}

        kept: dict[str, Item] = {}
        for name, item in found.items():
            if not isinstance(item, dict):
                repairs.append(f"{table}.{name} is {_shown(item)}")
                continue

            for result in repair(f"{table}.{name}", item):
                if isinstance(result, str):
                    repairs.append(result)
                else:
                    kept[name] = result

        return kept

    return (
        LedgerSnapshot(
            began_at=began_at,
            tasks=items("tasks", _task),
            backends=items("backends", _spending),
            models=items("models", _spending),
            budgets=items("budgets", _budget),
            breakers=items("breakers", _breaker),
            names=items("names", _names),
        ),
        repairs,
    )


def _task(where: str, item: dict[str, Any]) -> Iterator[str | dict[str, float]]:
    kept = {}
    for name, kind in _SUMS.items():
        if name in item:
            kept[name] = repaired(item[name], kind)
            yield from _difference(f"{where}.{name}", item[name], kept[name])

    yield kept


def _spending(where: str, item: dict[str, Any]) -> Iterator[str | BackendSpending]:
    kept: dict[str, Any] = {}
    for name, kind in _SPENDING.items():
        value = item.get(name, kind(0) if name in _SUMS_ADDED_LATER else None)
        kept[name] = repaired(value, kind)
        yield from _difference(f"{where}.{name}", value, kept[name])

    yield BackendSpending(**kept)


def _budget(where: str, item: dict[str, Any]) -> Iterator[str | BudgetMemory]:
    period: Any = item.get("period")
    spent = item.get("spent_dollars")
    if not _is_number(period) or not 0 <= period <= MAX_COUNT or period != int(period):
        yield f"{where}.period is {_shown(period)}"
    else:
        kept = repaired(spent, float)
        yield from _difference(f"{where}.spent_dollars", spent, kept)
        yield BudgetMemory(int(period), kept)


def _breaker(where: str, item: dict[str, Any]) -> Iterator[str | BreakerMemory]:
    state: Any = item.get("state")
    cause: Any = item.get("cause")
    until: Any = item.get("until")
    doublings: Any = item.get("doublings")
    status: Any = item.get("status")
    if state not in get_args(BreakerState):
        yield f"{where}.state is {_shown(state)}"
        return

    if cause is not None and cause not in get_args(OpenCause):
        yield f"{where}.cause is {_shown(cause)}"
        cause = None

    if not _is_number(until) or abs(until) > MAX_SUM:
        yield f"{where}.until is {_shown(until)}"
        until = 0.0

    if not _is_number(doublings) or not -1 <= doublings <= _MAX_DOUBLINGS:
        yield f"{where}.doublings is {_shown(doublings)}"
        doublings = -1

    if status is not None and not (type(status) is int and is_refusal(status)):
        yield f"{where}.status is {_shown(status)}"
        status = None

    yield BreakerMemory(state, cause, float(until), int(doublings), status)


def _names(where: str, item: dict[str, Any]) -> Iterator[str | dict[str, NameMemory]]:
    kept = {}
    for name, use in item.items():
        fields: dict[str, Any] = use if isinstance(use, dict) else {}
        uid: Any = fields.get("uid")
        used_at: Any = fields.get("used_at")
        if type(uid) is int and -1 <= uid < _MAX_UID and _is_number(used_at) and abs(used_at) <= _MAX_INSTANT:
            kept[name] = NameMemory(uid, float(used_at))
        else:
            yield f"{where}.{name} is {_shown(use)}"

    yield kept


def _difference(where: str, value: object, kept: float) -> Iterator[str]:
    """Yield what is broken about a sum, if anything is."""
    if not _is_number(value) or value != kept:
        yield f"{where} is {_shown(value)}"


def _is_number(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and (isinstance(value, int) or isfinite(value))
    )


def _is_instant(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= _MAX_INSTANT


def _shown(value: object) -> str:
    if isinstance(value, int) and abs(value) > MAX_COUNT:
        return "larger than 64 bits"  # and maybe than the longest integer that Python prints

    return (
        f"{value!r:.40}"
        if isinstance(value, str | int | float | bool) or value is None
        else f"a {type(value).__name__}"
    )
