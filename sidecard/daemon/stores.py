"""Open the store that is configured. The modules of a store are imported only by daemons that use it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sidecard.config.model import Config
from sidecard.config.store_url import RedisAddress, SqliteAddress, parse
from sidecard.daemon.clocks import boot_name
from sidecard.store.base import Store

DEFAULT_NAME = "store.db"
"""The default file, in the state directory."""


def open_store(
    config: Config,
    state: Path | None,
    *,
    host: str,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
    log: Callable[..., None],
    on_fault: Callable[[Exception], None],
) -> Store | None:
    """Return the configured store, or None. Nothing is opened yet: `Store.run` does.

    ``state`` is the locked state directory; ``host`` identifies this run; ``clock`` is the engine's, ``wall_clock`` the
    wall's; ``log`` writes a log line, and ``on_fault`` receives internal errors.
    """
    if config.store.url is not None:
        address = parse(config.store.url)
    else:
        address = None if state is None else SqliteAddress(state / DEFAULT_NAME)

    match address:
        case None:
            return None
        case SqliteAddress(path):
            from sidecard.store.sqlite.store import DiskStore  # noqa: PLC0415 - optional: see the module's docstring

            return DiskStore(
                path,
                max_bytes=config.store.max_bytes,
                write_window_seconds=config.store.write_window_seconds,
                clock=clock,
                wall_clock=wall_clock,
                boot=boot_name(),
                log=log,
                on_fault=on_fault,
            )
        case RedisAddress():
            return _redis(config, address, host, clock, wall_clock, log, on_fault)


def _redis(
    config: Config,
    address: RedisAddress,
    host: str,
    clock: Callable[[], float],
    wall_clock: Callable[[], float],
    log: Callable[..., None],
    on_fault: Callable[[Exception], None],
) -> Store:
    from sidecard.store.redis.access import RedisAccess  # noqa: PLC0415 - optional: see the module's docstring
    from sidecard.store.redis.shared_counters import SharedCounters  # noqa: PLC0415 - optional: see the module's docstring
    from sidecard.store.redis.store import RedisStore  # noqa: PLC0415 - optional: see the module's docstring

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

    return RedisStore(
        access,
        host=host,
        claim_seconds=config.flights.lease_seconds,
        clock=clock,
        on_fault=on_fault,
        log=log,
        shared_counters=shared_counters,
    )


def _admission(config: Config) -> Callable[[str], bool]:
    """Return a predicate: whether the daemon may connect to a host named by a sentinel or a cluster."""
    if not config.sovereign.enabled:
        return lambda _: True

    from sidecard.config.sovereignty import destinations, is_permitted  # noqa: PLC0415 - rarely enabled

    def admits(host: str) -> bool:
        name = f"[{host}]" if ":" in host else host
        return all(is_permitted(place, config.sovereign.allow) for place in destinations(f"redis://{name}"))

    return admits
