"""Which store a daemon has, by its settings. What a store needs to be imported is imported here, by daemons that have one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from msgspec import Struct

from sidecard.config.model import Config
from sidecard.config.store_url import RedisAddress, SqliteAddress, parse
from sidecard.core.notes import Note
from sidecard.store.base import Store

DEFAULT_NAME = "store.db"
"""The file in the state directory, where ``store.url`` says nothing."""


class Opened(Struct, frozen=True):
    """A store, and what of it is to hear the notes of the core, if anything is."""

    store: Store
    note: Callable[[Note], None] | None = None


def open_store(
    config: Config,
    state: Path | None,
    *,
    host: str,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
    say: Callable[..., None],
    on_fault: Callable[[Exception], None],
) -> Opened | None:
    """Return the store that is configured; None for none. Nothing is opened yet: `Store.run` does.

    ``state`` is the state directory, locked; ``host`` names this run; ``clock`` is the engine's, ``wall_clock`` the wall's; ``say``
    is a log's, and ``on_fault`` gets mistakes of our own.
    """
    if config.store.url is not None:
        address = parse(config.store.url)
    else:
        address = None if state is None else SqliteAddress(state / DEFAULT_NAME)

    match address:
        case None:
            return None
        case SqliteAddress(path):
            from sidecard.store.sqlite.store import DiskStore  # noqa: PLC0415 - see the module's text

            return Opened(
                DiskStore(
                    path,
                    max_bytes=config.store.max_bytes,
                    write_window_seconds=config.store.write_window_seconds,
                    clock=clock,
                    wall_clock=wall_clock,
                    log=say,
                    on_fault=on_fault,
                )
            )
        case RedisAddress():
            return _redis(config, address, host, clock, wall_clock, on_fault)


def _redis(
    config: Config,
    address: RedisAddress,
    host: str,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
    on_fault: Callable[[Exception], None],
) -> Opened:
    from sidecard.store.redis.access import RedisAccess  # noqa: PLC0415 - see the module's text
    from sidecard.store.redis.shared_counters import SharedCounters  # noqa: PLC0415 - see the module's text
    from sidecard.store.redis.store import RedisStore  # noqa: PLC0415 - see the module's text

    settings = config.store
    access = RedisAccess(
        address,
        settings.username,
        settings.password,
        settings.password_file,
        settings.ca_file,
        settings.cert_file,
        settings.key_file,
        settings.timeout_seconds,
        _admission(config),
    )
    periods = {name: budget.period_seconds for name, budget in config.budgets.items() if settings.share_budgets}
    shared_counters = None
    if settings.share_breakers or periods:
        shared_counters = partial(
            SharedCounters,
            host=host,
            breakers=settings.share_breakers,
            budgets=periods,
            clock=clock,
            wall_clock=wall_clock,
        )

    claim_seconds = config.flights.lease_seconds
    store = RedisStore(
        access,
        host=host,
        claim_seconds=claim_seconds,
        clock=clock,
        on_fault=on_fault,
        shared_counters=shared_counters,
    )
    return Opened(store, store.note)


def _admission(config: Config) -> Callable[[str], bool]:
    """Return what says whether the daemon may connect to a host that a sentinel or a cluster has named."""
    if not config.sovereign.enabled:
        return lambda _: True

    from sidecard.config.sovereignty import destinations, is_permitted  # noqa: PLC0415 - most daemons are not

    def admits(host: str) -> bool:
        name = f"[{host}]" if ":" in host else host
        return all(is_permitted(place, config.sovereign.allow) for place in destinations(f"redis://{name}"))

    return admits
