"""A daemon that the host allows few descriptors, and a uid that wants them all."""

import subprocess
import sys
from pathlib import Path

from sidecard.daemon.socket_server import SPARE_DESCRIPTORS
from sidecard_client.protocol import wire
from tests.daemons import ask, poll
from tests.hostile import ALICE, MALLORY, Wire, ask_as, needs_root

DESCRIPTORS = 224


def is_served(connection: Wire) -> bool:
    """Ping, and return whether there was a reply."""
    try:
        return isinstance(connection.asks(wire.Ping(id=1)), wire.Pong)
    except (OSError, AssertionError):
        return False


@needs_root
def test_few_descriptors_leave_room_for_other_uids_and_operators(socket_path: str) -> None:
    """What is reserved for them is a share of what the host allows, and not of what is configured."""
    Path(socket_path).parent.chmod(0o755)
    command = f'exec "$0" -m sidecard serve --no-state --set socket.mode=0666 --socket {socket_path}'
    limited = f"ulimit -n {DESCRIPTORS}; {command}"
    with subprocess.Popen(["/bin/sh", "-c", limited, sys.executable], stderr=subprocess.PIPE) as daemon:
        try:
            path = Path(socket_path)
            poll(lambda: path.is_socket() and bool(path.stat().st_mode & 0o002), "no socket")
            room = DESCRIPTORS - SPARE_DESCRIPTORS
            crowd = [Wire(socket_path, MALLORY) for _ in range(250)]
            assert sum(map(is_served, crowd)) == room - room // 8
            assert ask_as(ALICE, socket_path, op="ping")["type"] == "pong"
            assert ask(socket_path, {"op": "ping"})["type"] == "pong"
            for one in crowd:
                one.close()

            daemon.terminate()
            _, errors = daemon.communicate(timeout=20)
        finally:
            daemon.kill()

    assert daemon.returncode == 0
    assert b"max_peers lowered" in errors
    assert b"file descriptors exhausted" not in errors
