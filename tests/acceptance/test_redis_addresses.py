"""All that ``store.url`` may lead to, for real: passwords, users, certificates, sentinels, a cluster."""

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sidecard_client import Client
from tests.daemons import Daemon, ask, poll
from tests.many_hosts import Start, hosts, reasons, stat
from tests.servers import Cluster, RedisServer, Sentinels, any_program, certificates, ending, free_port, hosts_program

SECRET = "correct-horse"


@pytest.mark.parametrize("place", ["in a file", "in the environment", "in the address"])
def test_redis_password_from_any_place_is_used_and_never_shown(
    daemon: Start, socket_directory: Path, tmp_path: Path, place: str
) -> None:
    """Each way to give the password works, and no output shows it."""
    server = RedisServer(socket_directory / "redis", any_program(), port=free_port(), requirepass=SECRET)
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    url, environ = server.url, dict[str, str]()
    if place == "in the address":
        url = f"redis://:{SECRET}@127.0.0.1:{server.port}/0"
    elif place == "in a file":
        environ = {"SIDECARD_STORE_PASSWORD_FILE": str(file)}
    else:
        environ = {"SIDECARD_STORE_PASSWORD": SECRET}

    with ending(server):
        (one,) = hosts(daemon, 1, url, **environ)
        assert SECRET not in json.dumps(ask(one.socket, {"op": "config"}))
        assert SECRET not in one.output()


def test_wrong_redis_password_is_reported_without_it(daemon: Start, socket_directory: Path) -> None:
    """The daemon serves and reports the fault without the password."""
    server = RedisServer(socket_directory / "redis", any_program(), requirepass=SECRET)
    with ending(server):
        one = daemon("--no-state", SIDECARD_STORE_URL=server.url, SIDECARD_STORE_PASSWORD="battery-staple")
        poll(lambda: stat(one, "store") == "down", "the store is not down")
        assert "does not let us in" in reasons(one)
        assert "store.password_file" in reasons(one)
        assert ask(one.socket, {"op": "begin", "key": "k"})["type"] == "lease"
        shown = reasons(one) + one.output() + json.dumps(ask(one.socket, {"op": "config"}))
        assert "battery-staple" not in shown
        assert SECRET not in shown


def test_redis_user_with_documented_rights_suffices(daemon: Start, socket_directory: Path) -> None:
    """A user with the rights that the documentation names can use the store."""
    server = RedisServer(socket_directory / "redis", any_program())
    with ending(server), server.client() as client:
        rules = "on ~sidecard* resetchannels &sidecard* +@read +@write +@scripting +@pubsub +@connection +@fast"
        client.execute_command("ACL", "SETUSER", "sidecard", *rules.split(), f">{SECRET}")
        environ = {"SIDECARD_STORE_USERNAME": "sidecard", "SIDECARD_STORE_PASSWORD": SECRET}
        one, other = hosts(daemon, 2, server.url, **environ)
        ask(one.socket, {"op": "put", "key": "k", "value": "v", "tags": ["t"]})
        poll(lambda: ask(other.socket, {"op": "get", "key": "k"})["type"] == "hit", "the entry does not arrive")
        assert ask(other.socket, {"op": "begin", "key": "new"})["type"] == "lease"
        assert ask(other.socket, {"op": "purge", "tag": "t"})["count"] == 1
        assert stat(one, "store") == stat(other, "store") == "up"


@pytest.mark.slow
def test_redis_tls_checks_certificates_of_both_sides(daemon: Start, socket_directory: Path) -> None:
    """With both certificates the store is up; without the client's or with another authority's it is down, with the reason."""
    files = certificates(socket_directory / "certificates")
    directory = socket_directory / "redis"
    directory.mkdir()
    (directory / "tls").touch()
    port = free_port()
    server = RedisServer(
        directory,
        hosts_program(),
        tls_port=port,
        tls_cert_file=files["server.crt"],
        tls_key_file=files["server.key"],
        tls_ca_cert_file=files["ca.crt"],
        tls_auth_clients="yes",
    )
    url = f"rediss://127.0.0.1:{port}/0"
    trust = {"SIDECARD_STORE_CA_FILE": str(files["ca.crt"])}
    own = {"SIDECARD_STORE_CERT_FILE": str(files["client.crt"]), "SIDECARD_STORE_KEY_FILE": str(files["client.key"])}
    with ending(server):
        one, other = hosts(daemon, 2, url, **trust, **own)
        ask(one.socket, {"op": "put", "key": "k", "value": "v"})
        poll(lambda: ask(other.socket, {"op": "get", "key": "k"})["type"] == "hit", "the entry does not arrive")
        for environ in (trust, own):
            wrong = daemon("--no-state", SIDECARD_STORE_URL=url, **environ)
            poll(lambda wrong=wrong: stat(wrong, "store") == "down", "the store is not down")  # type: ignore[misc]


