"""Whether an address stays on this host or in private networks, decided from its text."""

import string
from ipaddress import IPv4Address, IPv6Address

import pytest

from sidecard.config.sovereignty import destinations, is_permitted, outbound_problem, parse_allowed

CANARY = "zebra4711"

AT_HOME = [
    "",
    "/var/lib/sidecard/store.db",
    "sqlite:/var/lib/sidecard/store.db",
    "sqlite:store.db",
    "sqlite:///var/lib/with space/ä.db",
    "SQLite::memory:",
    "unix:///run/redis/redis.sock",
    f"unix://user:{CANARY}@/run/redis/redis.sock?db=1",
    "redis://localhost",
    "redis://localhost:6379/0",
    "redis://LocalHost.:6379",
    "REDIS://LOCALHOST",
    "redis://127.0.0.1",
    "redis://127.255.255.254:1",
    "redis://10.0.0.1,172.16.0.1,172.31.255.255:26379,192.168.1.1/mymaster",
    "redis://169.254.1.1",
    f"redis://:{CANARY}@[::1]:6379/0",
    f"rediss://user:{CANARY}@10.1.2.3:6380/0?ssl_cert_reqs=required",
    "redis://[fd00::1]",
    "redis://[FD00::1]:6379",
    "redis://[fe80::1%25eth0]:6379",
    "redis://[fe80::1%eth0]",
    "redis://[::ffff:10.0.0.1]",
    "redis://[::ffff:7f00:1]",
    "redis+sentinel://10.0.0.1:26379,10.0.0.2:26379/mymaster",
    "postgresql://localhost/calls",
    "postgresql://%2Fvar%2Frun%2Fpostgresql/calls",
    "postgresql:///calls?host=/var/run/postgresql",
    "postgresql:///calls?host=127.0.0.1,::1&port=5432",
    "postgresql://localhost/calls?hostaddr=127.0.0.1",
    "https://user%40here:pass%2Fword@127.0.0.1/path?query=1",
]

OUTSIDE = [
    ("redis://evil.example", "evil.example"),
    ("redis://EVIL.example.:6379", "evil.example"),
    (f"redis://user:{CANARY}@evil.example/0", "evil.example"),
    ("redis://127.0.0.1@evil.example", "evil.example"),
    ("redis://localhost:6379@evil.example:6379", "evil.example"),
    ("redis://[::1]@evil.example", "evil.example"),
    ("redis://localhost.evil.example", "evil.example"),
    ("redis://sub.localhost", "sub.localhost"),
    ("redis://redis", "redis"),
    ("redis://8.8.8.8", "8.8.8.8"),
    ("redis://0.0.0.0", "0.0.0.0"),  # noqa: S104 - an address to refuse
    ("redis://100.64.0.1", "100.64.0.1"),
    ("redis://172.32.0.1", "172.32.0.1"),
    ("redis://172.15.255.255", "172.15.255.255"),
    ("redis://192.169.0.1", "192.169.0.1"),
    ("redis://[::]", "::"),
    ("redis://[2001:db8::1]", "2001:db8::1"),
    ("redis://[::ffff:8.8.8.8]", "8.8.8.8"),
    ("redis://[::ffff:808:808]:6379", "8.8.8.8"),
    ("redis://[::127.0.0.1]", "::7f00:1"),
    ("redis://[64:ff9b::a00:1]", "64:ff9b::a00:1"),
    ("redis://[2002:7f00:1::]", "2002:7f00:1::"),
    ("redis://[ff02::1]", "ff02::1"),
    ("redis://127.0.0.1,evil.example", "evil.example"),
    ("redis+cluster://evil.example:1,10.0.0.1:2", "evil.example"),
    ("postgresql:///calls?host=evil.example", "evil.example"),
    ("postgresql://localhost/calls?hostaddr=8.8.8.8", "8.8.8.8"),
    ("postgresql://localhost/calls?a=b&HOST=/run,evil.example", "evil.example"),
    ("postgresql://localhost/calls?%68ost=evil.example", "evil.example"),
    ("postgresql://localhost/calls?a=b;host=evil%2Eexample", "evil.example"),
    ("postgresql://localhost?host=2001:db8::1", "2001:db8::1"),
]

UNCLEAR = [
    "x",
    "evil.example:6379",
    "localhost:6379",
    "//evil.example/x",
    "redis:",
    "redis:/localhost",
    "redis://",
    "redis:///0",
    "redis://:6379",
    f"redis://:{CANARY}@",
    f"redis://:{CANARY}@:6379/0",
    "postgresql:///calls",
    "postgresql:///calls?user=x",
    f"redis://:{CANARY}",
    f"redis://user:{CANARY}/ret@evil.example",
    f"redis://user:{CANARY}?ret@evil.example",
    f"redis://user:{CANARY}#@evil.example",
    f"redis://user:{CANARY}@ret@evil.example",
    "redis://127.0.0.1\\@evil.example",
    "redis://127.0.0.1\t@evil.example",
    "redis://127.0.0.1 ",
    "redis://127.0.0.1\n",
    "redis://127.0.0.1#,evil.example",
    "redis://127.0.0.1/x?@evil.example",
    "redis://0x7f.1",
    "redis://0x7f000001",
    "redis://127.1",
    "redis://2130706433",
    "redis://0177.0.0.1",
    "redis://127.0.0.1.",
    "redis://127.0.0.256",
    "redis://127.0.0.1.0x1",
    "redis://%6cocalhost",
    "redis://evil%2eexample",
    "redis://%252Frun",
    "postgresql://%2Frun%2Cevil.example/calls",
    "postgresql://%2Frun%00/calls",
    "redis://::1",
    "redis://[::1",
    "redis://[::1]x",
    "redis://[127.0.0.1]",
    "redis://[localhost]",
    "redis://[::1%]",
    "redis://[fe80::1%25eth0/x]",
    "redis://[v1.fe80]",
    "redis://localhost:port",
    "redis://localhost:637999",
    "redis://localhost:\u0661",
    "redis://127.0.0.\u0661",
    "redis://lo\u0441alhost",
    "redis://a..b",
    "redis://.localhost",
    "redis://-a",
    "redis://localhost..",
    "redis://10.0.0.1,,10.0.0.2",
    "redis://10.0.0.1,",
    f"redis://{'a' * 64}",
    "redis://" + ".".join(["a" * 60] * 5),
    "re_dis://localhost",
    "1redis://localhost",
    "postgresql://localhost/calls?service=evil",
    "postgresql:///calls?servicefile=/tmp/x&host=localhost",
    "postgresql:///calls?host=",
    "postgresql:///calls?host=%40abstract",
]


