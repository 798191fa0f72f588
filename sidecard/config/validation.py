"""What settings must be together, each being right by itself; and what a backend's are where only some are said."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import structs

from sidecard.config.parsers import MAX_NAME_CHARACTERS
from sidecard.config.schema import Flights
from sidecard.core.settings import (
    LOCAL_MAX_CONCURRENT,
    BackendSettings,
    BreakerSettings,
    RetrySettings,
    settings_of_unnamed,
)

Path = tuple[str, ...]
"""Where a value belongs: ``(section, key)``, or ``(table, name, key)``."""

_BREAKER = "breaker."

CALLS_SCHEMES = frozenset({"sqlite", "postgresql", "postgres"})


def backend_settings(name: str, given: Mapping[str, Any]) -> BackendSettings:
    """Return what holds for a backend of which the configuration says ``given``, by key.

    Whoever only says where a backend is gets the limit that belongs there: a local one has few slots, a remote one none
    that this host could know.
    """
    plain = {key: value for key, value in given.items() if not key.startswith(_BREAKER)}
    breaker = {key.removeprefix(_BREAKER): value for key, value in given.items() if key.startswith(_BREAKER)}
    if "locality" in plain:
        plain.setdefault("max_concurrent", LOCAL_MAX_CONCURRENT if plain["locality"] == "local" else 0)

    return structs.replace(settings_of_unnamed(name), **plain, breaker=BreakerSettings(**breaker))


class Found(NamedTuple):
    """What there is to look at: values that could be read, paths of those that could not, tables, and where each is."""

    values: Mapping[Path, Any]
    unreadable: Collection[Path]
    tables: Mapping[Path, str]
    """For each table with a name, ``(table, name)``, its place in the words of an error."""
    where: Callable[[Path], str]

    def given(self, *prefix: str) -> dict[str, Any]:
        """Return what was said below ``prefix``, by key."""
        depth = len(prefix)
        return {path[depth]: value for path, value in self.values.items() if path[:depth] == prefix}


def disagreements(found: Found) -> Iterator[str]:
    """Say, one sentence each, what does not go together."""
    yield from _of_flights(found)
    yield from _of_retries(found)
    yield from _of_calls(found)
    yield from _of_http(found)
    for (table, name), where in found.tables.items():
        if table == "namespaces":
            if ":" in name or not name:
                yield (
                    f"{where}: namespace {name!r} has a colon, which stands between a uid and a name; "
                    "choose a name without one"
                )
        elif not 1 <= len(name) <= MAX_NAME_CHARACTERS:
            yield f"{where}: {name!r} can name none of {table}; choose a name of 1 to {MAX_NAME_CHARACTERS} characters"
        elif table == "backends":
            yield from _of_backend(found, name)
        elif table == "budgets" and not _said(found, (table, name, "dollars")):
            yield f"{where}: budget {name!r} does not say how much may be spent; add budgets.{name}.dollars"


def _of_flights(found: Found) -> Iterator[str]:
    renew, lease = ("flights", "renew_seconds"), ("flights", "lease_seconds")
    if renew not in found.values or lease in found.unreadable:
        return

    lease_seconds = found.values.get(lease, Flights().lease_seconds)
    if found.values[renew] >= lease_seconds:
        yield (
            f"{found.where(renew)}: flights.renew_seconds is {found.values[renew]:g}; it should be less than "
            f"flights.lease_seconds, which is {lease_seconds:g}, or left out"
        )


def _of_retries(found: Found) -> Iterator[str]:
    retries = RetrySettings(**found.given("retries"))
    least, most = ("retries", "backoff_seconds"), ("retries", "max_backoff_seconds")
    yield from _order(found, least, retries.backoff_seconds, most, retries.max_backoff_seconds)


def _of_calls(found: Found) -> Iterator[str]:
    url = ("calls", "url")
    if not found.values.get(("calls", "enabled"), False) or not found.values.get(url):
        return

    scheme, colon, _ = found.values[url].lower().partition(":")
    if scheme not in CALLS_SCHEMES:
        # `host=h password=p` is no URL, and what it begins with may be anything.
        shown = repr(scheme) if colon and scheme.isalnum() else "no scheme"
        yield (
            f"{found.where(url)}: calls.url begins with {shown}, which the call log cannot be kept in; it should be "
            "sqlite:PATH or postgresql://USER@HOST:PORT/DATABASE, or empty for the state directory"
        )


def _of_http(found: Found) -> Iterator[str]:
    listen = found.values.get(("http", "listen"), "")
    if not listen or "/" in listen or found.values.get(("http", "allow_remote"), False):
        return

    host = listen.rpartition(":")[0].strip("[]")
    if host != "localhost" and not _is_loopback(host):
        yield (
            f"{found.where(('http', 'listen'))}: http.listen is {listen}, which other hosts may reach, and there is no password; "
            "use 127.0.0.1, or set http.allow_remote = true if that is meant"
        )


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address  # noqa: PLC0415 - few daemons listen so, and a start counts its milliseconds

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _of_backend(found: Found, name: str) -> Iterator[str]:
    settings = backend_settings(name, found.given("backends", name))
    breaker = settings.breaker

    def path(key: str) -> Path:
        return ("backends", name, key)

    # With fewer calls in the window than it takes to conclude anything, the breaker could never open.
    yield from _order(
        found, path("breaker.min_calls"), breaker.min_calls, path("breaker.window_calls"), breaker.window_calls
    )
    yield from _order(
        found,
        path("breaker.open_seconds"),
        breaker.open_seconds,
        path("breaker.max_open_seconds"),
        breaker.max_open_seconds,
    )
    prices = [path("input_dollars_per_million_tokens"), path("output_dollars_per_million_tokens")]
    for one, other in (prices, prices[::-1]):
        if one in found.values and not _said(found, other):
            yield (
                f"{found.where(one)}: {'.'.join(one)} is set without {'.'.join(other)}; set both, 0 being a price, "
                "or neither"
            )

    requests = path("requests_per_minute")
    if 0 < settings.requests_per_minute < 1:
        yield (
            f"{found.where(requests)}: {'.'.join(requests)} is {settings.requests_per_minute:g}, which lets no call through; "
            "it should be 1 or more, or 0 for no limit"
        )

    if settings.adaptive and not settings.max_concurrent and path("max_concurrent") not in found.unreadable:
        yield (
            f"{found.where(path('adaptive'))}: backends.{name}.adaptive is true, but there is no limit to move below; "
            f"set backends.{name}.max_concurrent"
        )


def _order(found: Found, lower: Path, least: float, upper: Path, most: float) -> Iterator[str]:
    """Check that ``least`` is not above ``most``; the one that was said is to blame, or the lower where both were."""
    if least <= most or lower in found.unreadable or upper in found.unreadable:
        return

    if lower in found.values:
        path, value, should = lower, least, f"at most {'.'.join(upper)}, which is {most:g}"
    else:
        path, value, should = upper, most, f"at least {'.'.join(lower)}, which is {least:g}"

    yield f"{found.where(path)}: {'.'.join(path)} is {value:g}; it should be {should}"


def _said(found: Found, path: Path) -> bool:
    return path in found.values or path in found.unreadable
