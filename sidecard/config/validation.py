"""Check settings that are valid one by one against each other, and complete those of a backend."""

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import structs

from sidecard.config.parsers import MAX_NAME_CHARACTERS
from sidecard.config.schema import FlightSettings, default_local_limit
from sidecard.core.settings import (
    BackendSettings,
    BreakerSettings,
    RetrySettings,
    settings_of_unnamed,
)

SettingPath = tuple[str, ...]
"""The place of a value: ``(section, key)``, or ``(table, name, key)``."""

_BREAKER = "breaker."

CALLS_SCHEMES = frozenset({"sqlite", "postgresql", "postgres"})


def backend_settings(name: str, given: Mapping[str, Any]) -> BackendSettings:
    """Return the settings of a backend for which the configuration has ``given``, by key.

    A configured locality implies a default limit: a local backend has few slots; this host cannot know a remote one's.
    """
    limit = default_local_limit()
    plain = {key: value for key, value in given.items() if not key.startswith(_BREAKER)}
    breaker = {key.removeprefix(_BREAKER): value for key, value in given.items() if key.startswith(_BREAKER)}
    if "locality" in plain:
        plain.setdefault("max_concurrent", limit if plain["locality"] == "local" else 0)

    return structs.replace(settings_of_unnamed(name, limit), **plain, breaker=BreakerSettings(**breaker))


class Values(NamedTuple):
    """Collected settings: the valid values, the paths of invalid ones, the declared tables, and where each was found."""

    valid: Mapping[SettingPath, Any]
    invalid: Collection[SettingPath]
    tables: Mapping[SettingPath, str]
    """The place of each named table, ``(table, name)``, in the words of an error."""
    where: Callable[[SettingPath], str]

    def below(self, *prefix: str) -> dict[str, Any]:
        """Return the valid values below ``prefix``, by key."""
        depth = len(prefix)
        return {path[depth]: value for path, value in self.valid.items() if path[:depth] == prefix}

    def has(self, path: SettingPath) -> bool:
        """Return whether a value was given, valid or not."""
        return path in self.valid or path in self.invalid


def conflicts(values: Values) -> Iterator[str]:
    """Yield a sentence for each pair of settings that contradict each other."""
    yield from _of_flights(values)
    yield from _of_retries(values)
    yield from _of_calls(values)
    yield from _of_http(values)
    for (table, name), where in values.tables.items():
        if table == "namespaces":
            if ":" in name or not name:
                yield (
                    f"{where}: namespace {name!r} contains a colon, which separates a uid from a name; "
                    "choose a name without one"
                )
        elif not 1 <= len(name) <= MAX_NAME_CHARACTERS:
            yield f"{where}: {name!r} is no valid name in {table}; choose a name of 1 to {MAX_NAME_CHARACTERS} characters"
        elif table == "backends":
            yield from _of_backend(values, name)
        elif table == "budgets" and not values.has((table, name, "dollars")):
            yield f"{where}: budget {name!r} has no limit; add budgets.{name}.dollars"


def _of_flights(values: Values) -> Iterator[str]:
    renew, lease = ("flights", "renew_seconds"), ("flights", "lease_seconds")
    if renew not in values.valid or lease in values.invalid:
        return

    lease_seconds = values.valid.get(lease, FlightSettings().lease_seconds)
    if values.valid[renew] >= lease_seconds:
        yield (
            f"{values.where(renew)}: flights.renew_seconds is {values.valid[renew]:g}; it should be less than "
            f"flights.lease_seconds, which is {lease_seconds:g}, or left out"
        )


def _of_retries(values: Values) -> Iterator[str]:
    retries = RetrySettings(**values.below("retries"))
    least, most = ("retries", "backoff_seconds"), ("retries", "max_backoff_seconds")
    yield from _order(values, least, retries.backoff_seconds, most, retries.max_backoff_seconds)


def _of_calls(values: Values) -> Iterator[str]:
    url = ("calls", "url")
    if not values.valid.get(("calls", "enabled"), False) or not values.valid.get(url):
        return

    scheme, colon, _ = values.valid[url].lower().partition(":")
    if scheme not in CALLS_SCHEMES:
        # `host=h password=p` is not a URL, and its beginning may be a secret.
        shown = repr(scheme) if colon and scheme.isalnum() else "no scheme"
        yield (
            f"{values.where(url)}: calls.url begins with {shown}, which the call log does not support; it should be "
            "sqlite:PATH or postgresql://USER@HOST:PORT/DATABASE, or empty for the state directory"
        )


