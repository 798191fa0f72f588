"""Whether the daemon may use TCP, if its settings need it. systemd's RestrictAddressFamilies= refuses it."""

import errno
import socket
from contextlib import suppress

from sidecard.config.load import OUTBOUND_URLS
from sidecard.config.model import Config
from sidecard.config.store_url import NONE


def tcp_problem(config: Config) -> str:
    """Return why settings that need TCP have no effect, as a sentence; empty if they may have."""
    settings = [name for name, address in _addresses(config) if _needs_tcp(address)]
    if not settings or _is_permitted():
        return ""

    return (
        f"{' and '.join(settings)} {'needs' if len(settings) == 1 else 'need'} TCP, which this daemon is not permitted to use. "
        "Under systemd, install the drop-in sidecard-network.conf; its head says how."
    )


def _addresses(config: Config) -> list[tuple[str, str]]:
    return [
        (f"{section}.{key}", getattr(getattr(config, section), key) or "")
        for section, key in OUTBOUND_URLS
        if section != "calls" or config.calls.enabled
    ]


def _needs_tcp(address: str) -> bool:
    if not address or address.lower() in NONE:
        return False

    from sidecard.config.sovereignty import destinations  # noqa: PLC0415 - few daemons have an address

    with suppress(ValueError):  # PostgreSQL's default host is a Unix socket
        return bool(destinations(address))

    return False


def _is_permitted() -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.socket(family, socket.SOCK_STREAM).close()
        except OSError as error:
            if error.errno != errno.EAFNOSUPPORT:
                return True
        else:
            return True

    return False
