"""Addresses of stores."""

from pathlib import Path

import pytest

from sidecard.config.store_url import RedisAddress, SqliteAddress, parse


@pytest.mark.parametrize("url", ["", "none", "None"])
def test_none_is_no_store(url: str) -> None:
    """There is a word for it, since an empty variable counts as not set."""
    assert parse(url) is None


@pytest.mark.parametrize("url", ["sqlite:/var/lib/x.db", "sqlite:///var/lib/x.db", "SQLITE:/var/lib/x.db"])
def test_a_file_has_an_absolute_path(url: str) -> None:
    """With one or three slashes."""
    assert parse(url) == SqliteAddress(Path("/var/lib/x.db"))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", RedisAddress("single", (("h", 6379),))),
        ("redis://h:7000/3", RedisAddress("single", (("h", 7000),), db=3)),
        ("valkey://h", RedisAddress("single", (("h", 6379),))),
        ("rediss://[::1]:7000", RedisAddress("single", (("::1", 7000),), tls=True)),
        ("redis://:p%40ss@h", RedisAddress("single", (("h", 6379),), password="p@ss")),
        ("redis://user:pass@h/", RedisAddress("single", (("h", 6379),), username="user", password="pass")),
        ("unix:///run/redis.sock", RedisAddress("single", (), "/run/redis.sock")),
        ("unix:///run/redis.sock?db=2", RedisAddress("single", (), "/run/redis.sock", db=2)),
        ("unix://u:p@/run/redis.sock", RedisAddress("single", (), "/run/redis.sock", username="u", password="p")),
        (
            "redis+sentinel://a,b:7/main/2",
            RedisAddress("sentinel", (("a", 26379), ("b", 7)), db=2, service="main"),
        ),
        ("rediss+cluster://a:1,b:2", RedisAddress("cluster", (("a", 1), ("b", 2)), tls=True)),
    ],
)
def test_a_redis_address_is_parsed_completely(url: str, address: RedisAddress) -> None:
    """One server, a socket, sentinels, nodes of a cluster."""
    assert parse(url) == address


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://h", "it should be sqlite:PATH"),
        ("redis:h", "it should be sqlite:PATH"),
        ("sqlite:x.db", "absolute path"),
        ("sqlite:/var/lib/", "absolute path"),
        ("unix://run/redis.sock", "absolute path"),
        ("unix:///run/redis.sock?password=secret", "db=N at most"),
        ("redis://h?password=secret", "has a query"),
        ("redis://h,i", "several hosts"),
        ("redis://", "not HOST or HOST:PORT"),
        ("redis://h:port", "not HOST or HOST:PORT"),
        ("redis://user:sec/ret@h", "not HOST or HOST:PORT"),
        ("redis://h/zero", "database is not a number"),
        ("redis+sentinel://h", "no service name"),
        ("redis+cluster://h/1", "only database 0"),
    ],
)
def test_an_invalid_address_is_reported_without_its_secrets(url: str, reason: str) -> None:
    """At the start, not at the first call."""
    with pytest.raises(ValueError, match=reason) as caught:
        parse(url)

    assert "sec" not in str(caught.value)