def _of_http(values: Values) -> Iterator[str]:
    listen = values.valid.get(("http", "listen"), "")
    if not listen or "/" in listen or values.valid.get(("http", "allow_remote"), False):
        return

    host = listen.rpartition(":")[0].strip("[]")
    if host != "localhost" and not _is_loopback(host):
        yield (
            f"{values.where(('http', 'listen'))}: http.listen is {listen}, which other hosts may reach without a password; "
            "use 127.0.0.1, or set http.allow_remote = true to allow that"
        )


def _is_loopback(host: str) -> bool:
    from ipaddress import ip_address  # noqa: PLC0415 - rarely needed, and it would slow down every start

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _of_backend(values: Values, name: str) -> Iterator[str]:
    settings = backend_settings(name, values.below("backends", name))
    breaker = settings.breaker

    def path(key: str) -> SettingPath:
        return ("backends", name, key)

    # With a window shorter than min_calls, the breaker could never open.
    for lower, upper in (("min_calls", "window_calls"), ("open_seconds", "max_open_seconds")):
        lower_path, upper_path = path(_BREAKER + lower), path(_BREAKER + upper)
        yield from _order(values, lower_path, getattr(breaker, lower), upper_path, getattr(breaker, upper))

    prices = [path("input_dollars_per_million_tokens"), path("output_dollars_per_million_tokens")]
    for one, other in (prices, prices[::-1]):
        if one in values.valid and not values.has(other):
            yield (
                f"{values.where(one)}: {'.'.join(one)} is set without {'.'.join(other)}; set both (0 is a valid price), "
                "or neither"
            )

    for cached in (path("cached_input_dollars_per_million_tokens"), path("cache_write_dollars_per_million_tokens")):
        if cached in values.valid and not values.has(prices[0]):
            yield f"{values.where(cached)}: {'.'.join(cached)} is set without {'.'.join(prices[0])}; set both, or neither"

    requests = path("requests_per_minute")
    if 0 < settings.requests_per_minute < 1:
        yield (
            f"{values.where(requests)}: {'.'.join(requests)} is {settings.requests_per_minute:g}, which lets no call through; "
            "it should be 1 or more, or 0 for no limit"
        )

    if settings.adaptive and not settings.max_concurrent and path("max_concurrent") not in values.invalid:
        yield (
            f"{values.where(path('adaptive'))}: backends.{name}.adaptive is true, but there is no limit to stay below; "
            f"set backends.{name}.max_concurrent"
        )

    yield from _of_prefixes(values, name, settings)


def _of_prefixes(values: Values, name: str, settings: BackendSettings) -> Iterator[str]:
    def path(key: str) -> SettingPath:
        return ("backends", name, key)

    if settings.prefix_affinity == "slots" and not settings.max_concurrent and settings.slots is None:
        unknown = {path("max_concurrent"), path("slots")}
        if not unknown.intersection(values.invalid):
            yield (
                f"{values.where(path('prefix_affinity'))}: backends.{name}.prefix_affinity is slots, but the number of slots is "
                f"unknown; set backends.{name}.slots, or backends.{name}.max_concurrent to the same number"
            )

    family = settings.prefix_family
    if settings.prefix_affinity != "off" and family is not None:
        fitting = "slots" if family == "llama.cpp" else "provider"
        if settings.prefix_affinity != fitting:
            yield (
                f"{values.where(path('prefix_family'))}: backends.{name}.prefix_family is {family}, but "
                f"backends.{name}.prefix_affinity is {settings.prefix_affinity}; set it to {fitting}, or omit prefix_family"
            )


def _order(values: Values, lower: SettingPath, least: float, upper: SettingPath, most: float) -> Iterator[str]:
    """Check that ``least`` is not above ``most``. The error names the configured one, or the lower one if both are."""
    if least <= most or lower in values.invalid or upper in values.invalid:
        return

    if lower in values.valid:
        path, value, should = lower, least, f"at most {'.'.join(upper)}, which is {most:g}"
    else:
        path, value, should = upper, most, f"at least {'.'.join(lower)}, which is {least:g}"

    yield f"{values.where(path)}: {'.'.join(path)} is {value:g}; it should be {should}"
