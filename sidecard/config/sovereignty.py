"""Decide whether an address of the daemon's own connections stays on this host or in private networks.

The decision uses the text alone, before anything is opened. Resolving a name would itself leave the host, so every name
except ``localhost`` must be listed by the operator.

Programs parse URLs differently: one parser's host is another parser's password, and libpq also takes hosts from the query.
So addresses are parsed strictly, every host that any parser could find is checked, and ambiguous addresses are rejected.

A Redis Sentinel or Cluster names further hosts; `is_permitted` is called for each of them.
"""

import re
from collections.abc import Collection, Iterator
from ipaddress import (
    AddressValueError,
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    NetmaskValueError,
    ip_network,
)
from urllib.parse import unquote

Destination = IPv4Address | IPv6Address | str
"""Where an address leads: an IP address, or a name in lower case without a trailing dot."""

Allowed = IPv4Network | IPv6Network | str
"""An entry of ``sovereign.allow``: a network (a single address is one), or a name."""

PRIVATE_NETWORKS = tuple(
    ip_network(text)
    for text in (
        "127.0.0.0/8",  # loopback, RFC 1122
        "::1/128",
        "10.0.0.0/8",  # private, RFC 1918
        "172.16.0.0/12",
        "192.168.0.0/16",
        "fc00::/7",  # unique local, RFC 4193
        "169.254.0.0/16",  # link-local, RFC 3927
        "fe80::/10",
    )
)
"""Not Python's ``is_private``, which includes many other ranges and differs between patch releases."""

_FILES = frozenset({"sqlite", "unix"})
"""Schemes that name a file or a Unix socket, whatever follows."""

_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*", re.ASCII)
_FORBIDDEN = re.compile(r"[^!-~]|[\\\"#<>^`{|}]")
"""Characters that are invalid in a URL, and ``#``, where some parsers end and others do not."""
_HOST = re.compile(r"(?:\[(?P<bracketed>[^\[\]]*)\]|(?P<plain>[^\[\]:]*))(?::(?P<port>\d{0,5}))?", re.ASCII)
_NAME = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII)
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*", re.ASCII)
_ZONE = re.compile(r"(?:25)?[A-Za-z0-9._-]+", re.ASCII)
_SOCKET_PATH = re.compile(r"/[A-Za-z0-9._/-]+", re.ASCII)
_MAX_NAME_CHARACTERS = 253

_HOSTS_IN_QUERY = frozenset({"host", "hostaddr"})
_FILES_IN_QUERY = frozenset({"service", "servicefile"})
"""With these, libpq reads the host from a file."""


def outbound_problem(setting: str, address: str, allow: Collection[str]) -> str | None:
    """Return why ``address`` is forbidden and what to change; None if it is permitted. Shows no more of it than a host.

    ``allow`` is the operator's list, whose entries `parse_allowed` accepts.
    """
    try:
        outside = [place for place in destinations(address) if not is_permitted(place, allow)]
    except ValueError as error:
        return (
            f"sovereign.enabled is on, and the destination of {setting} is ambiguous: {error}; write it such as "
            "redis://127.0.0.1:6379/0, unix:///run/redis/redis.sock or sqlite:/var/lib/sidecard/store.db"
        )

    if not outside:
        return None

    hosts = " and ".join(dict.fromkeys(map(str, outside)))
    listing = ", ".join(dict.fromkeys(f'"{place}"' for place in outside))
    return (
        f"sovereign.enabled is on, and {setting} leads to {hosts}, which is not known to be this host or a private network; "
        f"add {listing} to sovereign.allow, or change {setting}"
    )


def is_permitted(place: Destination, allow: Collection[str]) -> bool:
    """Return whether ``place`` is on this host, in a private network, or listed by the operator."""
    listed = [parse_allowed(text) for text in allow]
    if isinstance(place, str):
        return place == "localhost" or place in listed

    networks = [*PRIVATE_NETWORKS, *(network for network in listed if not isinstance(network, str))]
    return any(place in network for network in networks)


