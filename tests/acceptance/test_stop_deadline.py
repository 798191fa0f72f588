"""A daemon whose targets all hang stops in a bounded time."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sidecard.daemon.stop_deadline import STOP_SECONDS
from sidecard_client import Client
from tests.daemons import Daemon, ask, poll
from tests.many_hosts import stat
from tests.servers import RedisServer, any_program, ending

SLACK_SECONDS = 4.0
"""For the log's last lines, and a busy machine."""


@contextmanager
def silent() -> Iterator[int]:
    """Listen on a port, accept, and never reply."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(16)
        yield listening.getsockname()[1]


@pytest.mark.slow
def test_stop_is_bounded_while_redis_a_database_and_a_push_target_hang(
    daemon: Callable[..., Daemon], socket_directory: Path
) -> None:
    """What cannot be written is logged; the socket is gone, and the next daemon serves at its path."""
    pytest.importorskip("psycopg")
    server = RedisServer(socket_directory / "redis", any_program())
    with ExitStack() as stack:
        stack.enter_context(ending(server))
        database, target = stack.enter_context(silent()), stack.enter_context(silent())
        one = daemon(
            "--no-state",
            "--set=push.interval_seconds=1",
            "--set=calls.enabled=true",
            f"--set=calls.url=postgresql://u@127.0.0.1:{database}/d",
            f"--set=push.url=http://127.0.0.1:{target}/api/v1/write",
            SIDECARD_STORE_URL=server.url,
        )
        poll(lambda: stat(one, "store") == "up", "the store does not come up")
        with Client(one.socket) as sidecard:
            server.pause()
            for number in range(20):
                sidecard.call(lambda number=number: number, key=str(number))

            time.sleep(1.5)  # for a push to be under way
            began_at = time.monotonic()
            assert one.terminate(60.0) == 0

        assert time.monotonic() - began_at < STOP_SECONDS + SLACK_SECONDS
        assert not Path(one.socket).exists()
        server.resume()
        one.start_again()
        assert ask(one.socket, {"op": "ping"})["type"] == "pong"


@pytest.mark.slow
def test_stop_is_bounded_while_the_disk_hangs(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The ledger cannot be written: the daemon says so and ends, and leaves no socket."""
    (tmp_path / "sitecustomize.py").write_text("import os, time\nos.fsync = lambda _: time.sleep(1000)\n")
    one = daemon(STATE_DIRECTORY=str(tmp_path), PYTHONPATH=str(tmp_path))
    with Client(one.socket) as sidecard:
        sidecard.call(lambda: 1, key="k")

    began_at = time.monotonic()
    assert one.terminate(60.0) == 0
    assert time.monotonic() - began_at < STOP_SECONDS + SLACK_SECONDS
    assert len(one.said("stop abandoned")) == 1
    assert not Path(one.socket).exists()


@pytest.mark.slow
def test_stop_is_bounded_while_a_library_reads_a_file_that_hangs(daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """The thread that reads a target's token for the last push never ends: the process does."""
    token = tmp_path / "token"
    os.mkfifo(token)  # to open it waits for a writer
    one = daemon(
        "--set=push.url=http://127.0.0.1:9/api/v1/write",
        f"--set=push.bearer_token_file={token}",
    )
    began_at = time.monotonic()
    assert one.terminate(60.0) == 0
    assert time.monotonic() - began_at < STOP_SECONDS + SLACK_SECONDS
    assert len(one.said("stopped")) == 1
    assert one.said("stop abandoned") == []
    assert not Path(one.socket).exists()
