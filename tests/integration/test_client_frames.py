"""The length of the path of a hit in the blocking client, in Python frames."""

import gc
import sys
from types import FrameType
from typing import Any

from sidecard_client import Client
from sidecard_client.protocol import wire
from tests.scripted_daemon import ScriptedDaemon, hit

MAX_FRAMES = 16


def ask(prompt: str) -> str:
    """Answer."""
    return prompt


def test_a_hit_passes_few_frames(socket_path: str) -> None:
    """From `Client.call` to its return, with plain text as arguments: 25 in 0.1.0."""
    frames: list[str] = []

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            frames.append(frame.f_code.co_qualname)

    with ScriptedDaemon(socket_path) as daemon, Client(daemon.path) as client:
        daemon.always(wire.Begin, hit("value"))
        for _ in range(2):  # the second hit asks for a view, which this daemon has not
            client.call(ask, "prompt")

        gc.disable()  # which may call back
        sys.setprofile(profile)
        try:
            value = client.call(ask, "prompt")
        finally:
            sys.setprofile(None)
            gc.enable()

    assert value == "value"
    assert frames[0] == "Client.call"
    assert len(frames) <= MAX_FRAMES, frames