def destinations(address: str) -> list[Destination]:
    """Return every destination that opening ``address`` may connect to; none for files and Unix sockets.

    Raises `ValueError`, whose text is part of a sentence, if the address is ambiguous.
    """
    if not address or re.match(r"/(?!/)", address):
        return []

    scheme, _, rest = address.partition(":")
    if scheme.lower() in _FILES:
        return []

    if not _SCHEME.fullmatch(scheme.lower()) or not rest.startswith("//"):
        raise ValueError("it does not begin with SCHEME://")

    if _FORBIDDEN.search(rest):
        raise ValueError("it has characters that must be percent-encoded")

    end = re.search(r"[/?]|$", rest[2:])
    authority, beyond = (rest[2:], "") if end is None else (rest[2:][: end.start()], rest[2:][end.start() :])
    credentials, at, hosts = authority.rpartition("@")
    if "@" in beyond or "@" in credentials:
        # A password with an unescaped "/" or "@": parsers disagree where the host begins.
        raise ValueError('it has an "@" that is not right before the host; write those of a password as %40')

    in_query = _hosts_in_query(beyond.partition("?")[2])
    further = [place for text in in_query for place in _of_query(text)]
    if in_query and not hosts and not at:
        return further

    return [place for text in hosts.split(",") for place in _of_host(text)] + further


def parse_allowed(text: str) -> Allowed:
    """Parse one entry of ``sovereign.allow``. Raises `ValueError` if it is not a name, IP address or network."""
    if "/" not in text:
        place = _place(text)
        if isinstance(place, str):
            return place

        return IPv4Network(place) if isinstance(place, IPv4Address) else IPv6Network(place)

    return ip_network(text)


def _of_host(text: str) -> Iterator[Destination]:
    match = _HOST.fullmatch(text)
    if match is None:
        raise ValueError("its host is not HOST or HOST:PORT")

    plain: str | None = match["plain"]
    if plain is None:
        yield _ipv6(match["bracketed"])
    elif not plain:
        raise ValueError("it has no host; write localhost for this host")
    elif "%" in plain:
        # libpq's notation for the directory of a Unix socket. It splits at commas once more after decoding.
        if not _SOCKET_PATH.fullmatch(unquote(plain)):
            raise ValueError("its host is percent-encoded")
    else:
        yield _place(plain)


def _hosts_in_query(query: str) -> list[str]:
    hosts = []
    for pair in re.split(r"[&;]", query):
        key, _, value = (unquote(part) for part in pair.partition("="))
        if key.lower() in _FILES_IN_QUERY:
            raise ValueError(f'"{key.lower()}" in its query names a file with the host')

        if key.lower() in _HOSTS_IN_QUERY:
            hosts += value.split(",")

    return hosts


def _of_query(text: str) -> Iterator[Destination]:
    if not _SOCKET_PATH.fullmatch(text):
        yield _place(text)


def _place(text: str) -> Destination:
    """Parse a host without port or brackets."""
    if ":" in text:
        return _ipv6(text)

    try:
        return IPv4Address(text)
    except AddressValueError:
        name = text.lower().removesuffix(".")

    # 0x7f.1, 127.1, 2130706433, 0177.0.0.1: an address to some resolvers, a name to others.
    if len(name) > _MAX_NAME_CHARACTERS or not _NAME.fullmatch(name) or _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ValueError("its host is neither a plain name nor an IP address in its usual form")

    return name


def _ipv6(text: str) -> Destination:
    literal, percent, zone = text.partition("%")
    try:
        ip = IPv6Address(literal)
    except (AddressValueError, NetmaskValueError):
        raise ValueError("its IPv6 address is invalid") from None

    if percent and not _ZONE.fullmatch(zone):
        raise ValueError("the zone of its IPv6 address is not the name of an interface")

    # ::ffff:8.8.8.8 is 8.8.8.8.
    return ip if ip.ipv4_mapped is None else ip.ipv4_mapped
