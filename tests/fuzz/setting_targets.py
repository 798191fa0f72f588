"""Targets among what an operator writes: the file, the environment, one value of each kind, addresses."""

import os
from contextlib import suppress

import msgspec

from sidecard.config import load as loading
from sidecard.config import store_url
from sidecard.config.model import FIXED, NAMED
from sidecard.config.reload import reconfigure
from sidecard.config.sources import Override, SettingsCollector
from sidecard.config.sovereignty import outbound_problem, parse_allowed
from sidecard.daemon.state import StateUnusableError, state_directory
from sidecard.daemon.systemd import Notifier, adopt_socket
from sidecard.errors import ConfigError, ListenError
from sidecard_client.protocol import socket_path as paths
from tests.fuzz.target import Target

SETTINGS = [*FIXED.values(), *NAMED.values()]
NAMES = [setting.name for settings in FIXED.values() for setting in settings.values()]

EXAMPLE = b"""[cache]
max_bytes = "256MiB"
ttl_seconds = 300
[store]
url = "redis://me:pass@127.0.0.1:6379/0"
[backends.cloud]
locality = "remote"
max_concurrent = 4
[backends.cloud.breaker]
failure_rate = 0.5
[tasks.rag]
backends = ["local", "cloud"]
route = "cheapest"
[budgets.day]
dollars = 1.5
period_seconds = 86400
[namespaces.team]
shared_with = [1000, "gid:100"]
[sovereign]
enabled = true
allow = ["10.0.0.0/8", "redis.internal"]
[calls]
redact = ["[0-9]{16}"]
"""


def _settings(collector: SettingsCollector) -> None:
    """All that is wrong is a sentence; what is right can be shown, and makes an engine's settings."""
    try:
        loaded = loading.assemble(collector, {})
    except ConfigError as error:
        wrong = error.problems
    else:
        wrong = ("nothing",)
        # As operators ask for them, and as they are logged.
        msgspec.json.encode(loaded.shown())
        loaded.engine_settings()
        loaded.warnings()
        reconfigure(loaded, loaded)

    assert all(wrong)


def toml(data: bytes) -> None:
    """A file of settings."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return

    collector = SettingsCollector()
    collector.add_toml("file", text)
    _settings(collector)


def environment(data: bytes) -> None:
    """Variables, one a line, as the kernel hands them over; and all else that is read from there."""
    pairs = (line.partition(b"=") for line in data.split(b"\n"))
    environ = {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs if name and b"\0" not in name + value}
    collector = SettingsCollector()
    collector.add_environment(environ)
    _settings(collector)
    Notifier(environ, 1)
    with suppress(ListenError, StateUnusableError, ValueError):
        # Without an owner: descriptors passed to this process are not the daemon's.
        adopt_socket(environ | {"LISTEN_PID": "0"}, 1)
        state_directory(environ)
        paths.find_socket(None, environ, uid=1)
        paths.listening_socket(None, environ, uid=1)


def values(data: bytes) -> None:
    """The text of one setting, as a flag has it: a value or a `ValueError`, which becomes a sentence."""
    which, text = data[:1], data[1:]
    number = which[0] if which else 0
    collector = SettingsCollector()
    collector.add_override(Override(NAMES[number % len(NAMES)], os.fsdecode(text), "--set"))
    _settings(collector)


def addresses(data: bytes) -> None:
    """An address: one that a sovereign daemon may open leads where all its readers say."""
    text = os.fsdecode(data)
    try:
        parsed = store_url.parse(text)
    except ValueError as error:
        said = str(error)
    else:
        said = ""
        # Nothing else than what was parsed decides about sovereignty than what is connected to.
        hosts = parsed.hosts if isinstance(parsed, store_url.RedisAddress) else ()
        if hosts and outbound_problem("store.url", text, ()) is None:
            for host, _ in hosts:
                assert (
                    outbound_problem("store.url", f"redis://[{host}]" if ":" in host else f"redis://{host}", ()) is None
                ), host

    assert ":hunter2@" not in text or "hunter2" not in said, said
    sentence = outbound_problem("push.url", text, ())
    if ":hunter2@" in text and text.count("hunter2") == 1:
        assert "hunter2" not in (sentence or ""), sentence

    with suppress(ValueError):
        parse_allowed(text)


def _environment_seeds() -> list[bytes]:
    return [
        b"REDIS_URL=redis://me:pass@127.0.0.1:6379/0\nCACHE_TTL=300\nSOVEREIGN_MODE=true\nMETRICS_ENABLED=0",
        b'SIDECARD_TASKS={"rag": {"ttl_seconds": 60}}\nSIDECARD_OPERATORS_UIDS=[1, 2]\nSIDECARD_LIMITS_MAX_PEERS=10',
        b'SIDECARD_BACKENDS={"a": {"breaker": {"probes": 2}}}\nSIDECARD_CALLS_REDACT=["a+"]',
        b"WATCHDOG_USEC=30000000\nWATCHDOG_PID=1\nNOTIFY_SOCKET=@a\nLISTEN_FDS=1\nLISTEN_PID=2\nSTATE_DIRECTORY=/a:/b",
        b"SIDECARD_SOCKET=/run/a\nRUNTIME_DIRECTORY=/run/a:/b\nXDG_RUNTIME_DIR=/run/user/1\nHOME=/home/a",
    ]


def _value_seeds() -> list[bytes]:
    texts = (
        b"1",
        b"1.5GiB",
        b"true",
        b"0660",
        b"a,b",
        b"[1, 2]",
        b'["a"]',
        b"all",
        b"1e9",
        b"/a/b",
        b"127.0.0.1:9464",
        b"",
    )
    return [bytes((number,)) + texts[number % len(texts)] for number in range(len(NAMES))]


def _address_seeds() -> list[bytes]:
    return [
        b"redis://me:hunter2@127.0.0.1:6379/0", b"rediss://[::1]:6379", b"unix:///run/redis.sock?db=1", b"sqlite:/a/b",
        b"redis+sentinel://10.0.0.1:1,10.0.0.2:2/name/0", b"redis+cluster://localhost:1,10.0.0.9", b"none",
        b"postgresql://u:hunter2@/db?host=/run/pg&hostaddr=127.0.0.1", b"https://h.example/api/v1/write", b"fe80::1%eth0",
    ]  # fmt: skip


_NAMES = tuple(name.encode() for name in NAMES)
_VARIABLES = tuple(f"SIDECARD_{name.replace('.', '_').upper()}=".encode() for name in NAMES)
_WORDS = (
    b"true",
    b"[",
    b"{",
    b'"',
    b"1e400",
    b"9" * 40,
    b"inf",
    b"nan",
    b"MiB",
    b"0o660",
    b"= [",
    b"://",
    b"%00",
    b"@",
)

SETTING_TARGETS = (
    Target("toml", toml, lambda: [EXAMPLE], (*(name.partition(b".")[2] for name in _NAMES), *_WORDS)),
    Target("environment", environment, _environment_seeds, (*_VARIABLES, *_WORDS)),
    Target("values", values, _value_seeds, _WORDS, 600),
    Target(
        "addresses",
        addresses,
        _address_seeds,
        (b"hunter2", b"redis://", b"localhost", b"127.0.0.1", b"[::1]", *_WORDS),
        300,
    ),
)
