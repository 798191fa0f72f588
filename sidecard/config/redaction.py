"""Show addresses without the secrets in them."""

import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.%]*\]|[\w.%-]*)(?::\d*)?")
"""One host with its numeric port: ``redis://me:secret/0`` lacks an ``@``, and its secret must not be shown as a host."""
_PATH = re.compile(r"[\w.~:/%,+-]*")


def redacted(url: str) -> str:
    """Return a URL without credentials and query; ``***`` if its secret parts cannot be identified.

    The URL is not parsed: a password with an unescaped ``/`` or ``?`` would be taken for a path. A ``DATABASE_URL`` may
    not even be a URL: ``host=h password=p``, ``Server=h;Password=p``.
    """
    if url.lower().startswith("sqlite:") or not url:
        return url

    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "", url

    _, at, place = rest.rpartition("@")
    place, question, _ = place.partition("?")
    hosts, _, path = place.partition("/")
    plain = all(map(_HOST.fullmatch, hosts.split(","))) and _PATH.fullmatch(path) and (_SCHEME.fullmatch(scheme) or at)
    if not plain:
        return "***"

    return f"{scheme}{separator}{'***@' if at else ''}{place}{'?***' if question else ''}"
