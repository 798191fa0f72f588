"""A real PostgreSQL server for tests, in a directory of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.daemons import poll
from tests.servers import free_port

PASSWORD = "hunter2/@:x"
"""A password that must be escaped in a URL, and never be shown."""


def programs() -> Path:
    """Return where the newest server's programs are, which Debian has on no PATH; or skip."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version)
    if not places:
        pytest.skip("there is no PostgreSQL server: install Debian's `postgresql`")

    return places[-1]


def _version(place: Path) -> int:
    return int(place.parent.name) if place.parent.name.isdecimal() else 0


class PostgresServer:
    """One server, with the user ``app``, whose password is `PASSWORD`."""

    def __init__(self) -> None:
        self._programs = programs()
        # Not under `tmp_path`, which only its maker may enter: PostgreSQL refuses to run as root, so another user does.
        self.directory = Path(tempfile.mkdtemp(prefix="sc-pg-", dir="/tmp"))
        self.port = free_port()
        self._as: Sequence[str] = ()
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
            self._as = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")

        self._data = self.directory / "data"
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        initdb = [self._programs / "initdb", "-D", self._data, "-U", "app", f"--pwfile={secret}", "-A", "scram-sha-256"]
        made = subprocess.run(
            [*self._as, *map(str, initdb), "-E", "UTF8", "--locale=C", "--no-sync"],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.directory,
        )
        assert made.returncode == 0, made.stderr
        self.start()

    @property
    def url(self) -> str:
        """How a daemon finds it."""
        return f"postgresql://app:hunter2%2F%40%3Ax@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it; what it had is there."""
        command = [self._programs / "postgres", "-D", self._data, "-p", self.port, "-k", self.directory]
        settings = ["fsync=off", "listen_addresses=127.0.0.1", "max_connections=30", "shared_buffers=16MB"]
        options = [word for setting in settings for word in ("-c", setting)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._as, *map(str, command), *options], stdout=log, stderr=log, cwd=self.directory
            )

        poll(self._answers, f"no server in {self.directory}")

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection of its own."""
        return psycopg.connect(self.url, autocommit=True)

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement, and return its rows."""
        with self.connect() as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def stop(self) -> None:
        """End it and the connections to it."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)

    def close(self) -> None:
        """End it whatever its state, and leave nothing."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(timeout=30)

        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.directory / "log").read_text()
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False

        return True
