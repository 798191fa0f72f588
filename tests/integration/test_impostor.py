"""The fallback socket directory is in /tmp, where any user may have created it first."""

import multiprocessing
import os
import shutil
import socket
from pathlib import Path

import anyio
import pytest

from sidecard_client import AsyncClient, Client, DaemonUnavailable
from sidecard_client.protocol.socket_path import SOCKET_NAME, private_directory
from tests.daemons import Daemon

STRANGER = 65534

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="making a socket of another uid needs root")


def serve_as(uid: int, path: str, ready: "multiprocessing.synchronize.Event") -> None:
    """Accept connections as another uid, and record what clients send."""
    with socket.socket(socket.AF_UNIX) as listening:
        os.setuid(uid)
        listening.bind(path)
        listening.listen()
        ready.set()
        while True:
            listening.accept()[0].close()


def refused_by_async_client(path: str) -> str:
    """Return the error of the asynchronous client."""

    async def ask() -> str:
        async with AsyncClient(path) as client:
            with pytest.raises(DaemonUnavailable) as caught:
                await client.ping()

            return str(caught.value)

    return anyio.run(ask)


@needs_root
def test_clients_send_nothing_to_another_users_daemon_in_the_fallback_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both clients check the kernel's credentials of the server first."""
    directory = Path(private_directory(4242))
    directory.mkdir()
    os.chown(directory, STRANGER, STRANGER)
    path = str(directory / SOCKET_NAME)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    stranger = context.Process(target=serve_as, args=(STRANGER, path, ready), daemon=True)
    stranger.start()
    try:
        assert ready.wait(20)
        monkeypatch.setattr(os, "getuid", lambda: 4242)
        with Client(path) as client, pytest.raises(DaemonUnavailable, match=f"uid {STRANGER}"):
            client.ping()

        assert f"uid {STRANGER}" in refused_by_async_client(path)
    finally:
        stranger.kill()
        stranger.join()
        stranger.close()
        shutil.rmtree(directory)


@needs_root
def test_roots_daemon_in_the_fallback_directory_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root can read everything anyway."""
    directory = Path(private_directory(4243))
    directory.mkdir()
    daemon = Daemon(str(directory / SOCKET_NAME))
    try:
        monkeypatch.setattr(os, "getuid", lambda: 4243)
        with Client(daemon.socket) as client:
            assert client.ping().protocol == 1
    finally:
        daemon.close()
        shutil.rmtree(directory)