@pytest.mark.parametrize("address", AT_HOME)
def test_local_and_private_addresses_are_permitted(address: str) -> None:
    """Files, Unix sockets, loopback, private networks."""
    assert outbound_problem("store.url", address, ()) is None


@pytest.mark.parametrize(("address", "host"), OUTSIDE)
def test_outside_addresses_are_forbidden(address: str, host: str) -> None:
    """The sentence names the setting, the host, and what to change."""
    sentence = outbound_problem("store.url", address, ())

    assert sentence is not None
    assert sentence.startswith("sovereign.enabled is on, and store.url leads to ")
    assert f'{host}"' in sentence
    assert "to sovereign.allow, or change store.url" in sentence
    assert CANARY not in sentence


@pytest.mark.parametrize(("address", "host"), OUTSIDE)
def test_listed_addresses_are_permitted(address: str, host: str) -> None:
    """Adding what the sentence names is enough."""
    listed = [str(place) for place in destinations(address)]
    assert any(place.endswith(host) for place in listed)
    assert outbound_problem("store.url", address, listed) is None


@pytest.mark.parametrize("address", UNCLEAR)
def test_ambiguous_addresses_are_forbidden(address: str) -> None:
    """Even if every address is listed."""
    sentence = outbound_problem("calls.url", address, ["0.0.0.0/0", "::/0", "evil.example"])

    assert sentence is not None
    assert sentence.startswith("sovereign.enabled is on, and the destination of calls.url is ambiguous: ")
    assert CANARY not in sentence


def test_every_host_outside_is_named_once() -> None:
    """In the order of the address."""
    sentence = outbound_problem("store.url", "redis://b.example,127.0.0.1,a.example,b.example", ())
    assert sentence is not None
    assert "leads to b.example and a.example, which" in sentence
    assert 'add "b.example", "a.example" to sovereign.allow' in sentence


@pytest.mark.parametrize(
    ("address", "entry", "is_here"),
    [
        ("redis://redis.internal:6379", "redis.internal", True),
        ("redis://redis.internal", "REDIS.Internal.", True),
        ("redis://redis.internal", "internal", False),
        ("redis://redis.internal", "0.0.0.0/0", False),
        ("redis://evil-redis.internal", "redis.internal", False),
        ("redis://100.64.0.7", "100.64.0.7", True),
        ("redis://100.64.0.7", "100.64.0.0/10", True),
        ("redis://100.64.0.7", "100.64.0.8/30", False),
        ("redis://[2001:db8::7]", "2001:db8::/32", True),
        ("redis://[2001:db8::7]", "2001:DB8::7", True),
        ("redis://[2001:db8::7]", "0.0.0.0/0", False),
        ("redis://[::ffff:8.8.8.8]", "8.8.8.8", True),
        ("redis://8.8.8.8", "::ffff:8.8.8.8", True),
    ],
)
def test_a_list_entry_permits_exactly_what_it_names(address: str, entry: str, *, is_here: bool) -> None:
    """Whole names, single addresses, networks."""
    assert (outbound_problem("store.url", address, [entry]) is None) == is_here


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "*.example",
        "host:6379",
        "[::1]",
        "redis://x",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "0x7f.1",
        "127.1",
        "/",
        "é",
    ],
)
def test_an_invalid_list_entry_is_an_error(text: str) -> None:
    """It would permit something else than it seems to, or nothing."""
    with pytest.raises(ValueError, match=r"."):
        parse_allowed(text)


def test_single_destinations_can_be_checked() -> None:
    """As for the hosts that a Sentinel names."""
    assert is_permitted(IPv4Address("10.0.0.1"), ())
    assert is_permitted(IPv6Address("::1"), ())
    assert not is_permitted("elsewhere", ["there"])


@pytest.mark.parametrize("character", sorted(set(map(chr, range(0x250))) - set(string.ascii_letters + string.digits)))
def test_no_separator_character_hides_a_host(character: str) -> None:
    """Wherever one parser ends the host and another does not, both are checked or the address is forbidden."""
    for address in (
        f"redis://127.0.0.1{character}evil.example",
        f"redis://127.0.0.1{character}@evil.example",
        f"redis://evil.example{character}@127.0.0.1{character}.evil.example",
    ):
        harmless = character in "/?" and "@" not in address
        assert (outbound_problem("store.url", address, ()) is None) == harmless, address