def test_invalid_redis_address_prevents_the_start(socket_path: str) -> None:
    """The error is one sentence without the address."""
    command = [
        sys.executable,
        "-m",
        "sidecard",
        "serve",
        "--socket",
        socket_path,
        "--set",
        f"store.url=redi://:{SECRET}@h",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 78
    assert "store.url" in ended.stderr
    assert SECRET not in ended.stderr


class Load:
    """Callers of two hosts, which count the calls that reach the upstream."""

    def __init__(self, daemons: list[Daemon]) -> None:
        self.upstream: Counter[int] = Counter()
        self.wrong: list[object] = []
        self.calls = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(one.socket, seed)) for seed, one in enumerate(daemons * 3)
        ]

    @contextmanager
    def going_on(self) -> Iterator[None]:
        """Call for as long as this lasts."""
        for thread in self._threads:
            thread.start()

        try:
            yield
        finally:
            self._over.set()
            for thread in self._threads:
                thread.join()

    def summary(self) -> str:
        """Say what came of it."""
        duplicates = sum(self.upstream.values()) - len(self.upstream)
        return f"{self.calls} calls of {len(self.upstream)} keys, {duplicates} made more than once"

    def _made(self, key: int) -> str:
        with self._lock:
            self.upstream[key] += 1

        time.sleep(0.01)
        return f"answer {key}"

    def _call(self, path: str, seed: int) -> None:
        chance = random.Random(seed)
        with Client(path) as sidecard:
            while not self._over.is_set():
                key = chance.randrange(3000)
                answer = sidecard.call(self._made, key, name="upstream")
                self.calls += 1
                if answer != f"answer {key}":
                    self.wrong.append((key, answer))


@pytest.mark.slow
def test_sentinel_failover_under_load_fails_no_call(daemon: Start, socket_directory: Path) -> None:
    """After the primary is killed, the daemons find the next one and write pending entries there."""
    sentinels = Sentinels(socket_directory, hosts_program())
    with ending(sentinels):
        daemons = hosts(daemon, 2, sentinels.url)
        load = Load(daemons)
        with load.going_on():
            time.sleep(1.0)
            port = sentinels.primary()
            next(one for one in sentinels.servers if one.port == port).kill()
            poll(lambda: sentinels.primary() != port, "the sentinels choose nobody", 30.0)
            for one in daemons:
                poll(lambda one=one: stat(one, "store") == "up", "the store is not up again", 30.0)  # type: ignore[misc]

            time.sleep(1.0)

        print("failover:", load.summary())
        assert load.wrong == []
        assert load.calls > 100
        for one in daemons:
            poll(lambda one=one: stat(one, "store_pending") == 0, "writes are left")  # type: ignore[misc]


@pytest.mark.slow
def test_cluster_slots_moved_under_load_fail_no_call(daemon: Start, socket_directory: Path) -> None:
    """Four hundred slots move between three nodes under load, and no call fails."""
    cluster = Cluster(socket_directory, hosts_program())
    with ending(cluster):
        daemons = hosts(daemon, 2, cluster.url)
        load = Load(daemons)
        with load.going_on():
            time.sleep(1.0)
            for slot in range(0, 16384, 41):
                source = cluster.owner(slot)
                cluster.move(slot, source, (source + 1) % 3, 0.002)

            time.sleep(1.0)

        print("resharding:", load.summary())
        assert load.wrong == []
        assert load.calls > 100
        for one in daemons:
            poll(lambda one=one: stat(one, "store") == "up", "the store is not up")  # type: ignore[misc]

        ask(daemons[0].socket, {"op": "put", "key": "k", "value": "v", "tags": ["t"]})
        poll(lambda: ask(daemons[1].socket, {"op": "get", "key": "k"})["type"] == "hit", "the entry does not arrive")
        assert ask(daemons[1].socket, {"op": "purge", "tag": "t"}, seconds=30.0)["count"] == 1
