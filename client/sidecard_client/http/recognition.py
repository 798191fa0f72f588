"""Find the family of a request."""

import pkgutil
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module

from msgspec import structs

from sidecard_client.http import families as _package
from sidecard_client.http.family import ApiFamily, ApiRequest, RequestTarget


@cache
def families() -> Mapping[str, ApiFamily]:
    """Return all families by name: those of the modules in ``families/``."""
    modules = (import_module(f"{_package.__name__}.{found.name}") for found in pkgutil.iter_modules(_package.__path__))
    found = sorted((module.FAMILY for module in modules), key=lambda family: family.name)
    return {family.name: family for family in found}


@cache
def _by_end() -> tuple[int, Mapping[str, list[tuple[str, ApiFamily]]]]:
    """Return the endings of all paths with their families, the longest ones first, by their last characters, and how many."""
    endings = sorted(
        ((end, family) for family in families().values() for end in family.paths), key=lambda one: -len(one[0])
    )
    shortest = min(len(end) for end, _ in endings)
    found: dict[str, list[tuple[str, ApiFamily]]] = {}
    for end, family in endings:
        found.setdefault(end[-shortest:], []).append((end, family))

    return shortest, found


def claimants(
    target: RequestTarget, endpoints: Mapping[str, str] | None = None
) -> tuple[RequestTarget, tuple[ApiFamily, ...]]:
    """Return the families that may read a request's body, in this order, and the target that they are to be given.

    ``endpoints`` maps endings of paths to names of families; if given, no other path is claimed.
    """
    path = target.path.rstrip("/")
    if endpoints is None:
        length, by_end = _by_end()
        ending = (family for end, family in by_end.get(path[-length:], ()) if path.endswith(end))
        return target, tuple(dict.fromkeys(family for family in ending if family.claims(target)))

    known = families()
    end = max((end for end in endpoints if path.endswith(end)), key=len, default=None)
    if end is None:
        return target, ()

    declared = structs.replace(target, declared=endpoints[end])
    family = known[endpoints[end]]
    return declared, (family,) if family.claims(declared) else ()


def recognize(
    target: RequestTarget, body: bytes, endpoints: Mapping[str, str] | None = None
) -> tuple[ApiFamily, ApiRequest] | None:
    """Return a request's family and what it asks for; None if it must pass through, because its meaning is unknown."""
    return first_fit(*claimants(target, endpoints), body)


def first_fit(target: RequestTarget, claiming: Iterable[ApiFamily], body: bytes) -> tuple[ApiFamily, ApiRequest] | None:
    """Return the first of these families that can read a body, and what it asks for; None if none can."""
    for family in claiming:
        asked = family.read(target, body)
        if asked is not None:
            return family, asked

    return None
